//! What cgroups have counted.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::error::CgroupError;
use super::files::{keyed_number, number, read_at};
use super::limits::CgroupStatistics;

impl CgroupStatistics {
    /// Reads them from a container's cgroups, given by their directories on the host.
    ///
    /// # Errors
    /// A directory or control file cannot be read.
    pub fn of(paths: &[PathBuf]) -> Result<CgroupStatistics, CgroupError> {
        let mut all = CgroupStatistics::default();
        for path in paths {
            let directory = File::open(path)
                .map_err(|source| CgroupError::Unreadable { path: path.clone(), source })?;
            let unified = path.join("cgroup.controllers").exists();
            collect(&mut all, directory.as_fd(), unified, || path.clone())?;
        }
        Ok(all)
    }
}

/// Adds what the control files of one cgroup tell. A file that is not there is no error: the
/// controller is not, or the kernel is too old.
pub(super) fn collect(
    all: &mut CgroupStatistics,
    directory: BorrowedFd<'_>,
    unified: bool,
    path: impl Fn() -> PathBuf,
) -> Result<(), CgroupError> {
    let read = |file: &CStr| match read_at(directory, file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(source) => {
            let path = path().join(file.to_string_lossy().as_ref());
            Err(CgroupError::Unreadable { path, source })
        }
    };
    let value = |into: &mut Option<u64>, file: &CStr| {
        *into = read(file)?.as_deref().and_then(number).or(*into);
        Ok::<(), CgroupError>(())
    };
    let keyed = |into: &mut Option<u64>, file: &CStr, key: &str, divisor: u64| {
        let found = read(file)?.as_deref().and_then(|text| keyed_number(text, key));
        *into = found.map(|number| number / divisor).or(*into);
        Ok::<(), CgroupError>(())
    };
    value(&mut all.pids_current, c"pids.current")?;
    keyed(&mut all.pids_refused, c"pids.events", "max", 1)?;
    keyed(&mut all.cpu_throttled_periods, c"cpu.stat", "nr_throttled", 1)?;
    if unified {
        value(&mut all.memory_current_bytes, c"memory.current")?;
        value(&mut all.memory_peak_bytes, c"memory.peak")?;
        keyed(&mut all.oom_kills, c"memory.events", "oom_kill", 1)?;
        keyed(&mut all.cpu_throttled_us, c"cpu.stat", "throttled_usec", 1)?;
        keyed(&mut all.cpu_used_us, c"cpu.stat", "usage_usec", 1)?;
        if let Some(text) = read(c"io.stat")? {
            all.io_read_bytes = Some(sum_of(&text, "rbytes="));
            all.io_written_bytes = Some(sum_of(&text, "wbytes="));
        }
    } else {
        value(&mut all.memory_current_bytes, c"memory.usage_in_bytes")?;
        value(&mut all.memory_peak_bytes, c"memory.max_usage_in_bytes")?;
        keyed(&mut all.oom_kills, c"memory.oom_control", "oom_kill", 1)?;
        keyed(&mut all.cpu_throttled_us, c"cpu.stat", "throttled_time", 1000)?;
        if let Some(text) = read(c"blkio.throttle.io_service_bytes")? {
            all.io_read_bytes = Some(sum_of(&text, "Read "));
            all.io_written_bytes = Some(sum_of(&text, "Write "));
        }
    }
    Ok(())
}

/// The sum of the numbers that follow `key`, over all lines.
fn sum_of(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(key)?.1.split_ascii_whitespace().next()?.parse().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_sum_of_both_versions_files() {
        let v2 = "8:0 rbytes=10 wbytes=2 rios=1\n9:0 rbytes=5 wbytes=1\nbroken\n";
        assert_eq!((sum_of(v2, "rbytes="), sum_of(v2, "wbytes=")), (15, 3));
        let v1 = "8:0 Read 7\n8:0 Write 8\n8:0 Total 15\nTotal 15\n";
        assert_eq!((sum_of(v1, "Read "), sum_of(v1, "Write ")), (7, 8));
    }
}
