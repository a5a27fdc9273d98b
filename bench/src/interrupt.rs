//! Ctrl-C and SIGTERM: a flag that ends the run in good order at the next wake.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

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
