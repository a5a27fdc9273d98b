//! Ending or pausing a running guest from another thread.
//!
//! `KVM_RUN` looks at `immediate_exit` in the vCPU's shared page before it enters the guest, and
//! leaves the guest for a pending signal. Stopping sets the one and sends the other: whether the
//! vCPU's thread is before, in or after `KVM_RUN`, it comes back with `EINTR`, and no order of
//! events can lose the request (Documentation/virt/kvm/api.rst, "immediate_exit").

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VcpuFd;

use crate::End;

/// Nobody asked for anything. The wishes are ordered: a stop outweighs a pause.
const NOTHING: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;

/// Ends [`Vmm::run`](crate::Vmm::run); made by [`Vmm::stopper`](crate::Vmm::stopper).
///
/// Stopping before `run` makes it return at once, stopping after it has returned does nothing.
/// `run` installs an empty handler for the signal `SIGRTMIN` in the process, unblocks it in the
/// calling thread, and leaves both so.
#[derive(Debug, Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `NOTHING`, `PAUSE` or `STOP`; changed under the lock of `targets`.
    asked: AtomicU8,
    targets: Mutex<Vec<Target>>,
}

/// A vCPU's thread that is in `run`.
#[derive(Debug)]
struct Target {
    immediate_exit: *const AtomicU8,
    process: libc::pid_t,
    thread: libc::pid_t,
}

// SAFETY: the address is used only under the lock that guards the `Target`, and `Running` removes
// it under the same lock before the vCPU's page is unmapped.
unsafe impl Send for Target {}

impl Stopper {
    pub(crate) fn new() -> Stopper {
        Stopper { shared: Arc::default() }
    }

    /// Asks the guest's threads to leave the guest for good. Returns at once.
    pub fn stop(&self) {
        self.ask(STOP);
    }

    /// Asks the guest's threads to leave the guest for now: `run` returns with
    /// [`End::Paused`](crate::End::Paused), and goes on when it is called again. Returns at once.
    ///
    /// An [`Observer`](crate::Observer) may call it too: the vCPU then stands right behind the
    /// instruction that was observed. After [`stop`](Stopper::stop) it does nothing.
    pub fn pause(&self) {
        self.ask(PAUSE);
    }

    fn ask(&self, wish: u8) {
        let targets = self.lock();
        self.shared.asked.fetch_max(wish, Ordering::SeqCst);
        for target in targets.iter() {
            target.kick();
        }
    }

    /// How a vCPU whose `KVM_RUN` was interrupted ends its run, if it is to.
    pub(crate) fn asked(&self) -> Option<End> {
        match self.shared.asked.load(Ordering::SeqCst) {
            NOTHING => None,
            PAUSE => Some(End::Paused),
            _ => Some(End::Stopped),
        }
    }

    /// Whether the guest is to end for good.
    pub(crate) fn is_stopped(&self) -> bool {
        self.asked() == Some(End::Stopped)
    }

    /// All vCPUs have left for a pause, or the guest has ended before it came to one: the next run
    /// is not paused by it.
    pub(crate) fn paused(&self) {
        let _targets = self.lock();
        let (expected, new) = (PAUSE, NOTHING);
        // A stop stays.
        let _ =
            self.shared.asked.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Makes the calling thread the one to stop, as long as the returned value lives. The caller
    /// keeps `vcpu` alive for longer.
    pub(crate) fn enter(&self, vcpu: &mut VcpuFd) -> io::Result<Running> {
        listen()?;
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        // The C library's own gettid(3) answers from memory, wrongly in the child of a clone(2) that
        // was not the library's (musl, src/linux/gettid.c): the signal would reach nobody.
        // SAFETY: system calls without arguments.
        let (process, thread) = unsafe { (libc::getpid(), libc::syscall(libc::SYS_gettid)) };
        let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
        let target = Target { immediate_exit: immediate_exit.cast_const().cast(), process, thread };
        let mut targets = self.lock();
        match self.asked() {
            Some(_) => target.kick(),
            // It may be set from the pause before.
            None => target.calm(),
        }
        targets.push(target);
        drop(targets);
        Ok(Running { stopper: self.clone(), thread })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Target>> {
        // Nothing can panic under the lock.
        self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    /// Lets `KVM_RUN` enter the guest.
    fn calm(&self) {
        // SAFETY: as in `kick`.
        unsafe { &*self.immediate_exit }.store(0, Ordering::SeqCst);
    }

    fn kick(&self) {
        // SAFETY: the page is mapped as long as this value is in its place. The kernel and other
        // threads access the byte concurrently, which an atomic allows.
        unsafe { &*self.immediate_exit }.store(1, Ordering::SeqCst);
        // SAFETY: a system call on plain numbers; the thread is in `run`, so the number is its own.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, libc::SIGRTMIN()) };
    }
}

/// The calling thread can be stopped while this lives.
#[derive(Debug)]
pub(crate) struct Running {
    stopper: Stopper,
    thread: libc::pid_t,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.lock().retain(|target| target.thread != self.thread);
    }
}

/// Makes the signal interrupt system calls of this thread and do nothing else.
fn listen() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let signal = libc::SIGRTMIN();
    // SAFETY: all-zero bytes are a valid `sigaction` with an empty mask and no flags, in
    // particular without SA_RESTART; the handler does nothing, hence nothing unsafe. `set` is
    // initialised before use.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigaction(signal, &action, std::ptr::null_mut()) != 0
            || libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
