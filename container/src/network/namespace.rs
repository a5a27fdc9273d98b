//! Fresh network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use crate::error::Error;

/// Where a thread finds the namespace it is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// A fresh network namespace in which there is only a loopback interface, which is down. It is gone
/// when the last descriptor and the last process of it are.
///
/// # Errors
/// No privileges, or a limit.
pub fn empty_network() -> Result<OwnedFd, Error> {
    Ok(within_fresh(|| Ok(()))?.0)
}

/// Makes a fresh network namespace and calls `first` in it.
pub(super) fn within_fresh<T: Send>(
    first: impl FnOnce() -> io::Result<T> + Send,
) -> Result<(OwnedFd, T), Error> {
    // On a thread of its own, whose end leaves the caller's namespace alone.
    let make = || {
        // SAFETY: moves this very thread, which ends after this, to a new namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from(File::open(OWN)?), first()?))
    };
    let made = thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).map_err(|source| Error::Path {
        role: "network namespace",
        path: OWN.into(),
        source,
        remedy: "run as root: namespaces need CAP_SYS_ADMIN",
    })
}
