//! A pseudoterminal for the command (pty(7)).

use core::ffi::CStr;

use super::ends::{Ends, Group};
use crate::sys::{File, check};
use crate::{Context, Errno, Error, WindowSize};

/// The agent's side of the command's terminal.
pub(super) struct Terminal {
    pub(super) master: File,
    /// Kept open, for a master without a slave is an error to read from: a command may close its
    /// terminal and open it again.
    slave: File,
}

impl Terminal {
    /// Makes one of this size.
    pub(super) fn new(size: WindowSize) -> Result<Terminal, Error> {
        let master = File::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK)
            .on("open", "/dev/ptmx (CONFIG_UNIX98_PTYS)")?;
        let mut name = [0; 32];
        // SAFETY: the first two touch no memory of ours; `name` has room for so many bytes.
        check(unsafe {
            libc::grantpt(master.fd())
                | libc::unlockpt(master.fd())
                | -i32::from(libc::ptsname_r(master.fd(), name.as_mut_ptr(), name.len()) != 0)
        })
        .on("unlockpt", "/dev/ptmx")?;
        // SAFETY: ptsname_r has put a NUL-terminated string there.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().unwrap_or("/dev/pts");
        let slave = File::open(name, libc::O_RDWR | libc::O_NOCTTY).on("open", name)?;
        let terminal = Terminal { master, slave };
        terminal.resize(size).on("ioctl(TIOCSWINSZ)", name)?;
        Ok(terminal)
    }

    /// The command's side.
    pub(super) fn ends(&self) -> Result<Ends, Error> {
        let copy = || self.slave.duplicate().on("fcntl(F_DUPFD_CLOEXEC)", "the terminal");
        Ok(Ends { input: copy()?, output: copy()?, error: copy()?, group: Group::Terminal })
    }

    /// Tells the kernel, and by it the command, of the terminal's size.
    pub(super) fn resize(&self, size: WindowSize) -> Result<(), Errno> {
        let size =
            libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` is what the request reads.
        check(unsafe { libc::ioctl(self.master.fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
    }

    /// The character that ends input typed at it, `^D` by default.
    pub(super) fn end_of_input(&self) -> Result<u8, Errno> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut settings: libc::termios = unsafe { core::mem::zeroed() };
        // SAFETY: `settings` is valid for writing.
        check(unsafe { libc::tcgetattr(self.slave.fd(), &raw mut settings) })?;
        Ok(settings.c_cc[libc::VEOF])
    }
}
