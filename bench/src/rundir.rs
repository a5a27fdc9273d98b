//! The directory in which one run keeps its files.
//!
//! It is locked while the run lives. A run that was killed cannot remove its directory; the next
//! one finds that the lock is free, and does.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "tare-run-";
const LOCK: &str = "lock";

/// A locked directory below the system's directory for temporary files, removed when dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    directory: TempDir,
    _lock: File,
}

impl RunDir {
    /// Makes one, and removes those of dead runs.
    ///
    /// # Errors
    /// What the file system says; the text names the directory.
    pub(crate) fn new() -> io::Result<RunDir> {
        let parent = std::env::temp_dir();
        RunDir::below(&parent)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", parent.display())))
    }

    fn below(parent: &Path) -> io::Result<RunDir> {
        sweep(parent)?;
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(parent)?;
        let lock = File::create(directory.path().join(LOCK))?;
        lock.lock()?;
        Ok(RunDir { directory, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match File::open(entry.path().join(LOCK)).map(|lock| lock.try_lock()) {
            Ok(Ok(())) => fs::remove_dir_all(entry.path())?,
            Ok(Err(TryLockError::WouldBlock)) => {}
            Ok(Err(TryLockError::Error(error))) => return Err(error),
            // Another run is just making it, or it is another user's.
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_new_removes_dead_runs_and_spares_living_ones_and_strangers() {
        let parent = tempfile::tempdir().unwrap();
        let living = RunDir::below(parent.path()).unwrap();
        let dead = parent.path().join("tare-run-dead");
        let stranger = parent.path().join("something");
        for directory in [&dead, &stranger] {
            fs::create_dir(directory).unwrap();
            File::create(directory.join(LOCK)).unwrap();
        }
        let next = RunDir::below(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && next.path().exists() && stranger.exists());
    }

    #[test]
    fn test_drop_removes_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunDir::below(parent.path()).unwrap();
        fs::write(run.path().join("file"), "text").unwrap();
        drop(run);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
