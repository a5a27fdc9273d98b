//! Whether others may look into this process while a child borrows its memory.
//!
//! A child that enters namespaces where others live already is seen by them; whoever may trace it
//! there reads and writes the memory it borrows, which is ours. Not dumpable, it can be traced only
//! with `CAP_SYS_PTRACE` where this program was executed, on the host (`ptrace(2)`). A child's change
//! of user clears the mark as well, in the memory that it shares: it is set back here.

use std::sync::{Mutex, PoisonError};

/// How many starts are under way, and what to set back after the last.
static STATE: Mutex<(usize, i32)> = Mutex::new((0, 0));

/// While it lives, this process is not dumpable.
#[derive(Debug)]
pub(crate) struct Undumpable(());

impl Undumpable {
    pub(crate) fn begin() -> Undumpable {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == 0 {
            // SAFETY: plain numbers.
            state.1 = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
            set(0);
        }
        state.0 += 1;
        Undumpable(())
    }
}

impl Drop for Undumpable {
    fn drop(&mut self) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        if state.0 == 0 {
            set(state.1);
        }
    }
}

fn set(value: i32) {
    // SAFETY: plain numbers; 2 cannot be set and is what it then is already.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, value, 0, 0, 0) };
}
