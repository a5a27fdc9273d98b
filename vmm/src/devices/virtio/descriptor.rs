//! Descriptors that the embedder has opened for a device.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Turns the -1 convention into a `Result`.
pub(super) fn check(result: i32) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that the kernel has just handed out, or its error.
pub(super) fn own(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the kernel has just handed it out.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of one's own of something that the embedder has opened, none of the standard ones.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a request on plain numbers.
    own(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

/// Has it fail where it would wait, through whichever descriptor it is used.
pub(super) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: requests on plain numbers.
    check(unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    })
}
