//! The socket of a command's standard streams.

use tare_workload::{Context, Errno, Error, Line, Peer};

/// Opens it, or takes it over. No program that is executed from here inherits it.
pub(crate) fn open(line: Line) -> Result<i32, Error> {
    match line {
        Line::Fd(fd) => {
            // SAFETY: touches no memory.
            match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
                -1 => Err(Errno::last()).on("fcntl", line),
                _ => Ok(fd),
            }
        }
        Line::Vsock(port) => Peer::Vsock(port).connect(),
    }
}
