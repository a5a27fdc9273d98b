//! The user's terminal in raw mode: what is typed goes to the box, which has a terminal of its own
//! to make sense of it (termios(3)).

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tare_workload::WindowSize;

/// While it lives, the terminal is in raw mode. It ends with every return, with a panic, and with
/// the signals that others end a program by, which are the command's meanwhile.
#[derive(Debug)]
pub(crate) struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Begins it.
    pub(crate) fn begin(terminal: BorrowedFd<'a>) -> io::Result<RawMode<'a>> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSANOW, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// The size of a terminal, if that is one.
pub(super) fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    use std::os::fd::AsRawFd;
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is what the request writes.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0).then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::panic::AssertUnwindSafe;

    use super::*;

    /// What the kernel keeps of a terminal's settings: four words of flags and 19 characters
    /// (`struct termios` of asm-generic/termbits.h). libc's structure is larger, and what the
    /// kernel does not write of it is whatever was there.
    fn settings(terminal: BorrowedFd<'_>) -> ([u32; 4], Vec<u8>) {
        let settings: libc::termios = tcgetattr(terminal).unwrap().into();
        let flags = [settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag];
        (flags, settings.c_cc[..19].to_vec())
    }

    #[test]
    fn test_raw_mode_ends_with_a_panic_and_sizes_are_of_terminals() {
        let size = nix::pty::Winsize { ws_row: 7, ws_col: 9, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let before = settings(pty.slave.as_fd());
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _raw = RawMode::begin(pty.slave.as_fd()).unwrap();
            assert_ne!(settings(pty.slave.as_fd()), before);
            panic!("as it may happen");
        }));
        assert!(panicked.is_err());
        assert_eq!(settings(pty.slave.as_fd()), before);
        assert_eq!(window_size(pty.slave.as_fd()), Some(WindowSize { rows: 7, columns: 9 }));
        let (pipe, _) = io::pipe().unwrap();
        assert_eq!(window_size(pipe.as_fd()), None);
        assert!(RawMode::begin(pipe.as_fd()).is_err());
    }
}
