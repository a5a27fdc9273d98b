//! A running box, as the harness sees it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Error;
use super::channel::Channel;
use super::memory::Scale;

/// How an instance's first host process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Exit status; `128 + n` where signal `n` ended it.
    pub code: i32,
    /// Largest resident size of the process, in bytes, where it is known to be its own: until
    /// exec(2) a process counts the memory of the one that started it.
    pub peak_rss_bytes: Option<u64>,
}

/// A running box. Dropping one kills it and removes what it holds.
pub trait Instance {
    /// Becomes readable when the instance's first host process has ended.
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// What the box writes to.
    fn channels(&mut self) -> &mut [Channel];
    /// Collects the ended process.
    ///
    /// # Errors
    /// [`Error::Drive`].
    fn reap(&mut self) -> Result<Reaped, Error>;
    /// Ends the box at once.
    fn kill(&mut self);
    /// How to weigh it while it lives.
    fn scale(&self) -> Scale;
    /// Whether the box's exit status is only known by its own word: the first host process is a
    /// VMM, whose status says nothing about the guest.
    fn speaks_for_itself(&self) -> bool {
        false
    }
    /// The socket on which the box's command hears what `tare_workload`'s `Line` describes, if its
    /// standard streams are relayed.
    fn conversation(&self) -> Option<BorrowedFd<'_>>;
    /// Whether the box gets the signals of this program's terminal by itself.
    fn shares_terminal(&self) -> bool {
        false
    }
    /// Gives back every resource: cgroup, mounts, network, files. After [`reap`](Instance::reap).
    ///
    /// # Errors
    /// [`Error::Drive`], naming what was left behind.
    fn clean(self: Box<Self>) -> Result<(), Error>;
}

/// A child process that is waited for by pidfd and killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    is_reaped: bool,
}

impl Child {
    /// Takes charge of a child of this process that nobody else waits for.
    pub(crate) fn adopt(pid: libc::pid_t) -> io::Result<Child> {
        // SAFETY: pidfd_open takes plain numbers; the result is checked below.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Ok(fd @ 0..) = i32::try_from(fd) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
        Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd) }, is_reaped: false })
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How to weigh it, where it is no VMM.
    pub(crate) fn scale(&self) -> Scale {
        Scale { pid: self.pid, guest_ram_bytes: None }
    }

    pub(crate) fn kill(&self) {
        // SAFETY: a signal to a pidfd cannot reach another process than the one it names.
        unsafe {
            let nothing = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                nothing,
                0,
            );
        }
    }

    pub(crate) fn reap(&mut self) -> io::Result<Reaped> {
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid value of that plain C structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live, writable values of the right types.
        while unsafe { libc::wait4(self.pid, &raw mut status, 0, &raw mut usage) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.is_reaped = true;
        let code = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            128 + libc::WTERMSIG(status)
        };
        // getrusage(2): ru_maxrss is in KiB.
        let peak_rss_bytes = usage.ru_maxrss.unsigned_abs() * 1024;
        let is_own = peak_rss_bytes > own_peak_rss_bytes();
        Ok(Reaped { code, peak_rss_bytes: is_own.then_some(peak_rss_bytes) })
    }
}

/// An instance that is one child process of the harness: a plain process, or a VMM.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) channels: Vec<Channel>,
    /// Size of the guest's RAM, where the child is a VMM.
    pub(crate) guest_ram_bytes: Option<u64>,
}

impl Instance for Running {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    fn channels(&mut self) -> &mut [Channel] {
        &mut self.channels
    }

    fn reap(&mut self) -> Result<Reaped, Error> {
        self.child.reap().map_err(Error::drive("cannot reap the instance's process"))
    }

    fn kill(&mut self) {
        self.child.kill();
    }

    fn scale(&self) -> Scale {
        Scale { pid: self.child.pid, guest_ram_bytes: self.guest_ram_bytes }
    }

    fn speaks_for_itself(&self) -> bool {
        self.guest_ram_bytes.is_some()
    }

    fn conversation(&self) -> Option<BorrowedFd<'_>> {
        self.channels.iter().find_map(Channel::conversation)
    }

    fn shares_terminal(&self) -> bool {
        self.guest_ram_bytes.is_none()
    }

    fn clean(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// An instance that is a container of ours: a boxed process, or a jailed VMM.
pub(crate) struct Jailed {
    pub(crate) container: tare_container::Container,
    pub(crate) channels: Vec<Channel>,
    /// Size of the guest's RAM, where the container is a VMM.
    pub(crate) guest_ram_bytes: Option<u64>,
}

impl Instance for Jailed {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.container.pidfd()
    }

    fn channels(&mut self) -> &mut [Channel] {
        &mut self.channels
    }

    fn reap(&mut self) -> Result<Reaped, Error> {
        let exit = self.container.wait().map_err(io::Error::other);
        let exit = exit.map_err(Error::drive("cannot reap the container"))?;
        Ok(Reaped { code: exit.shell_status(), peak_rss_bytes: exit.usage.own_max_rss_bytes() })
    }

    fn kill(&mut self) {
        // Where it has ended by itself meanwhile, there is nothing left to kill.
        let _ = self.container.kill();
    }

    fn scale(&self) -> Scale {
        Scale { pid: self.container.pid().cast_signed(), guest_ram_bytes: self.guest_ram_bytes }
    }

    fn speaks_for_itself(&self) -> bool {
        self.guest_ram_bytes.is_some()
    }

    fn conversation(&self) -> Option<BorrowedFd<'_>> {
        self.channels.iter().find_map(Channel::conversation)
    }

    fn clean(self: Box<Self>) -> Result<(), Error> {
        let removed = self.container.remove().map_err(io::Error::other);
        removed.map(drop).map_err(Error::drive("cannot remove the container's cgroup"))
    }
}

/// Largest resident size that this process has had.
fn own_peak_rss_bytes() -> u64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
            let _ = self.reap();
        }
    }
}
