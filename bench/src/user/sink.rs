//! Output on its way to the user, who may be slow.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// As much as a pipe that polls as writable takes without waiting (`PIPE_BUF`, pipe(7)). The
/// descriptor is shared with other programs, so it is not made non-blocking.
const PIECE_BYTES: usize = 4096;

/// One standard stream.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    fd: BorrowedFd<'a>,
    bytes: Vec<u8>,
    written: usize,
    /// Nobody reads it any more; what comes is dropped.
    is_broken: bool,
}

impl<'a> Sink<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>) -> Sink<'a> {
        Sink { fd, bytes: Vec::new(), written: 0, is_broken: false }
    }

    /// Takes output. It is for the caller to bring more only when this is empty.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if !self.is_broken {
            self.bytes.extend_from_slice(bytes);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'a> {
        self.fd
    }

    /// Writes a piece, to a descriptor that polled as writable. False if nobody reads it any more.
    pub(super) fn write(&mut self) -> bool {
        let rest = self.bytes.get(self.written..).unwrap_or_default();
        let piece = rest.get(..PIECE_BYTES).unwrap_or(rest);
        // SAFETY: the bytes are valid for reading of their length.
        let count = unsafe { libc::write(self.fd.as_raw_fd(), piece.as_ptr().cast(), piece.len()) };
        match usize::try_from(count) {
            Ok(count) => self.written += count,
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                _ => {
                    self.is_broken = true;
                    self.written = self.bytes.len();
                }
            },
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
        !self.is_broken
    }
}
