//! A container that runs, known by its first process: to be entered by another.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::container::Container;
use crate::error::Error;
use crate::namespace::NamespaceKind;

/// A container that runs.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    start_ticks: u64,
    pidfd: OwnedFd,
    cgroups: Vec<PathBuf>,
}

/// The cgroups of a container, open for a further process.
#[derive(Debug)]
pub(crate) struct Membership {
    /// `cgroup.procs` of hierarchies of version 1.
    pub(crate) v1: Vec<OwnedFd>,
    /// The directory of the unified hierarchy.
    pub(crate) unified: Option<OwnedFd>,
}

impl Running {
    /// That of a container of this process's.
    ///
    /// # Errors
    /// Too many open files; or it has ended already.
    pub fn of(container: &Container) -> Result<Running, Error> {
        let pidfd = container.pidfd().try_clone_to_owned().map_err(duplicate)?;
        let failed = |source| Error::System { action: "read /proc/PID/stat", source };
        let gone = || failed(io::Error::from_raw_os_error(libc::ESRCH));
        let pid = container.pid();
        let start_ticks = crate::cgroup::start_ticks(pid).map_err(failed)?.ok_or_else(gone)?;
        Ok(Running { pid, start_ticks, pidfd, cgroups: container.cgroup_paths() })
    }

    /// That whose first process is `pid` here and has been since `start_ticks` (field 22 of
    /// `/proc/PID/stat`), and whose cgroups are these; `None` if it has ended.
    ///
    /// # Errors
    /// The system's, but for there being no such process.
    pub fn find(
        pid: u32,
        start_ticks: u64,
        cgroups: Vec<PathBuf>,
    ) -> Result<Option<Running>, Error> {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            return match source.raw_os_error() {
                Some(libc::ESRCH | libc::EINVAL) => Ok(None),
                _ => Err(Error::System { action: "open the container's first process", source }),
            };
        }
        // SAFETY: `fd` is open and ours alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The descriptor is held: if the number is still of that process, it is ours.
        match crate::cgroup::start_ticks(pid) {
            Ok(Some(ticks)) if ticks == start_ticks => {
                Ok(Some(Running { pid, start_ticks, pidfd, cgroups }))
            }
            Ok(_) => Ok(None),
            Err(source) => Err(Error::System { action: "read /proc/PID/stat", source }),
        }
    }

    /// Its first process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Since when it has run: by this and its id [`Running::find`] knows it again.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// The system's; a process that has ended already is none.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        match crate::container::signal(self.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(source) => Err(Error::System { action: "signal the container", source }),
            Ok(()) => Ok(()),
        }
    }

    pub(crate) fn pidfd(&self) -> Result<OwnedFd, Error> {
        self.pidfd.try_clone().map_err(duplicate)
    }

    /// `CLONE_NEW*` of the namespaces that it does not share with this process: entering one's own
    /// user namespace is an error.
    pub(crate) fn namespaces(&self) -> Result<u32, Error> {
        let inode = |process: &str, kind: NamespaceKind| {
            let path = format!("/proc/{process}/ns/{}", kind.name());
            let id = fs::metadata(&path).map(|metadata| (metadata.dev(), metadata.ino()));
            id.map_err(|source| Error::Path {
                role: "namespace of the container",
                path: path.into(),
                source,
                remedy: "make sure that it runs, and be who started it, or root",
            })
        };
        let pid = self.pid.to_string();
        let mut flags = 0;
        for kind in NamespaceKind::ALL {
            if inode("self", kind)? != inode(&pid, kind)? {
                flags |= kind.flag();
            }
        }
        Ok(flags)
    }

    pub(crate) fn membership(&self) -> Result<Membership, Error> {
        let mut membership = Membership { v1: Vec::new(), unified: None };
        for path in &self.cgroups {
            let failed = |source| Error::Path {
                role: "cgroup of the container",
                path: path.clone(),
                source,
                remedy: "make sure that it runs, and be who started it, or root",
            };
            if path.join("cgroup.controllers").exists() {
                membership.unified = Some(File::open(path).map_err(failed)?.into());
            } else {
                let procs = OpenOptions::new().write(true).open(path.join("cgroup.procs"));
                membership.v1.push(procs.map_err(failed)?.into());
            }
        }
        Ok(membership)
    }
}

impl AsFd for Running {
    /// Its first process's pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Running {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}

fn duplicate(source: io::Error) -> Error {
    Error::System { action: "duplicate the container's pidfd", source }
}
