//! The least that any start can cost: measured floors.
//!
//! A container's start is compared with what the kernel needs for its two unavoidable parts: a new
//! process that executes a static program and is reaped, and the same in new namespaces. Both do
//! nothing else: no descriptors or signals are arranged, no privileges dropped, nothing mounted. The
//! program starts with all signals blocked, and should do nothing but exit.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use crate::child::{self, Start};
use crate::compile::bare;
use crate::container::{Exit, reap};
use crate::error::Error;
use crate::namespace::Namespaces;
use crate::script::Script;

/// A static program, ready to be executed with nothing around it.
#[derive(Debug)]
pub struct Floor {
    script: Script,
    program: OwnedFd,
}

impl Floor {
    /// `program` is a static executable that ends by itself; `args` its `argv`.
    ///
    /// # Errors
    /// A zero byte in an argument.
    pub fn new(program: OwnedFd, args: &[std::ffi::OsString]) -> Result<Floor, Error> {
        Ok(Floor { script: bare(program.as_fd(), args)?, program })
    }

    /// vfork, exec, wait.
    ///
    /// # Errors
    /// No process could be made, or the program could not be executed.
    pub fn vfork_exec(&self) -> Result<Exit, Error> {
        self.run(Namespaces::NONE)
    }

    /// The same in new pid, mount, uts, ipc, cgroup and net namespaces.
    ///
    /// # Errors
    /// As [`Floor::vfork_exec`]; also without privileges.
    pub fn clone3_all_namespaces(&self) -> Result<Exit, Error> {
        self.run(Namespaces::ALL)
    }

    /// The same in `namespaces`.
    ///
    /// # Errors
    /// As [`Floor::vfork_exec`]; also without privileges.
    pub fn run(&self, namespaces: Namespaces) -> Result<Exit, Error> {
        let started = child::start(&Start {
            calls: self.script.calls(),
            registers: &[],
            namespaces: namespaces.flags(),
            cgroup: None,
            entry: 0,
            pid: None,
        })
        .map_err(|errno| Error::Clone {
            source: std::io::Error::from_raw_os_error(errno),
            remedy: "run as root: namespaces need CAP_SYS_ADMIN",
        })?;
        // SAFETY: clone3 made this descriptor for us alone.
        let pidfd = started.process.map(|(_, fd)| unsafe { OwnedFd::from_raw_fd(fd) });
        let exit = pidfd.map_or(Ok(None), |pidfd| reap(pidfd.as_fd(), 0))?;
        match (started.failure, exit) {
            (None, Some(exit)) => Ok(exit),
            (failure, _) => Err(Error::CommandNotExecutable {
                command: format!("descriptor {:?}", self.program),
                source: std::io::Error::from_raw_os_error(failure.map_or(0, |f| f.errno)),
                remedy: "give an open static executable",
            }),
        }
    }
}
