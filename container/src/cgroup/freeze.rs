//! Freezing all processes of a container at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::CgroupError;

/// How long it may take until all are frozen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes or thaws the container whose cgroups these are, and returns when it is.
///
/// # Errors
/// None of the cgroups can be frozen, or a process does not freeze in ten seconds; it is thawed then.
pub fn freeze(paths: &[PathBuf], frozen: bool) -> Result<(), CgroupError> {
    let failed = |path: &Path, source| CgroupError::NotFrozen { path: path.to_owned(), source };
    let Some((path, files)) = paths.iter().find_map(|path| Some((path, Files::of(path)?))) else {
        let path = paths.first().cloned().unwrap_or_default();
        return Err(failed(&path, io::ErrorKind::NotFound.into()));
    };
    files.set(frozen).map_err(|source| failed(path, source))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if files.is(frozen).map_err(|source| failed(path, source))? {
            return Ok(());
        }
        if Instant::now() > deadline {
            let _ = files.set(false);
            return Err(failed(path, io::ErrorKind::TimedOut.into()));
        }
        // This is off every timed path.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the container whose cgroups these are is frozen; `None` if it cannot be.
#[must_use]
pub fn is_frozen(paths: &[PathBuf]) -> Option<bool> {
    paths.iter().find_map(|path| Files::of(path)?.is(true).ok())
}

/// Where it is said, and where it is told.
enum Files {
    /// `cgroup.freeze` and `cgroup.events`.
    Unified(PathBuf),
    /// `freezer.state`.
    V1(PathBuf),
}

impl Files {
    fn of(path: &Path) -> Option<Files> {
        if path.join("cgroup.freeze").exists() {
            return Some(Files::Unified(path.to_owned()));
        }
        let state = path.join("freezer.state");
        state.exists().then_some(Files::V1(state))
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match self {
            Files::Unified(path) => {
                fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
            Files::V1(state) => fs::write(state, if frozen { "FROZEN" } else { "THAWED" }),
        }
    }

    fn is(&self, frozen: bool) -> io::Result<bool> {
        let is_frozen = match self {
            Files::Unified(path) => {
                fs::read_to_string(path.join("cgroup.events"))?.contains("frozen 1")
            }
            Files::V1(state) => fs::read_to_string(state)?.trim() == "FROZEN",
        };
        Ok(is_frozen == frozen)
    }
}
