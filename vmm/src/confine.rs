//! What the threads of a running microVM may ask of the kernel: a seccomp filter for each kind of
//! thread (Linux, Documentation/userspace-api/seccomp_filter.rst).
//!
//! A thread under its filter can serve the guest and nothing else: it opens no file, starts no
//! program or thread, makes no memory executable and reaches no network but through descriptors
//! that are open already and Unix sockets. Anything else ends the process (`SIGSYS`), for then the
//! guest has taken the VMM over.

use std::io;

use thiserror::Error;

use crate::devices::VHOST_REQUESTS;
use crate::filter::{Check, Filter, Rule};

/// A thread could not be put under its filter.
#[derive(Debug, Error)]
#[error(
    "cannot confine the {thread} thread: {error}; run a kernel with CONFIG_SECCOMP_FILTER, or turn confinement off"
)]
pub struct ConfineError {
    thread: &'static str,
    #[source]
    error: io::Error,
}

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs the guest, and devices at its exits.
    Vcpu,
    /// Serves devices to which the host speaks first.
    Device,
}

/// System calls of both kinds: moving data, the allocator, locks, the clock, the end, and the
/// removal of a socket's name when the microVM goes.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_io_uring_enter,
    libc::SYS_lstat,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_poll,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_stat,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_unlink,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What the device thread waits and accepts with.
const DEVICE: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fcntl,
    libc::SYS_set_robust_list,
];

/// Requests to KVM (include/uapi/linux/kvm.h): `_IOC` of type 0xAE.
const KVM_RUN: u32 = 0xae80;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_IRQ_LINE: u32 = 0x4008_ae61;
/// What a network driver chooses its offloads with (include/uapi/linux/if_tun.h).
const TUNSETOFFLOAD: u32 = 0x4004_54d0;

/// The filters of both kinds.
pub(crate) struct Filters {
    vcpu: Filter,
    device: Filter,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Filters").finish_non_exhaustive()
    }
}

impl Filters {
    /// For threads that serve a device of the kernel's besides, or not.
    pub(crate) fn new(vhost: bool) -> Result<Filters, ConfineError> {
        let of = |kind: Kind| Filter::new(&rules(kind, vhost)).map_err(kind.failed());
        Ok(Filters { vcpu: of(Kind::Vcpu)?, device: of(Kind::Device)? })
    }

    /// Puts the calling thread under the filter of its kind, for good.
    ///
    /// # Errors
    ///
    /// The kernel has no seccomp filters.
    pub(crate) fn apply(&self, kind: Kind) -> Result<(), ConfineError> {
        let filter = match kind {
            Kind::Vcpu => &self.vcpu,
            Kind::Device => &self.device,
        };
        filter.install().map_err(kind.failed())
    }
}

impl Kind {
    fn failed(self) -> impl Fn(io::Error) -> ConfineError {
        let thread = match self {
            Kind::Vcpu => "vCPU",
            Kind::Device => "device",
        };
        move |error| ConfineError { thread, error }
    }
}

