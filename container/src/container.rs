//! A running container.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::cgroup::{CgroupStatistics, Leaf};
use crate::error::Error;
use crate::network::Station;

/// A started container. Dropping it kills what runs, reaps it and removes its cgroup;
/// [`Container::remove`] does the same and tells of errors. An interface on a bridge is removed by
/// [`Container::remove`]; dropped, it is left to the kernel.
///
/// It dies with the *thread* that started it (`PR_SET_PDEATHSIG`), so that nothing outlives a tare
/// that is killed: start containers from a thread that lives long enough.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    pidfd: OwnedFd,
    exit: Option<Exit>,
    leaf: Option<Leaf>,
    station: Option<Station>,
    terminal: Option<OwnedFd>,
}

/// How a container's program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit status or signal.
    pub end: End,
    /// What it used, its waited-for children included.
    pub usage: Usage,
}

/// Exit status or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// It was ended by this signal; whether a core was dumped.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
}

/// Resource usage, from `getrusage(2)`'s structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Most resident memory of the largest process. **An upper bound**: the kernel counts the
    /// memory image that was replaced at exec, which was the caller's own, so this is never less
    /// than the caller's peak at the start. See [`Usage::own_max_rss_bytes`].
    pub max_rss_bytes: u64,
    /// Time in user mode.
    pub user_us: u64,
    /// Time in the kernel, set-up of the box included.
    pub system_us: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// Times it waited for something.
    pub voluntary_switches: u64,
    /// Times it was made to give up the processor.
    pub involuntary_switches: u64,
    /// The caller's own peak when the program had ended.
    caller_max_rss_bytes: u64,
}

impl Usage {
    /// The peak of resident memory if it is certainly the program's: `None` when it is not above
    /// the caller's own, by which the kernel's figure is then hidden. Ask for a cgroup
    /// ([`Limits::accounting`](crate::Limits)) or let the program report its `VmHWM`.
    #[must_use]
    pub fn own_max_rss_bytes(&self) -> Option<u64> {
        (self.max_rss_bytes > self.caller_max_rss_bytes).then_some(self.max_rss_bytes)
    }

    fn from_rusage(usage: &libc::rusage) -> Usage {
        let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        Usage {
            max_rss_bytes: usage.ru_maxrss as u64 * 1024,
            user_us: us(usage.ru_utime),
            system_us: us(usage.ru_stime),
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
            voluntary_switches: usage.ru_nvcsw as u64,
            involuntary_switches: usage.ru_nivcsw as u64,
            caller_max_rss_bytes: caller_max_rss_bytes(),
        }
    }
}

impl Exit {
    /// Whether it exited with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }

    /// The status a shell would show: the exit status, or 128 and the signal.
    #[must_use]
    pub fn shell_status(&self) -> i32 {
        match self.end {
            End::Exited(status) => status,
            End::Signaled { signal, .. } => 128 + signal,
        }
    }
}

impl Container {
    pub(crate) fn new(
        pid: i32,
        pidfd: OwnedFd,
        leaf: Option<Leaf>,
        station: Option<Station>,
        terminal: Option<OwnedFd>,
    ) -> Container {
        Container { pid, pidfd, exit: None, leaf, station, terminal }
    }

