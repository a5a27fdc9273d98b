//! Child processes.

use super::{File, check, retry};
use crate::Errno;

/// A process that was forked and has not been waited for.
#[derive(Debug)]
pub(crate) struct Child(libc::pid_t);

/// Forks. The child runs `work` and ends with the status it returns; it never returns here.
///
/// `work` must be content with what a fork of one thread leaves: it may use memory and system
/// calls, not locks that another thread might hold.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> Result<Child, Errno> {
    // SAFETY: the child does nothing but `work`, whose contract is above, and ends.
    match check(unsafe { libc::fork() })? {
        0 => exit_now(work()),
        pid => Ok(Child(pid)),
    }
}

/// Ends this process without running anything registered for its end.
fn exit_now(status: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// This process's number.
pub(crate) fn current_pid() -> libc::pid_t {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() }
}

/// Ends this process when its parent ends, for a command that may run for long: a host that is
/// killed leaves nothing behind.
pub(crate) fn die_with_parent() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// In a child of `parent`: ends this process when its parent ends, so that a host which kills the
/// agent leaves nothing behind.
pub(crate) fn die_with(parent: libc::pid_t) -> Result<(), Errno> {
    die_with_parent()?;
    // The parent may have ended before that.
    // SAFETY: always succeeds.
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err(Errno(libc::ESRCH)) }
}

impl Child {
    /// The process's number.
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.0
    }

    /// Waits for its end: exit status, or 128 plus the signal's number.
    pub(crate) fn wait(self) -> Result<i32, Errno> {
        let mut status = 0;
        retry(|| {
            // SAFETY: `status` is valid for writing.
            check(unsafe { libc::waitpid(self.0, &raw mut status, 0) })
        })?;
        Ok(exit_status(status))
    }
}

/// A wait status as an exit status: a signal `n` is `128 + n`.
pub(crate) fn exit_status(wait_status: i32) -> i32 {
    if libc::WIFSIGNALED(wait_status) {
        128 + libc::WTERMSIG(wait_status)
    } else {
        libc::WEXITSTATUS(wait_status)
    }
}

/// A pipe; both ends are closed on exec.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Where it is read.
    pub(crate) reader: File,
    /// Where it is written.
    pub(crate) writer: File,
}

impl Pipe {
    /// A new pipe.
    pub(crate) fn new() -> Result<Pipe, Errno> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        Ok(Pipe { reader: File::from_raw(ends[0]), writer: File::from_raw(ends[1]) })
    }
}

/// The processors on which the calling thread may run.
pub(crate) fn affinity() -> Result<libc::cpu_set_t, Errno> {
    // SAFETY: the set is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: `set` is valid for writing of its size.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    Ok(set)
}

/// Allows the calling thread, and children that it forks, only these processors.
pub(crate) fn pin(set: &libc::cpu_set_t) -> Result<(), Errno> {
    // SAFETY: `set` is valid for reading of its size.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(set), set) }).map(drop)
}
