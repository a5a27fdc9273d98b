//! A container ready to be started, and its start.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::cgroup::{Groups, Leaf};
use crate::child::{self, Failure, Start};
use crate::compile::{
    Compiled, POLL_READABLE, Surroundings, above, compile, compile_into, enters_users, search_path,
};
use crate::container::{Container, reap};
use crate::dumpable::Undumpable;
use crate::error::{Error, Stage};
use crate::namespace::{NamespaceKind, Namespaces, UserNamespace};
use crate::network::Stations;
use crate::running::{Membership, Running};
use crate::script::REGISTERS;
use crate::spec::{Program, Rootfs, Spec};
use crate::terminal::receive;

/// A container ready to be started, any number of times and from any thread.
#[derive(Debug)]
pub struct Prepared {
    compiled: Compiled,
    place: Place,
    namespaces: u64,
    /// Whether a start changes the user or enters where others live: see `dumpable.rs`.
    is_exposed: bool,
    has_terminal: bool,
    waits: bool,
    rootfs: Rootfs,
    stations: Option<Stations>,
    command: Option<String>,
    searched: Option<String>,
}

/// In which cgroups a start is made.
#[derive(Debug)]
enum Place {
    /// The caller's.
    Callers,
    /// One of its own.
    Own(Arc<Groups>),
    /// That of a container that is there already.
    Of(Arc<Membership>),
}

/// A point of the start at which [`Prepared::spawn_attended`] lets the caller act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The namespaces are made; the root is still the host's.
    Made,
    /// The box is complete; nothing of its program has begun.
    Furnished,
}

impl Spec {
    /// Checks everything that can be checked beforehand and compiles the start into a list of
    /// system calls. Not timed; nothing of it runs again at a start.
    ///
    /// # Errors
    /// The spec contradicts itself, a path cannot be used, or limits are asked for and cgroups
    /// are missing or not writable.
    pub fn prepare(self) -> Result<Prepared, Error> {
        self.prepare_with(false)
    }

    /// As [`Spec::prepare`], for starts that are attended: see [`Prepared::spawn_attended`].
    ///
    /// # Errors
    /// As [`Spec::prepare`].
    pub fn prepare_attended(self) -> Result<Prepared, Error> {
        self.prepare_with(true)
    }

    fn prepare_with(mut self, waits: bool) -> Result<Prepared, Error> {
        self.check_program()?;
        self.rootfs = self.rootfs.canonical()?;
        let groups = Groups::prepare(&self.limits, &self.resources)?.map(Arc::new);
        let v1 = groups.as_ref().map_or(0, |g| g.hierarchies.iter().filter(|h| !h.unified).count());
        let mut namespaces = self.namespaces.made(&self);
        if groups.is_some() {
            // Made by the child itself, once it is in its cgroup.
            namespaces = namespaces.without(Namespaces::CGROUP);
        }
        let users = self.user_namespace.as_ref().map(UserNamespace::make).transpose()?;
        let (command, searched) = self.command();
        let has_pid = self.joined.iter().any(|joined| joined.kind == NamespaceKind::Pid);
        let grouped = groups.is_some();
        Ok(Prepared {
            namespaces: namespaces.flags(),
            is_exposed: self.user.is_some() || enters_users(&self) || has_pid,
            has_terminal: self.terminal.is_some(),
            waits,
            rootfs: self.rootfs.clone(),
            stations: self.stations.clone(),
            compiled: compile(self, Surroundings { v1, grouped, users, waits })?,
            place: groups.map_or(Place::Callers, Place::Own),
            command,
            searched,
        })
    }

    /// Prepares a further process in a container that runs: in its namespaces and its cgroup, and
    /// otherwise as the spec says. What the spec says of namespaces, mounts, names and limits does
    /// not matter; [`Spec::process`] is to be begun with. It dies with the calling thread, as a
    /// container does, and with the container.
    ///
    /// # Errors
    /// As [`Spec::prepare`]; also if the container has ended.
    pub fn prepare_in(mut self, running: &Running) -> Result<Prepared, Error> {
        self.check_program()?;
        self.stations = None;
        let membership = running.membership()?;
        let (command, searched) = self.command();
        let surroundings = Surroundings {
            v1: membership.v1.len(),
            grouped: !membership.v1.is_empty() || membership.unified.is_some(),
            ..Surroundings::default()
        };
        Ok(Prepared {
            namespaces: 0,
            is_exposed: true,
            has_terminal: self.terminal.is_some(),
            waits: false,
            rootfs: Rootfs::Host,
            stations: None,
            compiled: compile_into(self, surroundings, running.pidfd()?, running.namespaces()?)?,
            place: Place::Of(Arc::new(membership)),
            command,
            searched,
        })
    }

    fn check_program(&self) -> Result<(), Error> {
        if matches!(self.program, Program::Caller) {
            return Err(Error::Invalid {
                field: "program",
                problem: "the caller's own code is not executed".to_owned(),
                remedy: "use Spec::jail, or name a program",
            });
        }
        Ok(())
    }

