//! The files of a snapshot, whatever machine it is of.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::pages::{Extent, Pages, union};
use super::{FormatError, Guest, Id, Kind, MEMORY, PARTIAL, STATE, Sections, SnapshotError};

/// The largest state that is read: far more than any guest's.
const STATE_MAX_BYTES: u64 = 64 << 20;
/// More differences on top of each other are taken for a circle.
const CHAIN_MAX: usize = 64;

/// The snapshot that a differential one differs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Parent {
    pub(super) id: Id,
    /// Of its memory.
    pub(super) checksum: u32,
    pub(super) reserved: u32,
}

/// The files of a snapshot, looked at without the machine that it is of.
#[derive(Debug)]
pub struct SnapshotFiles {
    pub(super) directory: PathBuf,
    pub(super) sections: Sections,
    pub(super) guest: Guest,
    pub(super) id: Id,
    pub(super) pages: Pages,
    pub(super) memory: File,
    parent: Option<(Parent, PathBuf)>,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Which snapshot it is, in hexadecimal digits: no two have the same.
    pub id: String,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// How many vCPUs.
    pub vcpus: u32,
    /// How many virtio devices.
    pub virtio_devices: u32,
    /// SHA-256 of kernel, initramfs and command line as they lay in memory, in hexadecimal digits.
    pub image: String,
    /// Bytes of guest RAM that the snapshot itself has.
    pub stored_memory_bytes: u64,
    /// Bytes of all the rest.
    pub stored_state_bytes: u64,
    /// Of a differential snapshot: the [`id`](Description::id) of the one it differs from, and where
    /// that was.
    pub parent: Option<(String, PathBuf)>,
}

/// Reads a file of up to so many bytes; `None` if it has more.
pub(super) fn read_whole(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > limit {
        return Ok(None);
    }
    let mut contents = vec![0; bytes as usize];
    file.read_exact(&mut contents)?;
    Ok(Some(contents))
}

