//! A jail for the caller's own code: a child that is forked, not executed.
//!
//! A monitor such as a VMM has nothing to gain from an exec: its code is in memory already. It is
//! forked, opens what it needs while it can still see the host, and then
//! [enters](Entrance::enter) the jail: from there on it has the root file system, user and
//! privileges of the [`Spec`], for good.
//!
//! The jail is a place that is there before its inmates: mounts, host name, IPC and network are
//! namespaces made once, by [`Spec::jail`], which each child enters. Process ids and the view of the
//! cgroups are each child's own. Entering costs a child 30 µs where making the same took it 250 (in
//! the lab, with an empty root).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::cgroup::{Groups, Leaf};
use crate::child::{self, Start};
use crate::compile::{Compiled, POLL_READABLE, Surroundings, compile_home, compile_way};
use crate::container::Container;
use crate::error::Error;
use crate::namespace::Namespaces;
use crate::prepared::{clone_error, open_own_pidfd};
use crate::script::{REGISTERS, Script};
use crate::spec::{Proc, Program, Spec};

/// The namespaces that all children of a jail share, and their names in `/proc/PID/ns`. Mounts come
/// last: the others are made and entered where the host can be seen.
const SHARED: [(Namespaces, &str); 4] = [
    (Namespaces::UTS, "uts"),
    (Namespaces::IPC, "ipc"),
    (Namespaces::NET, "net"),
    (Namespaces::MOUNT, "mnt"),
];

/// What a child's exit status is when its function panics.
const PANICKED: i32 = 101;

/// A jail ready to be forked into, any number of times.
#[derive(Debug)]
pub struct Jail {
    compiled: Compiled,
    groups: Option<Arc<Groups>>,
    /// A cgroup for the next child.
    spare: Mutex<Option<Leaf>>,
    namespaces: u64,
}

impl Spec {
    /// As [`Spec::prepare`], for a child that runs the caller's own code: the program must be
    /// [`Program::Caller`]. There is no exec, so descriptors are neither closed nor passed on:
    /// the child closes what it must not have.
    ///
    /// The root file system is made here, once: what one child writes to it the others see, unless
    /// it is read-only. There can be no `/proc` in it, which would show processes of other children.
    ///
    /// # Errors
    /// As [`Spec::prepare`]; also if the spec names a program, descriptors or slots, or `/proc`; and
    /// if the namespaces cannot be made: no privileges, or a limit.
    pub fn jail(mut self) -> Result<Jail, Error> {
        let invalid = |field, problem: &str, remedy| {
            Err(Error::Invalid { field, problem: problem.to_owned(), remedy })
        };
        if !matches!(self.program, Program::Caller) {
            return invalid("program", "a jail runs the caller's code", "use Program::Caller");
        }
        if !self.descriptors.is_empty() {
            return invalid("descriptors", "a jail has those of its caller", "leave them out");
        }
        if self.user_namespace.is_some() || !self.joined.is_empty() {
            let remedy = "leave out user_namespace and joined";
            return invalid("namespaces", "a jail makes its own, of the caller's users", remedy);
        }
        if self.terminal.is_some() || self.init {
            return invalid("terminal", "a jail has the streams of its caller", "leave it out");
        }
        if self.proc != Proc::None {
            return invalid("proc", "a jail's root is that of many", "use Proc::None");
        }
        if self.stations.is_some() {
            return invalid("stations", "a jail's network is that of many", "use network");
        }
        self.rootfs = self.rootfs.canonical()?;
        let groups = Groups::prepare(&self.limits, &self.resources)?.map(Arc::new);
        let v1 = groups.as_ref().map_or(0, |g| g.hierarchies.iter().filter(|h| !h.unified).count());
        let mut namespaces =
            SHARED.iter().fold(self.namespaces, |all, (shared, _)| all.without(*shared));
        if groups.is_some() {
            // Made by the child itself, once it is in its cgroup.
            namespaces = namespaces.without(Namespaces::CGROUP);
        }
        let home = make_home(&self)?;
        let compiled = {
            let grouped = groups.is_some();
            compile_way(self, home, &Surroundings { v1, grouped, ..Surroundings::default() })?
        };
        if compiled.slots > 0 {
            return invalid("stdio", "a jail has no slots", "inherit the streams or discard them");
        }
        let namespaces = namespaces.flags();
        Ok(Jail { compiled, groups, spare: Mutex::default(), namespaces })
    }
}

/// Makes the namespaces that children share, as the spec says, on a thread whose end leaves the
/// caller's alone.
fn make_home(spec: &Spec) -> Result<Vec<(Namespaces, OwnedFd)>, Error> {
    let script = compile_home(spec)?;
    let shared = || SHARED.iter().filter(|(namespace, _)| spec.namespaces.contains(*namespace));
    let fresh = shared().fold(Namespaces::NONE, |all, (namespace, _)| all.with(*namespace));
    let fresh = fresh.made(spec);
    let furnish = || {
        // SAFETY: moves this very thread, which ends after this, to new namespaces.
        if unsafe { libc::unshare(fresh.flags() as i32) } != 0 {
            return Err(clone_error(io::Error::last_os_error()));
        }
        // Opened at once: there is no /proc in the root that is made. A network that was there
        // before is entered by the script.
        let open =
            |name: &str| File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
        let mut home = Vec::with_capacity(SHARED.len());
        for (namespace, name) in shared() {
            let fd = match &spec.network {
                Some(network) if *namespace == Namespaces::NET => network.try_clone(),
                _ => open(name),
            };
            let failed = |source| Error::System { action: "open the jail's namespaces", source };
            home.push((*namespace, fd.map_err(failed)?));
        }
        play(&script)?;
        Ok(home)
    };
    thread::scope(|scope| scope.spawn(furnish).join())
        .unwrap_or_else(|_| Err(Error::last("make the jail's namespaces")))
}

