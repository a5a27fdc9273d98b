//! Passing signals on to the command.

use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

use crate::sys::check;
use crate::{Context, Errno, Error};

/// Signals by which others ask a process to do something.
const FORWARDED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// The command, or 0 while there is none.
static COMMAND: AtomicI32 = AtomicI32::new(0);
/// A signal that came while there was none, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// While it lives, signals to this process go to the command.
pub(super) struct Forwarding {
    previous: [libc::sigaction; FORWARDED.len()],
    previous_child: libc::sigaction,
    previous_mask: libc::sigset_t,
}

/// Sends the signal on. One that the kernel itself raised, such as Ctrl-C at a terminal, has gone
/// to the whole foreground group, the command included.
extern "C" fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let command = COMMAND.load(Ordering::Relaxed);
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let is_from_kernel = unsafe { (*info).si_code } > 0;
    if command > 0 && !is_from_kernel {
        // SAFETY: async-signal-safe. The number is that of a child. Between the wait for it and the
        // removal of this handler it is free, but the kernel uses all other numbers first.
        unsafe { libc::kill(command, signal) };
    } else if command == 0 {
        PENDING.store(signal, Ordering::Relaxed);
    }
}

/// SIGCHLD needs a handler, however empty, to interrupt `ppoll`.
extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Forwarding {
    /// Installs the handlers, and blocks SIGCHLD so that `ppoll` alone lets it through.
    pub(super) fn begin() -> Result<Forwarding, Error> {
        COMMAND.store(0, Ordering::Relaxed);
        PENDING.store(0, Ordering::Relaxed);
        let mut previous = [empty_action(); FORWARDED.len()];
        for (signal, previous) in FORWARDED.into_iter().zip(&mut previous) {
            *previous = install(signal, &handler(forward)).on("sigaction", signal)?;
        }
        let previous_child = install(libc::SIGCHLD, &handler(wake)).on("sigaction", "SIGCHLD")?;
        let mut child = empty_set();
        let mut previous_mask = empty_set();
        // SAFETY: both sets are valid for reading and writing.
        check(unsafe {
            libc::sigaddset(&raw mut child, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const child, &raw mut previous_mask)
        })
        .on("sigprocmask", "SIGCHLD")?;
        Ok(Forwarding { previous, previous_child, previous_mask })
    }

    /// From now on signals go to `command`, the last of those that came before included.
    pub(super) fn forward_to(&self, command: libc::pid_t) {
        COMMAND.store(command, Ordering::Relaxed);
        let pending = PENDING.swap(0, Ordering::Relaxed);
        if pending > 0 {
            // SAFETY: touches no memory; the number is that of a child not yet waited for.
            unsafe { libc::kill(command, pending) };
        }
    }

    /// The signals that were blocked before; SIGCHLD is not, unless the box's starter did so.
    pub(super) fn mask(&self) -> &libc::sigset_t {
        &self.previous_mask
    }

    /// Gives a forked child back the signals as they were.
    pub(super) fn end_in_child(&self) -> Result<(), Errno> {
        self.restore()
    }

    fn restore(&self) -> Result<(), Errno> {
        for (signal, previous) in FORWARDED.into_iter().zip(&self.previous) {
            install(signal, previous)?;
        }
        install(libc::SIGCHLD, &self.previous_child)?;
        // SAFETY: the set is valid for reading.
        check(unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.previous_mask, ptr::null_mut())
        })
        .map(drop)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        COMMAND.store(0, Ordering::Relaxed);
        // It was set by the same calls: it can be set back.
        let _ = self.restore();
    }
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handler(function: Handler) -> libc::sigaction {
    let mut action = empty_action();
    action.sa_sigaction = function as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    action
}

fn install(signal: libc::c_int, action: &libc::sigaction) -> Result<libc::sigaction, Errno> {
    let mut previous = empty_action();
    // SAFETY: the handlers above do only what is async-signal-safe; the others are the kernel's
    // defaults or what this process had before.
    check(unsafe { libc::sigaction(signal, action, &raw mut previous) })?;
    Ok(previous)
}

fn empty_action() -> libc::sigaction {
    // SAFETY: plain numbers and an optional function, for which zero is a value.
    unsafe { core::mem::zeroed() }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: plain bits, of which zero is the empty set on Linux.
    unsafe { core::mem::zeroed() }
}
