//! A container ready to be started, and its start.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::cgroup::{Groups, Leaf};
use crate::child::{self, Failure, Start};
use crate::compile::{Compiled, POLL_READABLE, above, compile, search_path};
use crate::container::{Container, reap};
use crate::error::{Error, Stage};
use crate::network::Stations;
use crate::script::REGISTERS;
use crate::spec::{Namespaces, Program, Rootfs, Spec};

/// A container ready to be started, any number of times and from any thread.
#[derive(Debug)]
pub struct Prepared {
    compiled: Compiled,
    groups: Option<Arc<Groups>>,
    namespaces: u64,
    /// A change of user makes the kernel mark the shared memory, and so the caller, as not
    /// dumpable; this is what to set it back to.
    dumpable: Option<i32>,
    rootfs: Rootfs,
    stations: Option<Stations>,
    command: Option<String>,
    searched: Option<String>,
}

impl Spec {
    /// Checks everything that can be checked beforehand and compiles the start into a list of
    /// system calls. Not timed; nothing of it runs again at a start.
    ///
    /// # Errors
    /// The spec contradicts itself, a path cannot be used, or limits are asked for and cgroups
    /// are missing or not writable.
    pub fn prepare(mut self) -> Result<Prepared, Error> {
        if matches!(self.program, Program::Caller) {
            return Err(Error::Invalid {
                field: "program",
                problem: "the caller's own code is not executed".to_owned(),
                remedy: "use Spec::jail, or name a program",
            });
        }
        self.rootfs = self.rootfs.canonical()?;
        let groups = Groups::prepare(&self.limits)?.map(Arc::new);
        let v1 = groups.as_ref().map_or(0, |g| g.hierarchies.iter().filter(|h| !h.unified).count());
        let mut namespaces = self.namespaces.made(&self);
        if groups.is_some() {
            // Made by the child itself, once it is in its cgroup.
            namespaces = namespaces.without(Namespaces::CGROUP);
        }
        let (command, searched) = match &self.program {
            Program::File(_) | Program::Caller => (None, None),
            Program::Command(command) => {
                let command = command.to_string_lossy().into_owned();
                let path = search_path(&self.env).to_string_lossy().into_owned();
                let searched = (!command.contains('/')).then_some(path);
                (Some(command), searched)
            }
        };
        Ok(Prepared {
            namespaces: namespaces.flags(),
            dumpable: self.user.is_some().then(dumpable),
            rootfs: self.rootfs.clone(),
            stations: self.stations.clone(),
            compiled: compile(self, v1, groups.is_some())?,
            groups,
            command,
            searched,
        })
    }
}

impl Prepared {
    /// Starts one container. Returns when its program has begun to execute.
    ///
    /// # Errors
    /// The program does not exist or cannot be executed; a step of the set-up failed; the cgroup
    /// could not be made. Nothing is left in any case.
    pub fn spawn(&self) -> Result<Container, Error> {
        self.spawn_with(&[])
    }

    /// As [`Prepared::spawn`], with descriptors for the spec's [`Stream::Slot`](crate::Stream)s,
    /// in order: the pipe of this very start, for example.
    ///
    /// # Errors
    /// As [`Prepared::spawn`]; also if there are not as many descriptors as slots.
    pub fn spawn_with(&self, slots: &[BorrowedFd<'_>]) -> Result<Container, Error> {
        if slots.len() != self.compiled.slots {
            return Err(Error::Invalid {
                field: "slots",
                problem: format!("{} given, {} needed", slots.len(), self.compiled.slots),
                remedy: "give spawn_with one descriptor for each slot of the spec",
            });
        }
        let leaf = self.groups.as_ref().map(Leaf::make).transpose()?;
        let mut registers = [0usize; REGISTERS];
        let mut filled = registers.iter_mut();
        let mut fill = |value: usize| {
            if let Some(slot) = filled.next() {
                *slot = value;
            }
        };
        let parent = open_own_pidfd()?;
        fill(parent.as_raw_fd() as usize | POLL_READABLE);
        let station = self.stations.as_ref().map(Stations::take).transpose()?;
        if let Some(station) = &station {
            fill(station.as_raw_fd() as usize);
        }
        let mut moved = [const { None }; 32];
        for (fd, place) in slots.iter().zip(&mut moved) {
            let number = if fd.as_raw_fd() > self.compiled.highest {
                fd.as_raw_fd()
            } else {
                place.insert(above(*fd, self.compiled.highest)?).as_raw_fd()
            };
            fill(number as usize);
        }
        let procs = leaf.as_ref().map(Leaf::open_v1_procs).transpose()?;
        for file in procs.iter().flatten().flatten() {
            fill(file.as_raw_fd() as usize);
        }
        let started = child::start(&Start {
            calls: self.compiled.script.calls(),
            registers: &registers,
            namespaces: self.namespaces,
            cgroup: leaf.as_ref().and_then(Leaf::unified),
        });
        if let Some(before) = self.dumpable {
            set_dumpable(before);
        }
        let started = started.map_err(|errno| clone_error(io::Error::from_raw_os_error(errno)))?;
        // SAFETY: clone3 made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(started.pidfd) };
        match started.failure {
            None => Ok(Container::new(started.pid, pidfd, leaf, station)),
            Some(failure) => {
                use std::os::fd::AsFd;
                let _ = reap(pidfd.as_fd(), 0);
                Err(self.explain(failure))
            }
        }
    }

    /// The steps of the start in words, in order: what a start pays for.
    pub fn steps(&self) -> impl Iterator<Item = String> + '_ {
        self.compiled.script.describe()
    }

