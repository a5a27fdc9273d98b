//! What a container is to be: plain data, checked by [`Spec::prepare`].

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::capability::Capabilities;
use crate::cgroup::Limits;
use crate::network::Stations;
use crate::seccomp::SeccompFilter;

/// A container to be prepared. [`Spec::container`] has safe, complete defaults; change fields
/// afterwards, or write `Spec { field, ..Spec::container(…) }`.
#[derive(Debug)]
pub struct Spec {
    /// What is executed.
    pub program: Program,
    /// Arguments, `argv[0]` first.
    pub args: Vec<OsString>,
    /// The environment, `NAME=value` each. Nothing is inherited.
    pub env: Vec<OsString>,
    /// Working directory inside the box.
    pub cwd: PathBuf,
    /// Namespaces made new.
    pub namespaces: Namespaces,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Further mounts inside the box, made in order.
    pub mounts: Vec<Mount>,
    /// `/proc`.
    pub proc: Proc,
    /// `/dev`.
    pub dev: Dev,
    /// `/sys`, mounted read-only.
    pub sys: bool,
    /// Host name; needs [`Namespaces::UTS`]. `None` leaves the host's.
    pub hostname: Option<OsString>,
    /// The network namespace that is entered, where it is to be none of its own for each start; see
    /// [`empty_network`](crate::empty_network). Needs [`Namespaces::NET`].
    pub network: Option<OwnedFd>,
    /// Where each start gets a network of its own, with an interface on a bridge. Needs
    /// [`Namespaces::NET`].
    pub stations: Option<Stations>,
    /// Whether `lo` is brought up; needs [`Namespaces::NET`]. A fresh one is down.
    pub loopback: bool,
    /// Limits by cgroup. With none asked for, no cgroup is touched.
    pub limits: Limits,
    /// Resource limits (`setrlimit(2)`).
    pub rlimits: Vec<Rlimit>,
    /// User and groups of the program; `None` keeps the caller's. Anyone but user 0 starts without
    /// capabilities.
    pub user: Option<User>,
    /// What is kept of the capabilities, in the bounding, permitted and effective sets; the
    /// inheritable and ambient sets are emptied. `None` changes nothing. A jail with `no_new_privs`
    /// leaves the bounding set: nothing that it holds can be had any more.
    pub capabilities: Option<Capabilities>,
    /// Sets no_new_privs: executing a set-uid program gains nothing.
    pub no_new_privs: bool,
    /// The system-call filter, if any.
    pub seccomp: Option<SeccompFilter>,
    /// Whether the program leads a session of its own, without a controlling terminal. Without, a
    /// terminal's user interrupts it by Ctrl-C, and a hostile program may type into that terminal.
    /// Where the kernel groups tasks by session (`/proc/sys/kernel/sched_autogroup_enabled`), a new
    /// session is a new scheduling group as well: about 9 µs, and on a busy machine its first wait
    /// for a processor can take a time slice.
    pub session: bool,
    /// Standard input, output and error.
    pub stdio: [Stream; 3],
    /// Further descriptors that the program is to have. All others are closed.
    pub descriptors: Vec<Descriptor>,
}

impl Spec {
    /// A container with every namespace, fresh `/proc` (masked), `/dev` and `/sys`, Docker's
    /// capabilities, no_new_privs and the standard filter; standard streams are `/dev/null`.
    #[must_use]
    pub fn container(rootfs: Rootfs, program: Program) -> Spec {
        Spec {
            namespaces: Namespaces::ALL,
            rootfs,
            proc: Proc::Masked,
            dev: Dev::default(),
            sys: true,
            hostname: Some("tare".into()),
            capabilities: Some(Capabilities::DOCKER),
            no_new_privs: true,
            seccomp: Some(SeccompFilter::standard()),
            ..Spec::process(program)
        }
    }

