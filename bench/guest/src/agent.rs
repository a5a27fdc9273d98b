//! What the agent does, from the `init` mark to the end of the box.
//!
//! 1. It reads the job from its arguments; a copy of a parked guest then takes on its own identity, and
//!    the job that the host has for it, if there is one. The job may say who it is on its network.
//! 2. In a microVM it inserts modules, if the job names any, and mounts what the job needs. It opens
//!    the socket of the command's streams, if
//!    the job names one.
//! 3. It lets the workload prepare.
//! 4. `ready`; the workload runs; `done`.
//! 5. It stays idle for as long as the job says, so that the host can weigh the box.
//! 6. It sends the report, if there is anything in it, and ends the box.
//!
//! An error at any step is sent as an error frame, and the box ends with the status that stands for
//! it. A microVM sends its exit status as a frame; a process has one of its own.

use alloc::string::String;
use alloc::vec::Vec;

use tare_workload::{
    Context, Env, Errno, Error, FrameKind, Job, JobError, Mark, Outlet, Params, Report, Stdio,
    Workload, find,
};

use crate::end::{end, report_error};
use crate::line;
use crate::modules;
use crate::mount::{Mounts, change_root, make_directory};
use crate::network::take_on;
use crate::outlet::Port;
use crate::renewal::renew;

/// Why the agent could not do its job.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// An argument is not UTF-8.
    #[error("argument {0} of the agent is not UTF-8")]
    NotText(usize),
    /// What the host has for a restored guest is not UTF-8.
    #[error("the host's message to this restored guest is not UTF-8")]
    OddMessage,
    /// The arguments are no job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// No workload has this name.
    #[error("there is no workload '{0}'; there are: {1}")]
    NoWorkload(String, String),
    /// A workload failed, or what it needs could not be set up.
    #[error(transparent)]
    Workload(#[from] Error),
}

impl AgentError {
    fn exit_status(&self) -> i32 {
        match self {
            AgentError::Workload(error) => error.exit_status(),
            _ => 125,
        }
    }
}

/// Does the job and ends the box.
pub(crate) fn main(port: Port, arguments: impl Iterator<Item = &'static [u8]>) -> ! {
    let mut mounts = Mounts::default();
    let status = match work(port, arguments, &mut mounts) {
        Ok(status) => status,
        Err(error) => {
            report_error(port, &error);
            error.exit_status()
        }
    };
    end(port, status, mounts.is_writable)
}

fn work(
    port: Port,
    arguments: impl Iterator<Item = &'static [u8]>,
    mounts: &mut Mounts,
) -> Result<i32, AgentError> {
    let words = arguments
        .enumerate()
        .map(|(index, word)| core::str::from_utf8(word).map_err(|_| AgentError::NotText(index + 1)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut job = Job::parse(words)?;
    if job.parks {
        let message = renew()?;
        if !message.is_empty() {
            let text = core::str::from_utf8(&message).map_err(|_| AgentError::OddMessage)?;
            job = Job::parse(text.split(' '))?;
        }
    }
    if let Some(network) = &job.network {
        take_on(network)?;
    }
    let workload = find(&job.workload).ok_or_else(|| no_workload(&job.workload))?;
    let params = Params::new(workload, &job.parameters).map_err(Error::from)?;
    if port.is_machine() {
        furnish(&job, workload, mounts)?;
    } else if let Some(directory) = &job.root {
        change_root(directory)?;
    }
    let stdio = match job.stdio {
        Some(line) => Stdio::Conversation { fd: line::open(line)?, terminal: job.terminal },
        None if port.is_machine() => Stdio::Frames,
        None => Stdio::Inherit,
    };
    let env = Env {
        outlet: &port,
        scratch: job.scratch.as_deref(),
        peer: job.peer,
        command: &job.command,
        stdio,
    };
    let mut report = Report::new();
    let mut prepared = workload.prepare(&params, &env)?;
    port.mark(Mark::Ready);
    let result = prepared.run(&mut report);
    port.mark(Mark::Done);
    // Files are removed now, not left to the end of the process, which runs no destructors.
    drop(prepared);
    let status = result?;
    hold(job.hold_ms);
    if !report.is_empty() {
        port.frame(FrameKind::Report, report.encode().as_bytes())
            .on("write", "the channel to the host")?;
    }
    Ok(status)
}

/// Mounts what the job needs in a machine that has nothing but its initial RAM file system.
fn furnish(job: &Job, workload: &dyn Workload, mounts: &mut Mounts) -> Result<(), Error> {
    if let Some(list) = &job.modules {
        modules::insert(list)?;
    }
    if let Some(device) = &job.root {
        mounts.root(device)?;
    }
    if workload.needs_proc() {
        mounts.proc()?;
    }
    if !job.command.is_empty() {
        mounts.devices()?;
        mounts.sys()?;
    }
    if job.terminal.is_some() {
        mounts.terminals()?;
    }
    if let Some(directory) = &job.scratch {
        match &job.scratch_device {
            Some(device) => mounts.disk(device, directory)?,
            None => make_directory(directory)?,
        }
    }
    Ok(())
}

fn no_workload(name: &str) -> AgentError {
    let known: Vec<_> = tare_workload::all().iter().map(|workload| workload.name()).collect();
    AgentError::NoWorkload(name.into(), known.join(", "))
}

fn hold(hold_ms: u32) {
    let mut rest = libc::timespec {
        tv_sec: i64::from(hold_ms / 1000),
        tv_nsec: i64::from(hold_ms % 1000) * 1_000_000,
    };
    let mut sleep = || {
        // SAFETY: `rest` is valid for reading and writing.
        unsafe { libc::nanosleep(&raw const rest, &raw mut rest) }
    };
    while hold_ms > 0 && sleep() == -1 && Errno::last() == Errno(libc::EINTR) {}
}
