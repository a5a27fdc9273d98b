//! Boxes that live together: launched one by one, heard all at once, by one thread.
//!
//! One thread, because a VMM is forked from a process of one. So while a box is being launched no
//! other is heard: a mark that this process stamps is late by at most one launch. Our own VMM stamps
//! its guest's marks itself.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::time::TimeSpec;

use crate::backend::{self, Instance, Notice, Prepared, Stamped};
use crate::clock::now_ns;
use crate::interrupt;
use crate::results::{Edge, MemoryUsage};

/// Why boxes could not be waited for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A box did not do what it was launched for.
    #[error("box {number}: {why}")]
    Box {
        /// Which, from 1.
        number: usize,
        /// What happened.
        why: String,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The host cannot be waited on.
    #[error("cannot wait for boxes: {0}")]
    Wait(#[from] io::Error),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Boxes in the order of their launches. Whatever happens, they end with it.
#[derive(Default)]
pub(super) struct Crowd {
    members: Vec<Member>,
}

/// One of them, and what it has shown.
pub(super) struct Member {
    /// `None` once it is gone.
    instance: Option<Box<dyn Instance>>,
    /// When it passed each edge, by the host's clock.
    edges_ns: BTreeMap<Edge, u64>,
    exit_code: Option<i32>,
    failure: Option<String>,
}

/// How long the end of one box took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TearDown {
    /// From the kill to the end of its first process.
    pub(super) end_ns: u64,
    /// From there until all that it held is given back.
    pub(super) clean_ns: u64,
}

/// Reads of an ended box's channel: more than a pipe holds.
const LAST_READS: u32 = 64;

impl Crowd {
    /// How many have been launched.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// How many live.
    pub(super) fn living(&self) -> usize {
        self.members.iter().filter(|member| member.instance.is_some()).count()
    }

    /// When a box passed an edge, by the host's clock.
    pub(super) fn passed_ns(&self, index: usize, edge: Edge) -> Option<u64> {
        self.members.get(index)?.edges_ns.get(&edge).copied()
    }

    /// How long each took from launch to init, in the order of launches.
    pub(super) fn starts_ns(&self) -> Vec<f64> {
        (0..self.len()).filter_map(|index| self.start_ns(index)).collect()
    }

    /// How long a box took from launch to init.
    pub(super) fn start_ns(&self, index: usize) -> Option<f64> {
        let (launch, init) =
            (self.passed_ns(index, Edge::Launch)?, self.passed_ns(index, Edge::Init)?);
        Some(init.saturating_sub(launch) as f64)
    }

    /// Launches one more. The edge `launch` is just before.
    pub(super) fn launch(&mut self, prepared: &dyn Prepared) -> Result<(), backend::Error> {
        let launch_ns = now_ns();
        let instance = prepared.launch()?;
        self.members.push(Member {
            instance: Some(instance),
            edges_ns: [(Edge::Launch, launch_ns)].into(),
            exit_code: None,
            failure: None,
        });
        Ok(())
    }

    /// Launches one more, and waits until it has run its workload.
    pub(super) fn add(&mut self, prepared: &dyn Prepared, timeout: Duration) -> Result<(), Error> {
        prepared.reset()?;
        self.launch(prepared)?;
        let newest = self.len() - 1;
        self.until(newest..newest + 1, Edge::Done, timeout)
    }

    /// Waits until every box of the range has passed an edge.
    pub(super) fn until(
        &mut self,
        range: Range<usize>,
        edge: Edge,
        timeout: Duration,
    ) -> Result<(), Error> {
        let deadline_ns = now_ns() + u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX / 2);
        loop {
            let box_error = |index: usize, why: String| Error::Box { number: index + 1, why };
            let members =
                || range.clone().filter_map(|index| Some((index, self.members.get(index)?)));
            if let Some((index, why)) =
                members().find_map(|(index, it)| Some((index, it.trouble()?)))
            {
                return Err(box_error(index, why));
            }
            let is_missing = |(_, member): &(usize, &Member)| !member.edges_ns.contains_key(&edge);
            let Some((missing, _)) = members().find(is_missing) else { return Ok(()) };
            if now_ns() > deadline_ns {
                let why = format!("it had not come to the edge '{}' in time", edge.name());
                return Err(box_error(missing, why));
            }
            self.attend(range.clone(), deadline_ns)?;
        }
    }

    /// Sleeps until a box of the range has something to say or ends, or until the time comes; hears
    /// them all, and gives back what the ended ones held.
    pub(super) fn attend(&mut self, range: Range<usize>, until_ns: u64) -> Result<(), Error> {
        let mut watched: Vec<(usize, Option<usize>, RawFd)> = Vec::new();
        for index in range {
            let Some(instance) = self.members.get_mut(index).and_then(|it| it.instance.as_mut())
            else {
                continue;
            };
            watched.push((index, None, instance.pidfd().as_raw_fd()));
            for (number, channel) in instance.channels().iter().enumerate() {
                let fd = channel.fd().map(|fd| fd.as_raw_fd());
                watched.extend(fd.map(|fd| (index, Some(number), fd)));
            }
        }
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            // SAFETY: the members own the descriptors and are not touched while `fds` lives.
            .map(|(.., fd)| PollFd::new(unsafe { BorrowedFd::borrow_raw(*fd) }, PollFlags::POLLIN))
            .collect();
        let left = TimeSpec::from_duration(Duration::from_nanos(until_ns.saturating_sub(now_ns())));
        match ppoll(&mut fds, Some(left), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Wait(errno.into())),
        }
        let woke_ns = now_ns();
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        // What they say first, then who has ended: the last words of a box are in its channel.
        let news = || watched.iter().zip(&ready).filter(|(_, is_ready)| **is_ready);
        for ((index, number, _), _) in news() {
            if let Some(number) = number {
                self.members[*index].hear(*number, woke_ns)?;
            }
        }
        for ((index, number, _), _) in news() {
            if number.is_none() {
                self.members[*index].bury()?;
            }
        }
        Ok(())
    }

    /// Each living box's own account.
    pub(super) fn weigh(&self) -> io::Result<Vec<MemoryUsage>> {
        let living = self.members.iter().filter_map(|member| member.instance.as_ref());
        living.map(|instance| instance.scale().weigh()).collect()
    }

    /// Ends the living one after the other, each while the others live, and says how long each took.
    pub(super) fn tear_down(&mut self) -> Result<Vec<TearDown>, Error> {
        let mut times = Vec::new();
        for member in &mut self.members {
            let Some(instance) = member.instance.as_mut() else { continue };
            let killed_ns = now_ns();
            instance.kill();
            let mut fds = [PollFd::new(instance.pidfd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
            member.bury()?;
            let at = |edge: Edge| member.edges_ns.get(&edge).copied().unwrap_or(killed_ns);
            times.push(TearDown {
                end_ns: at(Edge::Exit).saturating_sub(killed_ns),
                clean_ns: at(Edge::Clean).saturating_sub(at(Edge::Exit)),
            });
        }
        Ok(times)
    }

    /// Ends all at once, and gives back what they hold.
    pub(super) fn end(&mut self) -> Result<(), backend::Error> {
        let mut instances: Vec<_> =
            self.members.iter_mut().filter_map(|member| member.instance.take()).collect();
        // All at once first: the kernel takes a VM apart in milliseconds.
        for each in &mut instances {
            each.kill();
        }
        let mut result = Ok(());
        for mut each in instances {
            let ended = each.reap().and_then(|_| each.clean());
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // An error is on its way already.
        let _ = self.end();
    }
}

impl Member {
    /// What went wrong with it, if something did.
    fn trouble(&self) -> Option<String> {
        let has_ended = self.instance.is_none();
        match (&self.failure, has_ended, self.exit_code) {
            (Some(why), ..) => Some(why.clone()),
            (None, false, _) => None,
            (None, true, None) => {
                Some("its guest ended without an exit status: it crashed, or was reset".to_owned())
            }
            (None, true, Some(0)) if self.edges_ns.contains_key(&Edge::Done) => None,
            (None, true, Some(0)) => Some("it ended before it had run its workload".to_owned()),
            (None, true, Some(code)) => Some(format!("it ended with exit code {code}")),
        }
    }

    fn hear(&mut self, number: usize, woke_ns: u64) -> Result<(), backend::Error> {
        let Some(instance) = self.instance.as_mut() else { return Ok(()) };
        let (edges_ns, failure, exit_code) =
            (&mut self.edges_ns, &mut self.failure, &mut self.exit_code);
        let mut take = |stamped: Stamped| match stamped.notice {
            // The first passing counts, as with a box that is alone.
            Notice::Edge(edge) => drop(edges_ns.entry(edge).or_insert(stamped.at_ns)),
            Notice::Failure(why) => *failure = Some(why),
            Notice::ExitCode(code) => *exit_code = Some(code),
            _ => {}
        };
        instance.channels()[number].read(woke_ns, &mut take)
    }

    /// Collects it after its end, hears its last words, and gives back what it held.
    fn bury(&mut self) -> Result<(), backend::Error> {
        let Some(instance) = self.instance.as_mut() else { return Ok(()) };
        let reaped = instance.reap()?;
        self.edges_ns.insert(Edge::Exit, now_ns());
        let speaks_for_itself = instance.speaks_for_itself();
        for number in 0..instance.channels().len() {
            self.drain(number)?;
        }
        if !speaks_for_itself {
            self.exit_code = Some(reaped.code);
        }
        if let Some(instance) = self.instance.take() {
            instance.clean()?;
        }
        self.edges_ns.insert(Edge::Clean, now_ns());
        Ok(())
    }

    /// Reads what is still in a channel; a descendant that goes on talking must not hold this up.
    fn drain(&mut self, number: usize) -> Result<(), backend::Error> {
        for _ in 0..LAST_READS {
            let channel = self.instance.as_mut().map(|instance| &instance.channels()[number]);
            let Some(fd) = channel.and_then(|channel| channel.fd()) else { break };
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) {
                break;
            }
            self.hear(number, now_ns())?;
        }
        Ok(())
    }
}