    fn explain(&self, failure: Failure) -> Error {
        let source = io::Error::from_raw_os_error(failure.errno);
        match self.compiled.script.note(failure.index) {
            Some(note) if note.stage == Stage::Execute => self.explain_execute(failure, source),
            Some(_) => self.compiled.script.explain(failure),
            None => self.explain_execute(failure, source),
        }
    }

    fn explain_execute(&self, failure: Failure, source: io::Error) -> Error {
        let command = self.command.clone().unwrap_or_else(|| "(open file)".to_owned());
        let missing = matches!(failure.errno, libc::ENOENT | libc::ENOTDIR);
        if missing && failure.denied && self.searched.is_some() {
            let source = io::Error::from_raw_os_error(libc::EACCES);
            let remedy = "make a file of that name in PATH executable (chmod +x)";
            return Error::CommandNotExecutable { command, source, remedy };
        }
        if missing && self.command.is_some() && !self.present(&command) {
            return Error::CommandNotFound { command, searched: self.searched.clone() };
        }
        let remedy = match failure.errno {
            libc::ENOENT | libc::ENOTDIR => {
                "its interpreter or dynamic loader is missing in the box: add it, or use a static \
                 program"
            }
            libc::EACCES => "make it an executable file (chmod +x) on a mount without noexec",
            libc::ENOEXEC => "give a program for this machine, or a script with a #! line",
            libc::E2BIG => "shorten arguments and environment",
            _ => "see the system's error",
        };
        Error::CommandNotExecutable { command, source, remedy }
    }

    /// Whether the command is in the root file system after all, so that something else that it
    /// needs must be missing.
    fn present(&self, command: &str) -> bool {
        if command.is_empty() {
            return false;
        }
        match &self.searched {
            None => self.rootfs.has(Path::new(command)),
            Some(path) => path.split(':').any(|dir| self.rootfs.has(&Path::new(dir).join(command))),
        }
    }
}

pub(crate) fn open_own_pidfd() -> Result<OwnedFd, Error> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    if fd < 0 {
        return Err(Error::last("open a pidfd of this process"));
    }
    // SAFETY: `fd` is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn dumpable() -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }
}

fn set_dumpable(value: i32) {
    // SAFETY: plain numbers; 2 cannot be set and is what it then is already.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, value, 0, 0, 0) };
}

pub(crate) fn clone_error(source: io::Error) -> Error {
    let remedy = match source.raw_os_error() {
        Some(libc::EPERM) => "run as root: namespaces need CAP_SYS_ADMIN",
        Some(libc::ENOSYS) => "use Linux 5.12 or newer, outside of filters that refuse clone3",
        Some(libc::ENOSPC | libc::EUSERS) => {
            "raise the limit of namespaces (/proc/sys/user/max_*_namespaces)"
        }
        Some(libc::EAGAIN) => "raise the limit of processes (ulimit -u, pids.max)",
        Some(libc::EINVAL) => "the running kernel lacks one of the namespaces: enable it",
        Some(libc::EBUSY | libc::EOPNOTSUPP) => {
            "the cgroup cannot take processes: check its cgroup.type and subtree_control"
        }
        _ => "see the system's error",
    };
    Error::Clone { source, remedy }
}
