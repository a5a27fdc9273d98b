//! One replicate: launch a fresh instance, wait for what it says and for its end, clean up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare_workload::{Report, Workload};

use super::attendant::Attendant;
use crate::backend::{self, Books, Instance, Notice, Prepared, Stamped};
use crate::clock::now_ns;
use crate::interrupt;
use crate::results::{Better, Edge, MemoryUsage, MetricSamples, Sample};

/// How to run a replicate.
#[derive(Clone, Copy)]
pub struct Conduct {
    /// What the box runs; it knows the metrics that the agent may report.
    pub workload: &'static dyn Workload,
    /// Weigh the box while it rests after `done`; the job must hold long enough.
    pub weigh: bool,
    /// After this long the box is killed and the replicate counts as failed.
    pub timeout: Duration,
}

/// A replicate that gave no sample.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The box did not end in time.
    #[error("no end after {seconds} s; last edge: {last}")]
    Timeout {
        /// The limit, in seconds.
        seconds: u64,
        /// The last edge that was seen.
        last: String,
    },
    /// The agent or the VMM said why it gave up.
    #[error("{0}")]
    Box(String),
    /// The box ended without saying why.
    #[error("the box ended with exit code {code} before the edge '{missing}'{console}")]
    Silent {
        /// The exit code of its first host process.
        code: i32,
        /// The first edge that never came.
        missing: &'static str,
        /// What its console said last, if anything.
        console: String,
    },
    /// The box ended in the middle of a message.
    #[error("the box ended in the middle of a message to the host")]
    CutShort,
    /// A VMM ended, and its guest never said how the agent ended.
    #[error("the guest ended without an exit status: it crashed, or was reset")]
    NoExitStatus,
    /// The agent sent no report, and the workload has metrics.
    #[error("the agent sent no report of the workload '{0}'")]
    NoReport(&'static str),
    /// The agent's report cannot be understood.
    #[error("the agent's report cannot be read: {0}")]
    Report(String),
    /// The harness could not wait.
    #[error("cannot wait for the box: {0}")]
    Wait(io::Error),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What one instance said and did.
#[derive(Debug, Default)]
struct Record {
    sample: Sample,
    launch_ns: u64,
    report: Option<Vec<u8>>,
    failure: Option<String>,
    own_exit_code: Option<i32>,
    console: Vec<u8>,
}

/// Reads from a channel after the box's end: more than a pipe holds.
const LAST_READS: u32 = 64;
/// Console text kept for a failure's message.
const CONSOLE_TAIL_BYTES: usize = 1500;

/// Launches one instance and follows it to its end.
///
/// `attendant` gets what the box's command writes.
///
/// # Errors
/// [`Error`]; whatever it is, the instance is gone and what it held is given back.
pub fn replicate(
    prepared: &dyn Prepared,
    conduct: Conduct,
    attendant: &mut dyn Attendant,
) -> Result<Sample, Error> {
    let before = if conduct.weigh { Books::read().ok() } else { None };
    let mut record = Record { launch_ns: now_ns(), ..Record::default() };
    record.sample.edges_ns.insert(Edge::Launch, 0);
    let mut instance = prepared.launch()?;
    if let Err(error) = follow(instance.as_mut(), conduct, before, &mut record, attendant) {
        instance.kill();
        let _ = instance.reap();
        let _ = instance.clean();
        return Err(error);
    }
    let reaped = instance.reap()?;
    record.stamp(Edge::Exit, now_ns());
    drain(instance.as_mut(), &mut record, attendant)?;
    let speaks_for_itself = instance.speaks_for_itself();
    instance.clean()?;
    record.stamp(Edge::Clean, now_ns());
    record.sample.peak_rss_bytes = reaped.peak_rss_bytes;
    record.finish(reaped.code, speaks_for_itself, conduct.workload)
}

/// Waits, without polling, until the first process has ended.
fn follow(
    instance: &mut dyn Instance,
    conduct: Conduct,
    before: Option<Books>,
    record: &mut Record,
    attendant: &mut dyn Attendant,
) -> Result<(), Error> {
    let deadline_ns =
        record.launch_ns + u64::try_from(conduct.timeout.as_nanos()).unwrap_or(u64::MAX / 2);
    loop {
        let (ended, ready) = wait(instance, deadline_ns, attendant).map_err(Error::Wait)?;
        let woke_ns = now_ns();
        attendant.serve(instance).map_err(Error::Wait)?;
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        let was_done = record.sample.edges_ns.contains_key(&Edge::Done);
        for index in ready {
            instance.channels()[index]
                .read(woke_ns, &mut |stamped| record.take(stamped, attendant))?;
        }
        let is_done = record.sample.edges_ns.contains_key(&Edge::Done);
        if conduct.weigh && is_done && !was_done {
            record.sample.memory = Some(weigh(instance, before).map_err(Error::Wait)?);
        }
        if ended {
            return Ok(());
        }
        if now_ns() > deadline_ns {
            let last = record.sample.edges_ns.iter().max_by_key(|(_, ns)| **ns);
            let last = last.map_or("none", |(edge, _)| edge.name()).to_owned();
            return Err(Error::Timeout { seconds: conduct.timeout.as_secs(), last });
        }
    }
}

/// Sleeps until something happens; says whether the process ended and which channels have news.
fn wait(
    instance: &mut dyn Instance,
    deadline_ns: u64,
    attendant: &dyn Attendant,
) -> io::Result<(bool, Vec<usize>)> {
    let left_ms = deadline_ns.saturating_sub(now_ns()).div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(left_ms.min(i32::MAX as u64)).unwrap_or(PollTimeout::MAX);
    let channel_fds: Vec<(usize, i32)> = {
        use std::os::fd::AsRawFd;
        let channels = instance.channels().iter().enumerate();
        let heard = channels.take_while(|_| !attendant.is_full());
        heard.filter_map(|(index, channel)| Some((index, channel.fd()?.as_raw_fd()))).collect()
    };
    let mut fds = vec![PollFd::new(instance.pidfd(), PollFlags::POLLIN)];
    fds.extend(channel_fds.iter().map(|(_, fd)| {
        // SAFETY: the channel owns the descriptor and is not touched while `fds` lives.
        PollFd::new(unsafe { BorrowedFd::borrow_raw(*fd) }, PollFlags::POLLIN)
    }));
    fds.extend(attendant.polls(instance));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    let ready = channel_fds.iter().zip(&fds[1..]).filter(|(_, fd)| is_ready(fd));
    Ok((is_ready(&fds[0]), ready.map(|((index, _), _)| *index).collect()))
}

/// Reads what is still in the channels of an ended instance, to their ends.
fn drain(
    instance: &mut dyn Instance,
    record: &mut Record,
    attendant: &mut dyn Attendant,
) -> Result<(), Error> {
    for channel in instance.channels() {
        // A descendant that outlives the box's first process must not hold the harness up, be it
        // silent or talkative.
        for _ in 0..LAST_READS {
            let Some(fd) = channel.fd() else { break };
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(0) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Wait(errno.into())),
            }
            channel.read(now_ns(), &mut |stamped| record.take(stamped, attendant))?;
        }
        if channel.is_inside_message() {
            return Err(Error::CutShort);
        }
    }
    Ok(())
}

