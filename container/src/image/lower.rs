//! The layers below one that is being unpacked, as they look together.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, open, openat2, statat};
use rustix::io::Errno;

use super::error::Error;

/// The attribute by which overlayfs hides what lies below a directory
/// (`Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories").
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The trees of the layers below, topmost first.
#[derive(Debug, Default)]
pub(crate) struct Lower {
    trees: Vec<OwnedFd>,
}

/// Something that a layer below has.
pub(crate) struct Found<'a> {
    /// The tree that it is in.
    pub(crate) tree: BorrowedFd<'a>,
    /// Which of the trees that is, the topmost being 0.
    pub(crate) index: usize,
    pub(crate) stat: Stat,
}

impl Lower {
    /// Opens trees, topmost first.
    pub(crate) fn open(trees: &[PathBuf]) -> Result<Lower, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |tree: &PathBuf| {
            open(tree, flags, Mode::empty()).map_err(Error::os("open the layer", tree))
        };
        Ok(Lower { trees: trees.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Its trees, topmost first.
    pub(crate) fn trees(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.trees.iter().map(AsFd::as_fd)
    }

    /// What `path` is in the layers together; no symbolic link is followed on the way to it.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Option<Found<'_>>, Errno> {
        for (index, tree) in self.trees().enumerate() {
            match look(tree, path)? {
                Look::Here(stat) => return Ok(Some(Found { tree, index, stat })),
                Look::Hidden => return Ok(None),
                Look::Below => {}
            }
        }
        Ok(None)
    }
}

enum Look {
    Here(Stat),
    /// It is not there, and what is below does not show.
    Hidden,
    /// Layers below may have it.
    Below,
}

fn look(tree: BorrowedFd<'_>, path: &[u8]) -> Result<Look, Errno> {
    let mut is_opaque = false;
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let prefix = path.get(..end).unwrap_or(path);
        let stat = match stat_beneath(tree, prefix) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if is_opaque => return Ok(Look::Hidden),
            Err(Errno::NOENT) => return Ok(Look::Below),
            Err(errno) => return Err(errno),
        };
        if is_whiteout(&stat) {
            return Ok(Look::Hidden);
        }
        if end == path.len() {
            return Ok(Look::Here(stat));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Look::Hidden);
        }
        is_opaque |= has_opaque(tree, prefix)?;
    }
    Ok(Look::Below)
}

/// Opens a directory of a tree without following any link; the tree itself by an empty path.
pub(crate) fn open_directory(tree: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(tree, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a file of a tree without following any link.
pub(crate) fn open_beneath(
    tree: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(tree, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn stat_beneath(tree: BorrowedFd<'_>, path: &[u8]) -> Result<Stat, Errno> {
    match path.iter().rposition(|byte| *byte == b'/') {
        None => statat(tree, path, AtFlags::SYMLINK_NOFOLLOW),
        Some(slash) => {
            let (parent, name) = path.split_at(slash);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let parent = open_beneath(tree, parent, flags)?;
            statat(parent, name.get(1..).unwrap_or_default(), AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// A character device 0:0 stands for nothing.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn has_opaque(tree: BorrowedFd<'_>, path: &[u8]) -> Result<bool, Errno> {
    let directory = open_directory(tree, path)?;
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(&directory, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}
