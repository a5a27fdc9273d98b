//! What a container is to be: plain data, checked by [`Spec::prepare`].

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::capability::{Capabilities, CapabilitySets};
use crate::cgroup::{Limits, Resources};
use crate::mount::{Mount, Node, Propagation};
use crate::namespace::{Joined, Namespaces, TimeOffsets, UserNamespace};
use crate::network::Stations;
use crate::seccomp::SeccompFilter;
use crate::terminal::Terminal;

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
    /// A user namespace of its own, in which the box's users are others than on the host. Makes
    /// boxes without privileges possible: see [`Spec::rootless`].
    pub user_namespace: Option<UserNamespace>,
    /// Namespaces that are there already and are entered. Not those of [`Spec::namespaces`].
    pub joined: Vec<Joined>,
    /// What the box's clocks show besides the host's; needs [`Namespaces::TIME`].
    pub time_offsets: TimeOffsets,
    /// The root file system.
    pub rootfs: Rootfs,
    /// How what is mounted below the root, where that is a directory of the host, reaches others;
    /// private if not said.
    pub root_propagation: Option<Propagation>,
    /// Further mounts inside the box, made in order.
    pub mounts: Vec<Mount>,
    /// `/proc`.
    pub proc: Proc,
    /// `/dev`.
    pub dev: Dev,
    /// `/sys`, mounted read-only.
    pub sys: bool,
    /// Device nodes, made after all mounts.
    pub nodes: Vec<Node>,
    /// Symbolic links, made after all mounts: where each is, and what it says. What is there already
    /// stays.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Paths in the box that are hidden: a file by `/dev/null`, a directory by an empty one. Those
    /// that do not exist are left out.
    pub masked: Vec<PathBuf>,
    /// Paths in the box that can only be read, with all below. Those that do not exist are left out.
    pub read_only: Vec<PathBuf>,
    /// Host name; needs [`Namespaces::UTS`]. `None` leaves the host's.
    pub hostname: Option<OsString>,
    /// NIS domain name; needs [`Namespaces::UTS`]. `None` leaves the host's.
    pub domainname: Option<OsString>,
    /// Kernel parameters of the box's namespaces, `net.ipv4.ip_forward` for example.
    pub sysctls: Vec<(String, String)>,
    /// The network namespace that is entered, where it is to be none of its own for each start; see
    /// [`empty_network`](crate::empty_network). Needs [`Namespaces::NET`].
    pub network: Option<OwnedFd>,
    /// Where each start gets a network of its own, with an interface on a bridge. Needs
    /// [`Namespaces::NET`], and the host's own users.
    pub stations: Option<Stations>,
    /// Whether `lo` is brought up; needs [`Namespaces::NET`]. A fresh one is down.
    pub loopback: bool,
    /// Limits by cgroup. With none asked for, no cgroup is touched.
    pub limits: Limits,
    /// What else its cgroup is asked for.
    pub resources: Resources,
    /// Resource limits (`setrlimit(2)`).
    pub rlimits: Vec<Rlimit>,
    /// How readily the kernel kills it when memory is short, from -1000 to 1000; `None` keeps the
    /// caller's.
    pub oom_score_adj: Option<i32>,
    /// What is taken from the mode of new files (`umask(2)`).
    pub umask: u32,
    /// User and groups of the program; `None` keeps the caller's. Anyone but user 0 starts without
    /// capabilities.
    pub user: Option<User>,
    /// What is kept of the capabilities, in the bounding, permitted and effective sets; the
    /// inheritable and ambient sets are emptied. `None` changes nothing. A jail with `no_new_privs`
    /// leaves the bounding set: nothing that it holds can be had any more.
    pub capabilities: Option<Capabilities>,
    /// Each set of capabilities by itself, instead of [`Spec::capabilities`], and whoever the user
    /// is.
    pub capability_sets: Option<CapabilitySets>,
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
    /// A terminal of the box's own as its standard streams, instead of [`Spec::stdio`]; needs a
    /// `/dev/pts` in the box and [`Spec::session`].
    pub terminal: Option<Terminal>,
    /// Whether the program runs below an init, which passes signals on to it, reaps what others of
    /// the box leave behind, and ends as it does (with 128 and the signal, if that ended it). Needs
    /// [`Namespaces::PID`] and a command.
    pub init: bool,
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

    /// As [`Spec::container`], for whoever is not root: in a user namespace of its own, whose root is
    /// the caller. It has no limits, for they need cgroups that are the caller's, and devices are
    /// those of the host's `/dev`.
    #[must_use]
    pub fn rootless(rootfs: Rootfs, program: Program) -> Spec {
        Spec { user_namespace: Some(UserNamespace::own()), ..Spec::container(rootfs, program) }
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
            user_namespace: None,
            joined: Vec::new(),
            time_offsets: TimeOffsets::default(),
            rootfs: Rootfs::Host,
            root_propagation: None,
            mounts: Vec::new(),
            proc: Proc::None,
            dev: Dev::None,
            sys: false,
            nodes: Vec::new(),
            links: Vec::new(),
            masked: Vec::new(),
            read_only: Vec::new(),
            hostname: None,
            domainname: None,
            sysctls: Vec::new(),
            network: None,
            stations: None,
            loopback: false,
            limits: Limits::default(),
            resources: Resources::default(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            umask: 0o022,
            user: None,
            capabilities: None,
            capability_sets: None,
            no_new_privs: false,
            seccomp: None,
            session: true,
            terminal: None,
            init: false,
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
    /// Directories of the host, topmost first, under a directory of the host that takes all changes
    /// and keeps them. Only one box at a time may have it so.
    OverlayOn {
        /// Topmost first, as in an overlay's `lowerdir`.
        lower: Vec<PathBuf>,
        /// Takes the changes; a box that begins finds those that are there already.
        upper: PathBuf,
        /// Scratch of the overlay's: an empty directory on the same file system as `upper`.
        work: PathBuf,
        /// Whether changes may be lost with the power: nothing is synced then, and the kernel takes
        /// `upper` only once unless `work/work/incompat/volatile` is removed
        /// (`Documentation/filesystems/overlayfs.rst`).
        volatile: bool,
    },
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
    /// `Minimal`, and pts (own instance), ptmx, mqueue, and shm of this size.
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
