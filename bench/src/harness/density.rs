//! Density: how much each of many boxes that live at once adds to the host.
//!
//! A box is weighed after its workload has run (METHOD rule 9), while it holds. The host's used
//! memory before the first launch and with all of them alive gives what they cost together, kernel
//! memory included and what they share counted once; the kernel's own accounts of it say what that
//! is made of.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backend::{self, Instance, Notice, Prepared, system_used_bytes};
use crate::clock::now_ns;
use crate::interrupt;
use crate::results::{Edge, MemoryUsage};
use crate::statistics::median;

/// What is told apart of a host's used memory: a field of /proc/meminfo
/// (Documentation/filesystems/proc.rst) and what it is.
const PARTS: [(&str, &str); 7] = [
    ("AnonPages", "anonymous pages: guest RAM that was written, and the VMM's own"),
    ("Shmem", "files in memory"),
    ("PageTables", "page tables of processes"),
    ("SecPageTables", "page tables of guests"),
    ("KernelStack", "stacks of threads in the kernel"),
    ("SUnreclaim", "objects of the kernel"),
    ("Percpu", "the kernel's memory for each CPU"),
];

/// What many boxes weigh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Density {
    /// How many lived at once, each having run its workload.
    pub count: u32,
    /// What they added to the host's used memory, in bytes.
    pub system_delta_bytes: i64,
    /// Where that is, as far as the kernel tells, in bytes: a field of /proc/meminfo, what it is,
    /// and by how much it grew. What is missing to the whole are pages that the kernel took without
    /// an account (KVM's structures among them).
    pub parts: Vec<(&'static str, &'static str, i64)>,
    /// Each box's own account.
    pub boxes: Vec<MemoryUsage>,
    /// How long each took from launch to init, in nanoseconds, in the order of launches.
    pub starts_ns: Vec<u64>,
}

/// How many of the first, and of the last, are taken together.
const STARTS: usize = 20;

impl Density {
    /// What one of them added, in bytes.
    pub fn each_bytes(&self) -> i64 {
        self.system_delta_bytes / i64::from(self.count.max(1))
    }

    /// How many times longer the last took to start than the first: medians of twenty. The very first
    /// warms up what others find warm, and is no part of it. `None` where they are too few.
    pub fn start_growth(&self) -> Option<f64> {
        let starts: Vec<f64> = self.starts_ns.iter().skip(1).map(|ns| *ns as f64).collect();
        let (first, last) = (starts.first_chunk::<STARTS>()?, starts.last_chunk::<STARTS>()?);
        (starts.len() >= 2 * STARTS).then_some(median(last)? / median(first)?)
    }
}

/// Why there is no density.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A box ended before it had run its workload, or did not come to it in time.
    #[error("box {index} of {count}: {why}")]
    Box {
        /// Which, from 1.
        index: u32,
        /// Of how many.
        count: u32,
        /// What happened.
        why: String,
    },
    /// The host cannot be asked.
    #[error("cannot weigh the host or wait for a box: {0}")]
    Host(#[from] io::Error),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Launches `count` boxes one after the other, each when the one before has run its workload, and
/// weighs them when all have. The job must hold for longer than that takes. All are gone when this
/// returns.
///
/// # Errors
/// [`enum@Error`].
pub fn density(prepared: &dyn Prepared, count: u32, timeout: Duration) -> Result<Density, Error> {
    let _room = Room::for_boxes(count)?;
    let mut crowd = Crowd::default();
    let mut starts_ns = Vec::new();
    let before = parts()?;
    let used_before = system_used_bytes()?;
    for index in 1..=count {
        prepared.reset()?;
        let launch_ns = now_ns();
        crowd.boxes.push(prepared.launch()?);
        let Some(newest) = crowd.boxes.last_mut() else { continue };
        let init_ns = until_done(newest.as_mut(), timeout);
        let init_ns = init_ns.map_err(|error| match error {
            Wait::Said(why) => Error::Box { index, count, why },
            Wait::Backend(error) => error.into(),
            Wait::Host(error) => error.into(),
            Wait::Interrupted => Error::Interrupted,
        })?;
        starts_ns.push(init_ns.saturating_sub(launch_ns));
    }
    let used_after = system_used_bytes()?;
    let after = parts()?;
    let boxes = crowd.boxes.iter().map(|each| each.scale().weigh());
    let boxes = boxes.collect::<io::Result<_>>()?;
    crowd.end()?;
    let parts = PARTS.iter().zip(before.iter().zip(after));
    Ok(Density {
        count,
        system_delta_bytes: used_after.cast_signed() - used_before.cast_signed(),
        parts: parts
            .map(|((name, what), (before, after))| (*name, *what, after - before))
            .collect(),
        boxes,
        starts_ns,
    })
}

/// Descriptors that the harness holds for each box, and may hold besides.
const BOX_DESCRIPTORS: u64 = 8;
const OTHER_DESCRIPTORS: u64 = 256;

/// Room for the descriptors of many boxes, as long as it lives.
struct Room(u64, u64);

impl Room {
    fn for_boxes(count: u32) -> io::Result<Room> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = u64::from(count) * BOX_DESCRIPTORS + OTHER_DESCRIPTORS;
        if wanted > soft {
            // Only root may have more than the hard limit.
            let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard));
            raised.or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        }
        Ok(Room(soft, hard))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What was there before is allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1);
    }
}

