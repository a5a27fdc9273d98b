//! Namespaces that a box gets, made or there already.

use std::os::fd::OwnedFd;

use crate::spec::Spec;

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
    /// Offsets of the monotonic and the boot-time clock; needs Linux 6.1.
    pub const TIME: Namespaces = Namespaces(CLONE_NEWTIME);
    /// All but [`Namespaces::TIME`].
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

/// `linux/sched.h`; a signal's number in `clone`, and so only for `clone3` and `unshare`.
const CLONE_NEWTIME: u32 = 0x80;

/// The kind of one namespace that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NamespaceKind {
    /// Process ids.
    Pid,
    /// Mounts.
    Mount,
    /// Host name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// View of the cgroups.
    Cgroup,
    /// Network.
    Net,
    /// Users.
    User,
}

impl NamespaceKind {
    /// All of them; users come first, for they own the others.
    pub const ALL: [NamespaceKind; 7] = [
        NamespaceKind::User,
        NamespaceKind::Pid,
        NamespaceKind::Uts,
        NamespaceKind::Ipc,
        NamespaceKind::Cgroup,
        NamespaceKind::Net,
        NamespaceKind::Mount,
    ];

    /// Its name in `/proc/PID/ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NamespaceKind::Pid => "pid",
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Net => "net",
            NamespaceKind::User => "user",
        }
    }

    /// The set with this kind alone.
    #[must_use]
    pub fn set(self) -> Namespaces {
        Namespaces(self.flag())
    }

    /// `CLONE_NEW*`.
    pub(crate) fn flag(self) -> u32 {
        let flag = match self {
            NamespaceKind::Pid => libc::CLONE_NEWPID,
            NamespaceKind::Mount => libc::CLONE_NEWNS,
            NamespaceKind::Uts => libc::CLONE_NEWUTS,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
            NamespaceKind::Net => libc::CLONE_NEWNET,
            NamespaceKind::User => libc::CLONE_NEWUSER,
        };
        flag as u32
    }
}

/// A namespace that is there already.
#[derive(Debug)]
pub struct Joined {
    /// Its kind.
    pub kind: NamespaceKind,
    /// The open file of `/proc/PID/ns`, or where that is mounted.
    pub file: OwnedFd,
}

/// What a time namespace's clocks show besides the host's (`time_namespaces(7)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeOffsets {
    /// Seconds of `CLOCK_MONOTONIC`.
    pub monotonic_s: i64,
    /// Nanoseconds of it, below a second.
    pub monotonic_ns: u32,
    /// Seconds of `CLOCK_BOOTTIME`.
    pub boottime_s: i64,
    /// Nanoseconds of it, below a second.
    pub boottime_ns: u32,
}

/// A user namespace to be made: which users and groups of the box are which of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNamespace {
    /// Users.
    pub uids: Vec<IdMap>,
    /// Groups.
    pub gids: Vec<IdMap>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// The first in the box.
    pub inside: u32,
    /// The first on the host.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}
