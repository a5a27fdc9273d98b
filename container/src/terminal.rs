//! The terminal of a box, seen from outside.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

/// A terminal that a box is to have: its size at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Lines; 0 if not known.
    pub rows: u16,
    /// Characters of a line; 0 if not known.
    pub columns: u16,
}

impl Terminal {
    /// The size of the terminal behind `fd`; `None` if it is none.
    #[must_use]
    pub fn of(fd: BorrowedFd<'_>) -> Option<Terminal> {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` is what the request writes.
        let got = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        (got == 0).then_some(Terminal { rows: size.ws_row, columns: size.ws_col })
    }

    /// Gives the terminal behind `fd` this size; its foreground hears of it by `SIGWINCH`.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn apply(self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let size = self.winsize();
        // SAFETY: `size` is what the request reads.
        match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn winsize(self) -> libc::winsize {
        libc::winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

/// Receives the one descriptor that a child has sent, if it has.
pub(crate) fn receive(socket: &UnixDatagram) -> Option<OwnedFd> {
    let mut byte = [0u8];
    let mut data = IoSliceMut::new(&mut byte);
    let mut control = [0u64; 4];
    // SAFETY: pointers and numbers, for all of which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = (&raw mut data).cast();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes buffers that outlive the call.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) } < 0 {
        return None;
    }
    // struct cmsghdr: 64-bit length, level, type; then the descriptor (unix(7)).
    let [length, kind, fd, _] = control;
    let expected = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
    if (message.msg_controllen as usize) < 20 || length != 20 || kind != expected {
        return None;
    }
    // SAFETY: the kernel has just opened it for this process alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd as u32 as i32) })
}

/// The message that sends descriptor `fd`: control message and `struct msghdr`, as words. The
/// addresses are those of one byte to be sent, and of what this returns first.
pub(crate) fn control_message(fd: i32) -> [u64; 3] {
    [20, (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32, fd as u64]
}
