//! Density: how much each of many boxes that live at once adds to the host.
//!
//! A box is weighed after its workload has run (METHOD rule 9), while it holds. The host's used
//! memory before the first launch and with all of them alive gives what they cost together, kernel
//! memory included and what they share counted once; the kernel's own accounts of it say what that
//! is made of.

use std::fs;
use std::io;
use std::time::Duration;

use super::crowd::{self, Crowd};
use super::room::Room;
use crate::backend::{self, Prepared, system_used_bytes};
use crate::results::MemoryUsage;
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
#[derive(Debug, Clone, PartialEq)]
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
    pub starts_ns: Vec<f64>,
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
        let starts = self.starts_ns.get(1..)?;
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
    let before = parts()?;
    let used_before = system_used_bytes()?;
    for index in 1..=count {
        crowd.add(prepared, timeout).map_err(|error| match error {
            crowd::Error::Box { why, .. } => Error::Box { index, count, why },
            crowd::Error::Backend(error) => error.into(),
            crowd::Error::Wait(error) => error.into(),
            crowd::Error::Interrupted => Error::Interrupted,
        })?;
    }
    let used_after = system_used_bytes()?;
    let after = parts()?;
    let boxes = crowd.weigh()?;
    if boxes.len() < count as usize {
        let why = "one of those before it ended, and was to stay".to_owned();
        return Err(Error::Box { index: count, count, why });
    }
    let starts_ns = crowd.starts_ns();
    crowd.end()?;
    Ok(Density {
        count,
        system_delta_bytes: used_after.cast_signed() - used_before.cast_signed(),
        parts: parts_grown(&before, &after),
        boxes,
        starts_ns,
    })
}

/// By how much each of [`PARTS`] has grown.
pub(super) fn parts_grown(before: &Parts, after: &Parts) -> Vec<(&'static str, &'static str, i64)> {
    let parts = PARTS.iter().zip(before.iter().zip(after));
    parts.map(|((name, what), (before, after))| (*name, *what, after - before)).collect()
}

/// Bytes of each of [`PARTS`].
pub(super) type Parts = [i64; PARTS.len()];

/// What [`PARTS`] hold now, in bytes; a field that this kernel lacks stays 0.
pub(super) fn parts() -> io::Result<Parts> {
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
