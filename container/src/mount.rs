//! What is mounted in a box besides its root, `/proc`, `/dev` and `/sys`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// One more mount inside the box; `Bind` and `Tmpfs` are always `nosuid,nodev`.
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
    /// A directory or file of the host, in every detail.
    Tree(Tree),
    /// A file system of its own, in every detail.
    FileSystem(FileSystem),
    /// No mount, but a change of what is mounted already.
    Change(Change),
}

impl Mount {
    /// Where it appears in the box.
    #[must_use]
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
            Mount::Tree(tree) => &tree.target,
            Mount::FileSystem(system) => &system.target,
            Mount::Change(change) => &change.target,
        }
    }
}

/// A directory or file of the host; where it appears is made if missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// On the host.
    pub source: PathBuf,
    /// Inside the box.
    pub target: PathBuf,
    /// Whether what is mounted below it comes along.
    pub recursive: bool,
    /// What else is to hold of it.
    pub attributes: Attributes,
    /// How mounts below it reach others; private if not said.
    pub propagation: Option<Propagation>,
}

/// A file system of its own; where it appears is made if missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `tmpfs`, `proc`, `mqueue`, …
    pub kind: OsString,
    /// Its source, where the kind has one.
    pub source: Option<OsString>,
    /// Inside the box.
    pub target: PathBuf,
    /// Options of the kind's own: names, and values of those that have one.
    pub options: Vec<(OsString, Option<OsString>)>,
    /// What else is to hold of it.
    pub attributes: Attributes,
    /// How mounts below it reach others; private if not said.
    pub propagation: Option<Propagation>,
}

/// A change of what is mounted at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Inside the box; `/` is the root.
    pub target: PathBuf,
    /// Whether what is mounted below is changed too.
    pub recursive: bool,
    /// What is to hold.
    pub attributes: Attributes,
    /// How mounts below it reach others; as it is if not said.
    pub propagation: Option<Propagation>,
}

/// Attributes of a mount, `MOUNT_ATTR_*` of `linux/mount.h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Those set.
    pub set: u64,
    /// Those cleared, of a tree that had them on the host.
    pub clear: u64,
}

/// How a mount and its copies in other namespaces share what is mounted below
/// (`Documentation/filesystems/sharedsubtree.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the host to the box.
    Slave,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

/// A device node, or a FIFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Inside the box; its directory is made if missing. What is there already stays.
    pub path: PathBuf,
    /// `libc::S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and the permissions.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}
