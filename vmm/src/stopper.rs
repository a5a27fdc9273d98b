//! Ending a running guest from another thread.
//!
//! `KVM_RUN` looks at `immediate_exit` in the vCPU's shared page before it enters the guest, and
//! leaves the guest for a pending signal. Stopping sets the one and sends the other: whether the
//! vCPU's thread is before, in or after `KVM_RUN`, it comes back with `EINTR`, and no order of
//! events can lose the request (Documentation/virt/kvm/api.rst, "immediate_exit").

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VcpuFd;

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
    asked: AtomicBool,
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
        self.shared.asked.store(true, Ordering::SeqCst);
        for target in self.lock().iter() {
            target.kick();
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Makes the calling thread the one to stop, as long as the returned value lives. The caller
    /// keeps `vcpu` alive for longer.
    pub(crate) fn enter(&self, vcpu: &mut VcpuFd) -> io::Result<Running> {
        listen()?;
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        // SAFETY: system calls without arguments.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        let target = Target { immediate_exit: immediate_exit.cast_const().cast(), process, thread };
        let mut targets = self.lock();
        if self.is_asked() {
            target.kick();
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
