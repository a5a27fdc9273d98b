//! The directory in which one run keeps its files.
//!
//! It is locked while the run lives. A run that was killed cannot remove its directory; the next
//! one finds that the lock is free, and does.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of a run's directory; by it the next run finds it.
const PREFIX: &str = "tare-run-";
/// Of a directory that is not locked yet.
const NEW_PREFIX: &str = ".tare-new-";
const LOCK: &str = "lock";
/// A tmpfs (shm_overview(7)).
const SHARED_MEMORY: &str = "/dev/shm";
/// A directory that was not locked for so long never will be.
const NEW_AGE: Duration = Duration::from_secs(60);

/// A locked directory below the system's directory for temporary files, for this user alone,
/// removed when dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes one, and removes those of dead runs.
    ///
    /// # Errors
    /// What the file system says; the text names the directory.
    pub(crate) fn new() -> io::Result<RunDir> {
        // What a dead run had in memory does not wait for one that needs room there.
        let _ = sweep(Path::new(SHARED_MEMORY));
        RunDir::at(&std::env::temp_dir())
    }

    /// As [`RunDir::new`], in the host's memory where the system has its shared memory
    /// (shm_overview(7)).
    ///
    /// # Errors
    /// As of [`RunDir::new`].
    pub(crate) fn in_memory() -> io::Result<RunDir> {
        RunDir::at(Path::new(SHARED_MEMORY))
    }

    fn at(parent: &Path) -> io::Result<RunDir> {
        RunDir::below(parent)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", parent.display())))
    }

    fn below(parent: &Path) -> io::Result<RunDir> {
        sweep(parent)?;
        let new = tempfile::Builder::new()
            .prefix(NEW_PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        let lock = File::create(new.path().join(LOCK))?;
        lock.lock()?;
        // It gets the name that others look for once it is locked: none takes it for a dead one.
        let name = new.path().file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(name.replacen(NEW_PREFIX, PREFIX, 1));
        fs::rename(new.path(), &path)?;
        let _ = new.keep();
        Ok(RunDir { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    let own_uid = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(parent)?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_dir() || metadata.uid() != own_uid {
            continue;
        }
        let is_stillborn = || {
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            name.starts_with(NEW_PREFIX) && age.is_some_and(|age| age > NEW_AGE)
        };
        if is_stillborn() {
            let _ = fs::remove_dir_all(entry.path());
        }
        if name.starts_with(PREFIX) {
            remove_if_dead(&entry.path());
        }
    }
    Ok(())
}

/// Removes a run's directory if its lock can be had; it is held until all is gone. Another run may
/// be doing the same: what it has removed first is no error.
fn remove_if_dead(directory: &Path) {
    let lock = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(directory.join(LOCK));
    let Ok(lock) = lock else { return };
    if lock.try_lock().is_ok() {
        let _ = fs::remove_dir_all(directory);
    }
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