    /// A plain process of the host, started and waited for by the same means but with nothing
    /// isolated: what a container is compared with.
    #[must_use]
    pub fn process(program: Program) -> Spec {
        Spec {
            program,
            args: Vec::new(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            cwd: "/".into(),
            namespaces: Namespaces::NONE,
            rootfs: Rootfs::Host,
            mounts: Vec::new(),
            proc: Proc::None,
            dev: Dev::None,
            sys: false,
            hostname: None,
            network: None,
            stations: None,
            loopback: false,
            limits: Limits::default(),
            rlimits: Vec::new(),
            user: None,
            capabilities: None,
            no_new_privs: false,
            seccomp: None,
            session: true,
            stdio: [Stream::Null, Stream::Null, Stream::Null],
            descriptors: Vec::new(),
        }
    }

    /// Replaces the arguments, `argv[0]` included.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> Spec {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }
}

/// The program of a box.
#[derive(Debug)]
pub enum Program {
    /// A command inside the box: a path, or a name that is looked for in the `PATH` of the
    /// spec's environment.
    Command(OsString),
    /// An open file of the host, executed whatever the root file system holds. It must be static
    /// (a dynamic one would look for its loader in the box) and may be close-on-exec. A regular
    /// file is executed through a read-only mount of its own, so that the box cannot write to the
    /// host's file through `/proc/self/exe`; a memfd should be sealed for the same reason.
    File(OwnedFd),
    /// No program: the caller's own code goes on in a forked child. For [`Spec::jail`].
    Caller,
}

impl Program {
    /// A command inside the box.
    pub fn command(command: impl Into<OsString>) -> Program {
        Program::Command(command.into())
    }
}

/// The root file system of a box. All are mounted `nodev`: device nodes work in `/dev` only. What is
/// mounted below the directory on the host is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// The host's own, as it is.
    Host,
    /// A directory of the host, which the box cannot change.
    ReadOnly(PathBuf),
    /// A directory of the host, which the box can change.
    Bind(PathBuf),
    /// Directories of the host, topmost first, under a fresh tmpfs that takes all changes and
    /// vanishes with the box. `size_bytes` bounds it (`None`: half of the host's memory).
    Overlay {
        /// Topmost first, as in an overlay's `lowerdir`.
        lower: Vec<PathBuf>,
        /// Bound of what the box can write.
        size_bytes: Option<u64>,
    },
}

/// One more mount inside the box; always `nosuid,nodev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A directory or file of the host, without what is mounted below it there.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Inside the box; made if missing where the root is an overlay.
        target: PathBuf,
        /// Whether the box can only read it.
        read_only: bool,
    },
    /// A fresh tmpfs, mode 1777.
    Tmpfs {
        /// Inside the box; made if missing where the root is an overlay.
        target: PathBuf,
        /// Its bound; `None` is half of the host's memory.
        size_bytes: Option<u64>,
    },
}

impl Mount {
    /// Where it appears in the box.
    #[must_use]
    pub fn target(&self) -> &std::path::Path {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
        }
    }
}

/// `/proc` of a box; all but `None` need [`Namespaces::PID`] to show only its own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// Not mounted.
    None,
    /// Complete: for boxes that are trusted.
    Full,
    /// Paths that tell of or act upon the whole host are hidden or read-only, as Docker does it.
    Masked,
    /// Processes only (`subset=pid`, Linux 5.8): as safe as `Masked` and cheaper, but programs
    /// that want `/proc/meminfo`, `/proc/cpuinfo` or `/proc/sys` do not find them.
    ProcessesOnly,
}

/// `/dev` of a box: a tmpfs of its own, read-only once filled, so that no other device can be made
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dev {
    /// Not mounted.
    None,
    /// null, zero, full, random, urandom, tty; fd, stdin, stdout, stderr.
    Minimal,
    /// `Minimal`, and pts (own instance), ptmx, and shm of this size.
    Full {
        /// Bound of `/dev/shm`.
        shm_bytes: u64,
    },
}

impl Default for Dev {
    /// `Full` with 64 MiB of shared memory, as Docker does it.
    fn default() -> Dev {
        Dev::Full { shm_bytes: 64 << 20 }
    }
}

/// A set of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespaces(u32);

impl Namespaces {
    /// None: all are shared with the host.
    pub const NONE: Namespaces = Namespaces(0);
    /// Process ids; the program is number 1.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u32);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS as u32);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS as u32);
    /// System V IPC and POSIX message queues.
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC as u32);
    /// View of the cgroups.
    pub const CGROUP: Namespaces = Namespaces(libc::CLONE_NEWCGROUP as u32);
    /// Network.
    pub const NET: Namespaces = Namespaces(libc::CLONE_NEWNET as u32);
    /// All of the above.
    pub const ALL: Namespaces = Namespaces::PID
        .with(Namespaces::MOUNT)
        .with(Namespaces::UTS)
        .with(Namespaces::IPC)
        .with(Namespaces::CGROUP)
        .with(Namespaces::NET);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }

    /// This set less `other`.
    #[must_use]
    pub const fn without(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 & !other.0)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Namespaces) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that a start makes: a network that is there already is entered instead.
    pub(crate) fn made(self, spec: &Spec) -> Namespaces {
        let is_there = spec.network.is_some() || spec.stations.is_some();
        if is_there { self.without(Namespaces::NET) } else { self }
    }

    pub(crate) fn flags(self) -> u64 {
        u64::from(self.0)
    }
}

/// A standard stream.
#[derive(Debug)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// The caller's own.
    Inherit,
    /// An open file, the same for every start.
    File(OwnedFd),
    /// The n-th descriptor handed to [`Prepared::spawn_with`](crate::Prepared::spawn_with).
    Slot(usize),
}

/// A descriptor that the program finds under a given number.
#[derive(Debug)]
pub struct Descriptor {
    /// Its number in the program, 3 or more.
    pub number: i32,
    /// What it is; `Null` and `Inherit` make sense as well.
    pub source: Stream,
}

/// User and groups of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A resource limit, `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `libc::RLIMIT_*`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}
