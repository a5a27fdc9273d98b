//! The store's lock.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::error::Error;

const LOCK: &str = "lock";

/// While it is there, nothing is removed from the store (flock(2)).
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "closed, and so unlocked, when it is dropped")] File);

impl Hold {
    pub(crate) fn shared(store: &Path) -> Result<Hold, Error> {
        let (path, file) = open(store)?;
        file.lock_shared().map_err(Error::io("lock", &path))?;
        Ok(Hold(file))
    }

    /// Nothing if another holds the store.
    pub(crate) fn alone(store: &Path) -> Result<Option<Hold>, Error> {
        let (path, file) = open(store)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Hold(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}

fn open(store: &Path) -> Result<(std::path::PathBuf, File), Error> {
    let path = store.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    Ok((path, file))
}