/// Boxes that live; whatever happens, they end with it.
#[derive(Default)]
struct Crowd {
    boxes: Vec<Box<dyn Instance>>,
}

impl Crowd {
    /// Ends all, and gives back what they hold.
    fn end(&mut self) -> Result<(), backend::Error> {
        // All at once first: the kernel takes a VM apart in milliseconds.
        for each in &mut self.boxes {
            each.kill();
        }
        let mut result = Ok(());
        for mut each in self.boxes.drain(..) {
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

enum Wait {
    Said(String),
    Backend(backend::Error),
    Host(io::Error),
    Interrupted,
}

/// Waits, without polling, until a box has run its workload. Returns when it was at its init.
fn until_done(instance: &mut dyn Instance, timeout: Duration) -> Result<u64, Wait> {
    let deadline_ns = now_ns() + u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX / 2);
    let (mut init_ns, mut done, mut failure) = (None, false, None);
    loop {
        let left_ms = deadline_ns.saturating_sub(now_ns()).div_ceil(1_000_000);
        if left_ms == 0 {
            return Err(Wait::Said("it had not run its workload in time".to_owned()));
        }
        let limit = PollTimeout::try_from(left_ms.min(i32::MAX as u64)).unwrap_or(PollTimeout::MAX);
        let channels: Vec<_> = {
            let channels = instance.channels().iter().enumerate();
            channels.filter_map(|(index, each)| Some((index, each.fd()?.as_raw_fd()))).collect()
        };
        let mut fds = vec![PollFd::new(instance.pidfd(), PollFlags::POLLIN)];
        fds.extend(channels.iter().map(|(_, fd)| {
            // SAFETY: the channel owns the descriptor and is not touched while `fds` lives.
            PollFd::new(unsafe { BorrowedFd::borrow_raw(*fd) }, PollFlags::POLLIN)
        }));
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Wait::Host(errno.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if interrupt::requested() {
            return Err(Wait::Interrupted);
        }
        for ((index, _), _) in channels.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let read =
                instance.channels()[*index].read(now_ns(), &mut |stamped| match stamped.notice {
                    Notice::Edge(Edge::Init) => init_ns = init_ns.or(Some(stamped.at_ns)),
                    Notice::Edge(Edge::Done) => done = true,
                    Notice::Failure(why) => failure = Some(why),
                    _ => {}
                });
            read.map_err(Wait::Backend)?;
        }
        match (failure.take(), done, ready[0]) {
            (Some(why), ..) => return Err(Wait::Said(why)),
            (_, true, false) => return Ok(init_ns.unwrap_or_else(now_ns)),
            (_, _, true) => return Err(Wait::Said("it ended, and was to stay".to_owned())),
            _ => {}
        }
    }
}

/// What [`PARTS`] hold now, in bytes; a field that this kernel lacks stays 0.
fn parts() -> io::Result<[i64; PARTS.len()]> {
    // What CPUs keep to themselves comes in; only root may ask.
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    Ok(PARTS.map(|(name, _)| kib_of(&meminfo, name).unwrap_or(0) * 1024))
}

fn kib_of(meminfo: &str, name: &str) -> Option<i64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_kib_of_takes_the_whole_name() {
        let meminfo = "ShmemHugePages: 7 kB\nShmem:   12 kB\nHugePages_Total: 0\n";
        assert_eq!(kib_of(meminfo, "Shmem"), Some(12));
        assert_eq!(kib_of(meminfo, "Absent"), None);
    }

    #[test]
    fn test_parts_sees_an_allocation() {
        let before = parts().unwrap()[0];
        let memory = std::hint::black_box(vec![1_u8; 32 << 20]);
        let after = parts().unwrap()[0];
        assert!(after - before > 16 << 20, "{before} {after}");
        drop(memory);
    }
}