impl SnapshotFiles {
    /// Reads `state`, and checks that it is whole and that `memory` can belong to it. The contents
    /// of `memory` are not read: see [`verify`](SnapshotFiles::verify).
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`], [`SnapshotError::Unfinished`] and [`SnapshotError::Bad`].
    pub fn open(directory: &Path) -> Result<SnapshotFiles, SnapshotError> {
        let path = directory.join(STATE);
        let bad = |error: FormatError| SnapshotError::Bad {
            path: path.clone(),
            reason: error.to_string(),
        };
        let state = match read_whole(&path, STATE_MAX_BYTES) {
            Err(_) if directory.join(PARTIAL).exists() => {
                return Err(SnapshotError::Unfinished { path: directory.to_owned() });
            }
            other => other.map_err(SnapshotError::file("read", &path))?,
        };
        let state = state.ok_or_else(|| bad(FormatError::Length))?;
        let sections = Sections::parse(state).map_err(bad)?;
        let guest: Guest = sections.value(Kind::Guest, 0).map_err(bad)?;
        let pages = Pages {
            extents: sections.values::<Extent>(Kind::Memory, 1).map_err(bad)?,
            checksum: sections.value(Kind::Memory, 0).map_err(bad)?,
        };
        let parent = if sections.has(Kind::Parent) {
            let place = sections.get(Kind::Parent, 1).map_err(bad)?;
            let parent = sections.value(Kind::Parent, 0).map_err(bad)?;
            Some((parent, PathBuf::from(OsStr::from_bytes(place))))
        } else {
            None
        };
        Ok(SnapshotFiles {
            directory: directory.to_owned(),
            guest,
            id: sections.value(Kind::Id, 0).map_err(bad)?,
            memory: open_memory(&directory.join(MEMORY), guest.memory_bytes, &pages)?,
            pages,
            parent,
            sections,
        })
    }

    /// What it says of itself.
    pub fn describe(&self) -> Description {
        let parent = self.parent.as_ref();
        Description {
            id: hex(&self.id),
            memory_bytes: self.guest.memory_bytes,
            vcpus: self.guest.vcpus,
            virtio_devices: self.guest.virtio_devices,
            image: hex(&self.guest.image),
            stored_memory_bytes: self.pages.bytes(),
            stored_state_bytes: self.sections.bytes(),
            parent: parent.map(|(parent, place)| (hex(&parent.id), place.clone())),
        }
    }

    /// Reads all of its memory, and of the snapshots that it differs from, and checks that nothing
    /// has changed them.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`], [`SnapshotError::Bad`] and [`SnapshotError::Parent`].
    pub fn verify(&self) -> Result<(), SnapshotError> {
        for files in self.chain()?.iter().map(Link::files) {
            let path = files.directory.join(MEMORY);
            let found = files.pages.checksum_of(&files.memory);
            files.pages.check(found.map_err(SnapshotError::file("read", &path))?, &path)?;
        }
        Ok(())
    }

    /// Whether it has only what differs from another one.
    pub(super) fn is_difference(&self) -> bool {
        self.parent.is_some()
    }

    /// Copies all that a guest of it has to `into`, which is as long as guest RAM and empty, and
    /// checks it on the way.
    pub(super) fn merge(&self, into: &File) -> Result<Vec<Extent>, SnapshotError> {
        let mut extents = Vec::new();
        for files in self.chain()?.iter().rev().map(Link::files) {
            let path = files.directory.join(MEMORY);
            let found = files.pages.copy(&files.memory, into);
            files.pages.check(found.map_err(SnapshotError::file("copy", &path))?, &path)?;
            extents = union(extents, &files.pages.extents);
        }
        Ok(extents)
    }

    /// This one, the one it differs from, and so on to one that is whole.
    fn chain(&self) -> Result<Vec<Link<'_>>, SnapshotError> {
        let mut chain = vec![Link::First(self)];
        while let Some(next) = chain.last().and_then(|link| link.files().find_parent()) {
            if chain.len() >= CHAIN_MAX {
                return Err(self.orphan(format!(
                    "there are more than {CHAIN_MAX} below it; merge them (`tare snapshot rebase`)"
                )));
            }
            chain.push(Link::Below(Box::new(next?)));
        }
        Ok(chain)
    }

    fn find_parent(&self) -> Option<Result<SnapshotFiles, SnapshotError>> {
        let (parent, place) = self.parent.as_ref()?;
        Some(self.open_parent(parent, place))
    }

    /// Where it was, or beside this one, should both have been moved.
    fn open_parent(&self, parent: &Parent, place: &Path) -> Result<SnapshotFiles, SnapshotError> {
        let beside = self.directory.parent().zip(place.file_name());
        let beside = beside.map(|(directory, name)| directory.join(name));
        let mut places = [Some(place.to_owned()), beside].into_iter().flatten();
        let Some(found) = places.find(|place| place.join(STATE).exists()) else {
            return Err(self.orphan(format!(
                "that one is missing: put it back at {}, or beside this one",
                place.display()
            )));
        };
        let files = SnapshotFiles::open(&found)?;
        let shown = found.display();
        if files.guest != self.guest {
            return Err(
                self.orphan(format!("{shown} is of another guest: put the right one there"))
            );
        }
        if files.id != parent.id {
            return Err(self.orphan(format!(
                "{shown} is another one by now ({}, not {}): put the right one back",
                hex(&files.id),
                hex(&parent.id)
            )));
        }
        if files.pages.checksum != parent.checksum {
            return Err(self.orphan(format!("{shown} has changed since: put the right one back")));
        }
        Ok(files)
    }

    fn orphan(&self, reason: String) -> SnapshotError {
        SnapshotError::Parent { path: self.directory.clone(), reason }
    }
}

/// One snapshot of a chain.
enum Link<'a> {
    First(&'a SnapshotFiles),
    Below(Box<SnapshotFiles>),
}

impl Link<'_> {
    fn files(&self) -> &SnapshotFiles {
        match self {
            Link::First(files) => files,
            Link::Below(files) => files,
        }
    }
}

fn open_memory(path: &Path, bytes: u64, pages: &Pages) -> Result<File, SnapshotError> {
    let bad =
        |reason: &str| SnapshotError::Bad { path: path.to_owned(), reason: reason.to_owned() };
    let memory = File::open(path).map_err(SnapshotError::file("open", path))?;
    let size = memory.metadata().map_err(SnapshotError::file("find", path))?.len();
    if size != bytes {
        return Err(bad(&format!("it has {size} bytes, the guest's memory {bytes}")));
    }
    if !pages.fits(bytes) {
        return Err(bad("the list of its pages in `state` cannot be"));
    }
    Ok(memory)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
