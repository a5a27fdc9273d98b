//! The command's side of its standard streams.

use crate::sys::{File, check};
use crate::{Context, Errno, Error};

/// The standard streams of a command that is about to start, and whom it gets signals with.
pub(super) struct Ends {
    pub(super) input: File,
    pub(super) output: File,
    pub(super) error: File,
    pub(super) group: Group,
}

/// Which processes the command gets signals with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// The agent's own.
    Agent,
    /// One of its own, whose number is the command's.
    Own,
    /// As before, and its input is the terminal that controls it.
    Terminal,
}

impl Ends {
    /// In the command's process: makes them its standard streams.
    pub(super) fn install(&self) -> Result<(), Errno> {
        if self.group != Group::Agent {
            // The agent ignores it, see `Conversation`, and what is ignored survives exec.
            // SAFETY: the default is no handler.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            // SAFETY: always succeeds here: a process just forked leads no group.
            check(unsafe { libc::setsid() })?;
        }
        if self.group == Group::Terminal {
            // SAFETY: touches no memory.
            check(unsafe { libc::ioctl(self.input.fd(), libc::TIOCSCTTY, 0) })?;
        }
        for (file, standard) in [(&self.input, 0), (&self.output, 1), (&self.error, 2)] {
            // SAFETY: touches no memory. No descriptor here is 0, 1 or 2: see
            // `occupy_standard_descriptors`.
            check(unsafe { libc::dup2(file.fd(), standard) })?;
        }
        Ok(())
    }
}

/// Fills the places of the standard streams where they are closed, as they are for the init of a
/// guest without a console: a pipe must not land there and be overwritten.
pub(super) fn occupy_standard_descriptors() -> Result<(), Error> {
    for standard in 0..3 {
        // SAFETY: touches no memory.
        if check(unsafe { libc::fcntl(standard, libc::F_GETFD) }).is_err() {
            // The kernel hands out the lowest free number, which is this one.
            let file = File::open("/dev/null", libc::O_RDWR).on("open", "/dev/null")?;
            core::mem::forget(file);
        }
    }
    Ok(())
}