    /// The command, and the `PATH` in which it is looked for.
    fn command(&self) -> (Option<String>, Option<String>) {
        match &self.program {
            Program::File(_) | Program::Caller => (None, None),
            Program::Command(command) => {
                let command = command.to_string_lossy().into_owned();
                let path = search_path(&self.env).to_string_lossy().into_owned();
                let searched = (!command.contains('/')).then_some(path);
                (Some(command), searched)
            }
        }
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
        if self.waits {
            return Err(Error::Invalid {
                field: "start",
                problem: "it was prepared to be attended".to_owned(),
                remedy: "use spawn_attended",
            });
        }
        self.begin(slots, None, None)
    }

    /// As [`Prepared::spawn_with`], with `attendant` called at each [`Moment`], on a thread of its
    /// own, with the id of the box's first process. An error of its ends the start.
    ///
    /// # Errors
    /// As [`Prepared::spawn_with`], and those of `attendant`.
    pub fn spawn_attended<E: From<Error> + Send>(
        &self,
        slots: &[BorrowedFd<'_>],
        mut attendant: impl FnMut(Moment, u32) -> Result<(), E> + Send,
    ) -> Result<Container, E> {
        if !self.waits {
            return Err(Error::Invalid {
                field: "start",
                problem: "it was not prepared to be attended".to_owned(),
                remedy: "use prepare_attended",
            }
            .into());
        }
        let failed = |source| Error::System { action: "make a socket for the start", source };
        let (ours, childs) = UnixStream::pair().map_err(failed)?;
        let pid = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let attended = scope.spawn(|| {
                let mut socket = ours;
                for moment in [Moment::Made, Moment::Furnished] {
                    // Nothing comes from a child that has failed already.
                    if !matches!(socket.read(&mut [0]), Ok(1)) {
                        break;
                    }
                    if let Err(error) = attendant(moment, pid.load(Ordering::Acquire) as u32) {
                        // To close it is not enough: the child has a copy of this end.
                        let _ = socket.shutdown(Shutdown::Both);
                        return Err(error);
                    }
                    if socket.write_all(&[0]).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            let started = self.begin(slots, Some(&childs), Some(&pid));
            drop(childs);
            let attended = attended.join().unwrap_or_else(|panic| resume_unwind(panic));
            attended.and_then(|()| started.map_err(E::from))
        })
    }

    fn begin(
        &self,
        slots: &[BorrowedFd<'_>],
        waits: Option<&UnixStream>,
        pid: Option<&AtomicI32>,
    ) -> Result<Container, Error> {
        if slots.len() != self.compiled.slots {
            return Err(Error::Invalid {
                field: "slots",
                problem: format!("{} given, {} needed", slots.len(), self.compiled.slots),
                remedy: "give spawn_with one descriptor for each slot of the spec",
            });
        }
        let leaf = match &self.place {
            Place::Own(groups) => Some(Leaf::make(groups)?),
            _ => None,
        };
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
        let mut moved = [const { None }; 34];
        let mut places = moved.iter_mut();
        let mut away = |fd: BorrowedFd<'_>| match places.next() {
            Some(place) if fd.as_raw_fd() <= self.compiled.highest => {
                Ok(place.insert(above(fd, self.compiled.highest)?).as_raw_fd() as usize)
            }
            _ => Ok::<usize, Error>(fd.as_raw_fd() as usize),
        };
        for fd in slots {
            fill(away(*fd)?);
        }
        let procs = leaf.as_ref().map(Leaf::open_v1_procs).transpose()?;
        for file in procs.iter().flatten().flatten() {
            fill(file.as_raw_fd() as usize);
        }
        if let Place::Of(membership) = &self.place {
            membership.v1.iter().for_each(|file| fill(file.as_raw_fd() as usize));
        }
        let terminal = if self.has_terminal {
            let failed = |source| Error::System { action: "make a terminal's socket", source };
            let (ours, childs) = UnixDatagram::pair().map_err(failed)?;
            fill(away(childs.as_fd())?);
            Some((ours, childs))
        } else {
            None
        };
        if let Some(socket) = waits {
            fill(away(socket.as_fd())?);
        }
        let unified = match &self.place {
            Place::Of(membership) => membership.unified.as_ref().map(AsRawFd::as_raw_fd),
            _ => leaf.as_ref().and_then(Leaf::unified),
        };
        let exposed = self.is_exposed.then(Undumpable::begin);
        let started = child::start(&Start {
            calls: self.compiled.script.calls(),
            registers: &registers,
            namespaces: self.namespaces,
            cgroup: unified,
            entry: self.compiled.script.entry(),
            pid,
        });
        drop(exposed);
        let started = started.map_err(|errno| clone_error(io::Error::from_raw_os_error(errno)))?;
        // SAFETY: clone3 made this descriptor for us alone.
        let process = started.process.map(|(pid, fd)| (pid, unsafe { OwnedFd::from_raw_fd(fd) }));
        match (started.failure, process) {
            (None, Some((pid, pidfd))) => {
                let terminal = terminal.and_then(|(socket, _)| receive(&socket));
                Ok(Container::new(pid, pidfd, leaf, station, terminal))
            }
            (failure, process) => {
                if let Some((_, pidfd)) = process {
                    let _ = reap(pidfd.as_fd(), 0);
                }
                let silent = Failure { index: usize::MAX, errno: libc::EIO, denied: false };
                Err(self.explain(failure.unwrap_or(silent)))
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
