//! What a layer holds: files by their paths, each described, none read yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Files by their paths relative to the root, parents before what is in them.
pub(super) type Entries = BTreeMap<PathBuf, Entry>;

/// Extended attributes: names and values.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    /// Permissions, without the type.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Extended attributes in the order of their names.
    pub(super) attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// Whether what lower layers have in it is hidden.
    Directory {
        opaque: bool,
    },
    File(Content),
    /// To this target, as it is written.
    Symlink(Vec<u8>),
    /// To another file of the same layer.
    Hardlink(PathBuf),
    Fifo,
    /// Hides the file of this name in lower layers.
    Whiteout,
}

/// Where a file's bytes are, and what they were when they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) source: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) sha256: [u8; 32],
}

impl Entry {
    /// A directory of root's that nothing describes.
    pub(super) fn implied_directory() -> Entry {
        Entry {
            kind: EntryKind::Directory { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            attributes: Vec::new(),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory { .. })
    }
}
