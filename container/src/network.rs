//! A network namespace that outlives a start.
//!
//! Making one costs a start some 365 µs, and its end the kernel a worker's time. Boxes that have
//! nothing to say to a network can share one with nothing in it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use crate::error::Error;

/// A fresh network namespace in which there is only a loopback interface, which is down. It is gone
/// when the last descriptor and the last process of it are.
///
/// # Errors
/// No privileges, or a limit.
pub fn empty_network() -> Result<OwnedFd, Error> {
    // On a thread of its own, whose end leaves the caller's namespace alone.
    let made = thread::spawn(|| {
        // SAFETY: moves this very thread, which ends after this, to a new namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
    });
    let made = made.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    made.map_err(|source| Error::Path {
        role: "network namespace",
        path: "/proc/thread-self/ns/net".into(),
        source,
        remedy: "run as root: namespaces need CAP_SYS_ADMIN",
    })
}
