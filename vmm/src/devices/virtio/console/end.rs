//! The host's end of a console's direction: a descriptor that is watched when it is waited for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::descriptor::{duplicate, set_nonblocking};

/// Why a console cannot be made.
#[derive(Debug, Error)]
#[error(
    "cannot {action} for the console: {error}; give descriptors that are open, and see the limit on them (`ulimit -n`)"
)]
pub struct ConsoleError {
    action: String,
    #[source]
    error: io::Error,
}

impl ConsoleError {
    pub(super) fn on(action: impl Into<String>) -> impl FnOnce(io::Error) -> ConsoleError {
        let action = action.into();
        move |error| ConsoleError { action, error }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct End {
    fd: OwnedFd,
    event: EventSet,
    watched: bool,
    /// It is a file, which never waits and which epoll does not take.
    pub(super) is_file: bool,
}

impl End {
    /// Takes a descriptor of the embedder's, to be waited for by `event`.
    pub(super) fn take(fd: RawFd, event: EventSet, epoll: &Epoll) -> Result<End, ConsoleError> {
        let failed = |what: &str| ConsoleError::on(format!("{what} descriptor {fd}"));
        let own = duplicate(fd).map_err(failed("duplicate"))?;
        set_nonblocking(own.as_raw_fd()).map_err(failed("set up"))?;
        let mut end = End { fd: own, event, watched: false, is_file: false };
        match end.watch(epoll, true) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => end.is_file = true,
            watched => watched.map_err(failed("watch"))?,
        }
        end.wait(epoll, false);
        Ok(end)
    }

    /// Starts or stops waiting. Should the kernel refuse, for want of memory, the next call tries
    /// again.
    pub(super) fn wait(&mut self, epoll: &Epoll, wanted: bool) {
        let _ = self.watch(epoll, wanted);
    }

    fn watch(&mut self, epoll: &Epoll, wanted: bool) -> io::Result<()> {
        if wanted == self.watched || self.is_file {
            return Ok(());
        }
        let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
        epoll.ctl(operation, self.fd.as_raw_fd(), EpollEvent::new(self.event, 0))?;
        self.watched = wanted;
        Ok(())
    }

    /// Reads what there is into `buffers`.
    ///
    /// # Safety
    ///
    /// The buffers must be valid for writing.
    pub(super) unsafe fn read(&self, buffers: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: the caller warrants the buffers; of too many the kernel makes an error.
        let got = unsafe {
            libc::readv(self.fd.as_raw_fd(), buffers.as_ptr(), buffers.len() as libc::c_int)
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Writes as much of `buffers` as is taken.
    ///
    /// # Safety
    ///
    /// The buffers must be valid for reading.
    pub(super) unsafe fn write(&self, buffers: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: as in `read`.
        let taken = unsafe {
            libc::writev(self.fd.as_raw_fd(), buffers.as_ptr(), buffers.len() as libc::c_int)
        };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }
}