fn rules(kind: Kind, vhost: bool) -> Vec<Rule> {
    let not_executable = Check::Without(2, libc::PROT_EXEC as u32);
    let (calls, requests): (&[_], &[_]) = match kind {
        Kind::Vcpu => (&[], &[KVM_RUN, KVM_IRQ_LINE, KVM_GET_REGS, TUNSETOFFLOAD]),
        Kind::Device => (DEVICE, &[KVM_IRQ_LINE, libc::FIONBIO as u32]),
    };
    let more: &[_] = if vhost { &VHOST_REQUESTS } else { &[] };
    let mut rules = Vec::with_capacity(COMMON.len() + calls.len() + 4);
    rules.extend(COMMON.iter().chain(calls).map(|&call| (call, Check::Any)));
    if kind == Kind::Vcpu {
        // The standard library looks at descriptors that it closes, unless it is told to hurry.
        rules.push((libc::SYS_fcntl, Check::OneOf(1, &[libc::F_GETFD as u32], &[])));
    }
    rules.extend([
        (libc::SYS_ioctl, Check::OneOf(1, requests, more)),
        (libc::SYS_mmap, not_executable),
        (libc::SYS_mprotect, not_executable),
        (libc::SYS_setsockopt, Check::OneOf(1, &[libc::SOL_SOCKET as u32], &[])),
        (libc::SYS_socket, Check::OneOf(0, &[libc::AF_UNIX as u32], &[])),
    ]);
    rules
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Runs `act` in a child under the filter; returns its wait status.
    fn confined(kind: Kind, act: impl FnOnce()) -> i32 {
        // SAFETY: the child uses what a forked child of a threaded process may: it allocates
        // nothing but through musl's allocator, whose lock a fork leaves free, and ends by _exit.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let code = if Filters::new(false).is_ok_and(|filters| filters.apply(kind).is_ok()) {
                    0
                } else {
                    3
                };
                if code == 0 {
                    act();
                }
                libc::_exit(code);
            }
            assert!(pid > 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            status
        }
    }

    fn is_killed(status: i32) -> bool {
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
    }

    #[test]
    fn test_forbidden_call_kills() {
        let forbidden: [fn(); 5] = [
            || drop(std::fs::File::open("/dev/null")),
            || {
                // SAFETY: a system call on plain numbers.
                unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
            },
            || {
                // SAFETY: a system call on plain numbers.
                unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            },
            || {
                // SAFETY: the request is none of descriptor 0's that writes anything.
                unsafe { libc::ioctl(0, 0, 0) };
            },
            || {
                let protection = libc::PROT_READ | libc::PROT_EXEC;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                // SAFETY: a new mapping changes no other.
                unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            },
        ];
        for kind in [Kind::Vcpu, Kind::Device] {
            for (index, act) in forbidden.into_iter().enumerate() {
                let status = confined(kind, act);
                assert!(is_killed(status), "{kind:?} {index}: {status:#x}");
            }
        }
    }

    #[test]
    fn test_ordinary_work_goes_on() {
        for kind in [Kind::Vcpu, Kind::Device] {
            let status = confined(kind, || {
                let memory = vec![1_u8; 1 << 20];
                let _ = std::io::stderr().write(&memory[..0]);
                // SAFETY: a plain system call.
                let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
                assert!(socket >= 0);
            });
            assert_eq!(status, 0, "{kind:?}: {status:#x}");
        }
    }

    #[test]
    fn test_device_thread_connects_and_accepts_and_removes_the_name() {
        use std::os::unix::net::{UnixListener, UnixStream};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let status = confined(Kind::Device, || {
            let stream = UnixStream::connect(&path);
            assert!(listener.accept().is_ok());
            assert!(stream.is_ok_and(|stream| stream.set_nonblocking(true).is_ok()));
            assert!(std::fs::symlink_metadata(&path).is_ok());
            assert!(std::fs::remove_file(&path).is_ok());
        });
        assert_eq!(status, 0, "{status:#x}");
        assert!(!path.exists());
    }

    #[test]
    fn test_only_a_vcpu_may_enter_a_guest_and_only_the_device_thread_waits() {
        let enter: fn() = || {
            // SAFETY: descriptor -1 is none.
            unsafe { libc::ioctl(-1, KVM_RUN as _, 0) };
        };
        assert_eq!(confined(Kind::Vcpu, enter), 0);
        assert!(is_killed(confined(Kind::Device, enter)));
        let wait: fn() = || {
            // SAFETY: descriptor -1 is none, so nothing is written.
            unsafe { libc::epoll_wait(-1, std::ptr::null_mut(), 1, 0) };
        };
        assert_eq!(confined(Kind::Device, wait), 0);
        assert!(is_killed(confined(Kind::Vcpu, wait)));
    }
}
