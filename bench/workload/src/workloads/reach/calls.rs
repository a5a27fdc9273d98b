//! Which system calls are answered.
//!
//! Each is made by a child with arguments that no call can use, so that it fails before it does
//! anything. A call that answers "no such call" (ENOSYS) or "not permitted" (EPERM) is refused; one
//! that answers anything else has been let through to the kernel. A child that does not come back
//! was killed, by a filter or by the call: the next child goes on behind it.

use super::failed;
use crate::Error;
use crate::sys::{Mapping, PAGE_BYTES, current_pid, die_with, fork};

/// Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl of Linux 6.12), of both its ranges.
const RANGES: [core::ops::RangeInclusive<usize>; 2] = [0..=334, 424..=462];

/// Calls that act whatever their arguments, or that would hide what others answer.
const LEFT_OUT: [libc::c_long; 17] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_pause,
    libc::SYS_alarm,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_msgget,
    libc::SYS_sync,
    libc::SYS_setsid,
    libc::SYS_vhangup,
    libc::SYS_shmget,
];

/// States of a call in the memory that the children share with their parent.
const UNTRIED: u8 = 0;
const TRYING: u8 = 1;
const ANSWERED: u8 = 2;
const REFUSED: u8 = 3;

/// A call that has not answered after so many seconds waits, and so was let through.
const PATIENCE_S: u32 = 1;

/// A call that was killed by a filter (`SECCOMP_RET_KILL`), as an exit status.
const KILLED_BY_FILTER: i32 = 128 + libc::SIGSYS;

/// How many calls the kernel lets this process make.
pub(super) fn answered() -> Result<u64, Error> {
    let mut states = failed(Mapping::shared(PAGE_BYTES), "mmap")?;
    let parent = current_pid();
    // Each child tries at least one.
    while let Some(first) = numbers().find(|number| states.as_mut()[*number] == UNTRIED) {
        let states_of_child = &mut states;
        let child = fork(|| match die_with(parent) {
            Ok(()) => try_from(first, states_of_child.as_mut()),
            Err(_) => 1,
        });
        let status = failed(failed(child, "fork")?.wait(), "waitpid")?;
        let states = states.as_mut();
        if let Some(last) = numbers().find(|number| states[*number] == TRYING) {
            states[last] = if status == KILLED_BY_FILTER { REFUSED } else { ANSWERED };
        } else if states[first] == UNTRIED {
            return Err(Error::Wrong {
                what: "system calls tried by a child",
                expected: "at least one".into(),
                got: alloc::format!("none, and status {status}"),
            });
        }
    }
    let states = states.as_mut();
    Ok(numbers().filter(|number| states[*number] == ANSWERED).count() as u64)
}

fn numbers() -> impl Iterator<Item = usize> {
    RANGES.into_iter().flatten().filter(|number| !LEFT_OUT.contains(&(*number as libc::c_long)))
}

/// The child's part: every call from `first` on.
fn try_from(first: usize, states: &mut [u8]) -> i32 {
    for number in numbers().skip_while(|number| *number < first) {
        // Volatile, for the kernel may end this process in the next line.
        // SAFETY: a reference is valid for writing.
        unsafe { core::ptr::from_mut(&mut states[number]).write_volatile(TRYING) };
        // SAFETY: takes a number only.
        unsafe { libc::alarm(PATIENCE_S) };
        // SAFETY: no argument is a valid pointer, descriptor, length or flag, so that no call that
        // is not left out reads or changes any memory of this process, which ends soon.
        let result = unsafe { libc::syscall(number as libc::c_long, -1, -1, -1, -1, -1, -1) };
        let errno = if result == -1 { crate::Errno::last().0 } else { 0 };
        let is_refused = matches!(errno, libc::ENOSYS | libc::EPERM);
        states[number] = if is_refused { REFUSED } else { ANSWERED };
    }
    0
}
