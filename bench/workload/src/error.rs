//! What can go wrong in a box.

use alloc::string::{String, ToString};
use core::ffi::CStr;
use core::fmt;

use crate::{ParameterError, ReportError};

/// An error number of the operating system, shown with its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's error number, to be read right after the call that failed.
    pub fn last() -> Errno {
        // SAFETY: returns a valid pointer to the calling thread's errno, always.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: musl's strerror accepts any number and returns a pointer into static,
        // NUL-terminated data.
        let text = unsafe { CStr::from_ptr(libc::strerror(self.0)) };
        write!(formatter, "{} (errno {})", text.to_str().unwrap_or("unknown error"), self.0)
    }
}

impl core::error::Error for Errno {}

/// Why a workload could not do its work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{call} failed on {target}: {errno}")]
    System {
        /// Name of the system call.
        call: &'static str,
        /// What it was asked to act on.
        target: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A parameter is unknown or its value is not allowed.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// A result could not be reported.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The clock stands still for too long to time anything by it.
    #[error(
        "the clock of this box did not advance over {readings} readings: its kernel has only the \
         timer tick to tell the time by; give it kvm-clock or a TSC that it trusts"
    )]
    CoarseClock {
        /// How often it was read.
        readings: usize,
    },
    /// The workload creates files and was given no directory for them.
    #[error("the workload '{0}' needs a directory for its files: say scratch=PATH")]
    NoScratch(&'static str),
    /// The workload talks with a program of the host and was told of none.
    #[error(
        "the workload '{0}' needs a program of the host to talk with: say peer=vsock:PORT or peer=tcp:ADDRESS:PORT"
    )]
    NoPeer(&'static str),
    /// A result is wrong: the machine, its kernel or its disk did not do what was asked.
    #[error("{what} is wrong: expected {expected}, got {got}")]
    Wrong {
        /// What was computed or read back.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The workload `run` was given no command.
    #[error("the workload 'run' was given no command: say command=PROGRAM,ARGUMENT,…")]
    NoCommand,
    /// The command does not exist in the box.
    #[error("command '{program}' not found in the box: {why}")]
    CommandNotFound {
        /// The program as it was named.
        program: String,
        /// Where it was looked for, or what it lacks.
        why: String,
    },
    /// The command exists and cannot be executed.
    #[error("command '{program}' cannot be executed in the box: {why}")]
    CommandNotExecutable {
        /// The program as it was named.
        program: String,
        /// What the kernel answered.
        why: String,
    },
    /// The host, at its end of the command's streams, is gone or breaks their rules.
    #[error("the host, which holds the command's standard streams, {0}")]
    Conversation(&'static str),
}

impl Error {
    /// The exit status that stands for this error, by the convention of `env` and shells: 127
    /// command not found, 126 command not executable, 125 anything else.
    pub const fn exit_status(&self) -> i32 {
        match self {
            Error::CommandNotFound { .. } => 127,
            Error::CommandNotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

/// Says what a failed system call was doing.
pub trait Context<T> {
    /// Names the call and what it acted on.
    ///
    /// # Errors
    /// [`Error::System`] where there was an error number.
    fn on(self, call: &'static str, target: impl fmt::Display) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn on(self, call: &'static str, target: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|errno| Error::System { call, target: target.to_string(), errno })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_system_error_names_call_target_and_meaning() {
        let error: Error = Err::<(), _>(Errno(libc::ENOENT)).on("open", "/nowhere").unwrap_err();
        assert_eq!(
            error.to_string(),
            "open failed on /nowhere: No such file or directory (errno 2)"
        );
        assert_eq!(error.exit_status(), 125);
    }
}