    /// Our end of its terminal, if the spec asks for one; the first call has it. Not blocking.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The program's process id on the host. Valid for `/proc/PID` until it has been waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Becomes readable when the program has ended (`pidfd_open(2)`), for `poll` and `epoll`.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits until the program has ended, and reaps it. With a pid namespace all other processes
    /// of the box have ended then too.
    ///
    /// # Errors
    /// The process was reaped by someone else (`SIGCHLD` ignored, or another `wait` in the
    /// caller).
    pub fn wait(&mut self) -> Result<Exit, Error> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let exit = reap(self.pidfd.as_fd(), 0)?.ok_or_else(|| Error::System {
            action: "wait for the container",
            source: io::ErrorKind::WouldBlock.into(),
        })?;
        self.exit = Some(exit);
        Ok(exit)
    }

    /// As [`Container::wait`], but `None` at once if the program still runs.
    ///
    /// # Errors
    /// As [`Container::wait`].
    pub fn try_wait(&mut self) -> Result<Option<Exit>, Error> {
        if self.exit.is_none() {
            self.exit = reap(self.pidfd.as_fd(), libc::WNOHANG)?;
        }
        Ok(self.exit)
    }

    /// Sends a signal to the program. As first process of a pid namespace it ignores all signals
    /// that it has no handler for, `SIGKILL` and `SIGSTOP` excepted.
    ///
    /// # Errors
    /// The system's error; a program that has ended already is none.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        if self.exit.is_some() {
            return Ok(());
        }
        match crate::container::signal(self.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(source) => Err(Error::System { action: "signal the container", source }),
            Ok(()) => Ok(()),
        }
    }

    /// Kills the program; with a pid namespace that ends all processes of the box.
    ///
    /// # Errors
    /// As [`Container::signal`].
    pub fn kill(&self) -> Result<(), Error> {
        self.signal(libc::SIGKILL)
    }

    /// What the cgroup has counted; `None` if the container has none. Works after the end, until
    /// the container is removed.
    ///
    /// # Errors
    /// A control file cannot be read.
    pub fn cgroup(&self) -> Result<Option<CgroupStatistics>, Error> {
        Ok(self.leaf.as_ref().map(Leaf::statistics).transpose()?)
    }

    /// The cgroup's directories on the host, one in each hierarchy; empty without limits.
    #[must_use]
    pub fn cgroup_paths(&self) -> Vec<PathBuf> {
        self.leaf.as_ref().map(Leaf::paths).unwrap_or_default()
    }

    /// Its address, if it has a [station](crate::Spec::stations).
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.station.as_ref().map(Station::address)
    }

    /// Ends the container if it still runs, reaps it and removes its cgroup and its interface on a
    /// bridge.
    ///
    /// # Errors
    /// What could not be ended or removed. Whatever can be is removed nonetheless.
    pub fn remove(mut self) -> Result<Exit, Error> {
        let ended = self.end();
        let removed = self.leaf.take().map_or(Ok(()), Leaf::remove);
        let disconnected = self.station.take().map_or(Ok(()), Station::remove);
        let exit = ended?;
        removed?;
        disconnected?;
        Ok(exit)
    }

    fn end(&mut self) -> Result<Exit, Error> {
        if let Some(exit) = self.try_wait()? {
            return Ok(exit);
        }
        self.kill()?;
        self.wait()
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The cgroup goes after the process, by its own Drop.
        let _ = self.end();
    }
}

/// Sends a signal to the process behind `pidfd`.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers; a null siginfo is allowed.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for the process behind `pidfd`; `None` if it still runs (`WNOHANG`).
pub(crate) fn reap(pidfd: BorrowedFd<'_>, options: i32) -> Result<Option<Exit>, Error> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both structures are large enough (the kernel's rusage is a prefix of the C
        // library's). The raw call is needed because waitid(3) does not pass rusage.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                info.as_mut_ptr(),
                libc::WEXITED | libc::__WALL | options,
                usage.as_mut_ptr(),
            )
        };
        if result >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::System { action: "wait for the container", source: error });
        }
    }
    // SAFETY: zeroed, then filled by the kernel; all bit patterns are valid integers.
    let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
    // SAFETY: a siginfo of waitid has the fields of SIGCHLD.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let end = match info.si_code {
        libc::CLD_EXITED => End::Exited(status),
        code => End::Signaled { signal: status, core: code == libc::CLD_DUMPED },
    };
    Ok(Some(Exit { end, usage: Usage::from_rusage(&usage) }))
}

fn caller_max_rss_bytes() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is large enough; the call cannot fail with these arguments, and a
    // zeroed structure would be valid as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_maxrss as u64 * 1024
}