/// Plays a script that needs nothing of a start.
fn play(script: &Script) -> Result<(), Error> {
    let start = Start {
        calls: script.calls(),
        registers: &[],
        namespaces: 0,
        cgroup: None,
        entry: 0,
        pid: None,
    };
    // SAFETY: the script's addresses are kept by it, and the thread is there to be changed.
    match unsafe { child::play_here(&start) } {
        None => Ok(()),
        Some(failure) => Err(script.explain(failure)),
    }
}

impl Jail {
    /// Makes the cgroup of the next child, if there is to be one, so that its start need not.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn ready(&self) -> Result<(), Error> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            *spare = self.groups.as_ref().map(Leaf::make).transpose()?;
        }
        Ok(())
    }

    /// Forks a child into the jail's namespaces and cgroup and runs `child` there, whose result is
    /// its exit status. The child dies with the calling thread once it has entered the jail.
    ///
    /// # Errors
    /// The child cannot be made: no privileges, or a limit. Nothing is left then.
    ///
    /// # Safety
    /// The calling process has a single thread: another's locks would stay locked in the child.
    pub unsafe fn fork(&self, child: impl FnOnce(Entrance<'_>) -> i32) -> Result<Container, Error> {
        self.ready()?;
        let leaf = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parent = open_own_pidfd()?;
        let procs = leaf.as_ref().map(Leaf::open_v1_procs).transpose()?;
        let mut registers = [0; REGISTERS];
        let given = std::iter::once(parent.as_raw_fd() as usize | POLL_READABLE)
            .chain(procs.iter().flatten().flatten().map(|file| file.as_raw_fd() as usize));
        for (slot, value) in registers.iter_mut().zip(given) {
            *slot = value;
        }
        let start = Start {
            calls: self.compiled.script.calls(),
            registers: &registers,
            namespaces: self.namespaces,
            cgroup: leaf.as_ref().and_then(Leaf::unified),
            entry: 0,
            pid: None,
        };
        // SAFETY: by the caller's promise the child may use all of the program.
        let forked = unsafe { child::fork(&start) };
        match forked.map_err(|errno| clone_error(io::Error::from_raw_os_error(errno)))? {
            Some((pid, pidfd)) => {
                // SAFETY: clone3 made this descriptor for us alone.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Container::new(pid, pidfd, leaf, None, None))
            }
            None => {
                // Neither the frames nor the destructors of the parent are the child's.
                let entrance = Entrance { jail: self, start };
                let run = AssertUnwindSafe(|| child(entrance));
                let code = catch_unwind(run).unwrap_or(PANICKED);
                // SAFETY: ends this process at once; exit handlers belong to the parent.
                unsafe { libc::_exit(code) }
            }
        }
    }
}

/// A child's way into its jail.
#[derive(Debug)]
pub struct Entrance<'a> {
    jail: &'a Jail,
    start: Start<'a>,
}

impl Entrance<'_> {
    /// Closes every descriptor from 3 on but `kept` and those that the way in needs.
    ///
    /// # Safety
    /// No value in the program uses a descriptor that is closed here, not even to close it.
    pub unsafe fn close_all_but(&self, kept: &[RawFd]) {
        let mut spared: Vec<u32> = kept
            .iter()
            .copied()
            .chain(self.own())
            .filter_map(|fd| u32::try_from(fd).ok())
            .collect();
        spared.sort_unstable();
        let mut from = 3;
        for fd in spared.into_iter().filter(|fd| *fd >= 3) {
            if fd > from {
                close_range(from, fd - 1);
            }
            from = fd + 1;
        }
        close_range(from, u32::MAX);
    }

    /// Makes the jail's root file system this process's, and its user and privileges.
    ///
    /// # Errors
    /// A step failed. The process is then half in the jail, and must end.
    pub fn enter(self) -> Result<(), Error> {
        // SAFETY: the script's addresses are kept by the jail, which is borrowed; it changes this
        // process alone, which is what the caller asks for.
        match unsafe { child::play_here(&self.start) } {
            None => {
                for fd in self.own() {
                    // SAFETY: this process's copy, which nothing uses any more.
                    unsafe { libc::close(fd) };
                }
                Ok(())
            }
            Some(failure) => Err(self.jail.compiled.script.explain(failure)),
        }
    }

    /// Descriptors that the script uses: the parent's pidfd and those of the jail.
    fn own(&self) -> impl Iterator<Item = RawFd> {
        let parent = self.start.registers.first().map(|register| *register as u32 as RawFd);
        parent.into_iter().chain(self.jail.compiled.kept.iter().map(AsRawFd::as_raw_fd))
    }
}

fn close_range(first: u32, last: u32) {
    // SAFETY: plain numbers; by the promise of the only caller nobody uses what is closed.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