fn weigh(instance: &dyn Instance, before: Option<Books>) -> io::Result<MemoryUsage> {
    let mut usage = instance.scale().weigh()?;
    if let (Some(before), Ok(after)) = (before, Books::read()) {
        after.settle(&before, &mut usage);
    }
    Ok(usage)
}

/// Reads the agent's report; a metric that the workload does not declare is refused.
fn interpret(text: &[u8], workload: &dyn Workload) -> Result<Vec<MetricSamples>, Error> {
    let report = Report::decode(text).map_err(|error| Error::Report(error.to_string()))?;
    let interpreted = report.metrics().iter().map(|metric| {
        let spec = workload
            .metrics()
            .iter()
            .find(|spec| spec.name == metric.name && spec.unit == metric.unit);
        let spec = spec.ok_or_else(|| {
            Error::Report(format!(
                "'{}' is no metric of the workload '{}'",
                metric.name,
                workload.name()
            ))
        })?;
        let better = match spec.better {
            tare_workload::Better::Lower => Better::Lower,
            tare_workload::Better::Higher => Better::Higher,
        };
        Ok(MetricSamples { better, ..MetricSamples::from(metric) })
    });
    interpreted.collect()
}

impl Record {
    fn stamp(&mut self, edge: Edge, at_ns: u64) {
        // The first passing counts: a box cannot move an edge by announcing it twice.
        self.sample.edges_ns.entry(edge).or_insert(at_ns.saturating_sub(self.launch_ns));
    }

    fn take(&mut self, stamped: Stamped, attendant: &mut dyn Attendant) {
        match stamped.notice {
            Notice::Edge(edge) => self.stamp(edge, stamped.at_ns),
            // The agent itself times a series of these, and reports it.
            Notice::Probe => {}
            Notice::Report(text) => self.report = Some(text),
            Notice::Output(is_stderr, bytes) => attendant.output(is_stderr, &bytes),
            Notice::Taken(bytes) => attendant.taken(bytes),
            Notice::Console(bytes) => {
                self.console.extend_from_slice(&bytes);
                let excess = self.console.len().saturating_sub(CONSOLE_TAIL_BYTES);
                self.console.drain(..excess);
            }
            Notice::ExitCode(code) => self.own_exit_code = Some(code),
            Notice::Failure(why) => self.failure = Some(why),
            Notice::VmExits(exits) => self.sample.vm_exits = Some(exits.into_iter().collect()),
            Notice::VmTimes(times) => self.sample.vm_times_ns = Some(times.into_iter().collect()),
        }
    }

    fn finish(
        mut self,
        process_code: i32,
        speaks_for_itself: bool,
        workload: &dyn Workload,
    ) -> Result<Sample, Error> {
        self.sample.exit_code = match (speaks_for_itself, self.own_exit_code) {
            (true, Some(code)) => code,
            _ => process_code,
        };
        if let Some(why) = self.failure.take() {
            return Err(Error::Box(why));
        }
        let missing = [Edge::Init, Edge::Ready, Edge::Done]
            .into_iter()
            .find(|edge| !self.sample.edges_ns.contains_key(edge));
        if let Some(missing) = missing {
            let console = match String::from_utf8_lossy(&self.console).trim() {
                "" => String::new(),
                text => format!("; its console said: {text}"),
            };
            return Err(Error::Silent {
                code: self.sample.exit_code,
                missing: missing.name(),
                console,
            });
        }
        if speaks_for_itself && self.own_exit_code.is_none() {
            return Err(Error::NoExitStatus);
        }
        match self.report.take() {
            Some(text) => self.sample.metrics = interpret(&text, workload)?,
            None if workload.metrics().is_empty() => {}
            None => return Err(Error::NoReport(workload.name())),
        }
        Ok(self.sample)
    }
}
