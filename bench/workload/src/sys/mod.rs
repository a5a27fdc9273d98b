//! The few system calls that workloads use, with errors instead of -1.
//!
//! Not a general library: what a workload times must be the call itself, and this crate has no
//! `std` to lean on.

mod aio;
mod directory;
mod file;
mod mapping;
mod process;

pub(crate) use aio::{Aio, Completion, Request};
pub(crate) use directory::entries;
pub(crate) use file::{File, c_path, set_nonblocking};
pub(crate) use mapping::Mapping;
pub(crate) use process::{
    Child, Pipe, affinity, current_pid, die_with, die_with_parent, exit_status, fork, pin,
};

use crate::Errno;

/// The kernel's page size on x86-64.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Turns the -1 convention into a `Result`.
pub(crate) fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// Turns the -1 convention of calls that return a size into a `Result`.
pub(crate) fn check_size(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno(libc::EINTR)) => {}
            result => return result,
        }
    }
}
