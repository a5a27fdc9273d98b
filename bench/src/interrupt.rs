//! Ctrl-C and SIGTERM: a flag that ends the run in good order at the next wake; or, where a box has
//! the user's attention, signals that are for its command.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What others ask a command by.
pub(crate) const FORWARDED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Takes SIGINT and SIGTERM; waits then end early with EINTR, as no SA_RESTART is asked for.
///
/// A second signal ends the program at once: the handler resets itself.
///
/// # Errors
/// What sigaction(2) says.
pub fn listen() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// True once a signal has asked the run to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Where the handler writes, or -1.
static WRITER: AtomicI32 = AtomicI32::new(-1);
/// Set in the byte of a signal that the kernel raised: the terminal's own.
const FROM_KERNEL: u8 = 0x80;

extern "C" fn pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let is_from_kernel = unsafe { (*info).si_code } > 0;
    let byte = signal.to_le_bytes()[0] | if is_from_kernel { FROM_KERNEL } else { 0 };
    // SAFETY: async-signal-safe; errno, all it can change here, is put back. Where the pipe is full,
    // nobody has read thousands of signals before.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WRITER.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// Signals that were sent to this program for the command that it attends.
#[derive(Debug)]
pub struct Signals(PipeReader);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel raised it, as a terminal does for all processes in its foreground.
    pub is_from_kernel: bool,
}

impl Signals {
    /// From now on takes the usual signals, and that of a window's new size, for the command.
    ///
    /// # Errors
    /// What pipe2(2) and sigaction(2) say.
    pub fn take() -> io::Result<Signals> {
        let (reader, writer) = io::pipe()?;
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            // SAFETY: touches no memory.
            unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        }
        // Kept for the rest of this process's life: the handlers stay.
        WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
        let action = SigAction::new(SigHandler::SigAction(pass_on), flags, SigSet::empty());
        for signal in FORWARDED.into_iter().chain([libc::SIGWINCH]) {
            // SAFETY: the handler does only what is async-signal-safe.
            unsafe { sigaction(Signal::try_from(signal)?, &action)? };
        }
        Ok(Signals(reader))
    }

    /// Those that have come, in their order.
    pub fn heard(&mut self) -> impl Iterator<Item = Forwarded> + use<> {
        let mut bytes = [0; 64];
        let count = self.0.read(&mut bytes).unwrap_or(0);
        bytes.into_iter().take(count).map(|byte| Forwarded {
            signal: i32::from(byte & !FROM_KERNEL),
            is_from_kernel: byte & FROM_KERNEL != 0,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
