//! A layer's archive made into a directory that overlayfs can use as a lower one.
//!
//! Every name is checked before it is used and then resolved beneath the directory, one openat2(2)
//! for each parent, without following any link (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`). So no
//! archive can reach outside, whatever it holds, and none is followed through its own links.
//!
//! What differs from a plain extraction:
//!
//! * Whiteouts (`.wh.NAME`, `.wh..wh..opq`; OCI image specification, layer.md) become what overlayfs
//!   has for them: a character device 0:0, and an attribute of the directory. They hide what is in
//!   the layers below, never what the same layer has.
//! * The last of several members of one name counts.
//! * A directory that the archive implies but does not have gets owner and mode of that in the layers
//!   below; a hard link to a file of the layers below takes a copy of it up. Both need these layers:
//!   where they are not at hand, the outcome is [`Outcome::NeedsBelow`].
//! * Nodes of the devices that every box has in its own `/dev` are left out there; all others are
//!   refused.
//! * An attribute of overlayfs is refused; others than `user.*`, capabilities and access lists are
//!   left out, for they mean something to one host only.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, XattrFlags, fchmod, fchown, fsetxattr, futimens, openat};

use super::archive::{Archive, Kind, Member};
use super::layer_error::{LayerError, shown};
use super::limits::UnpackLimits;
use super::lower::Lower;
use super::name::{Hidden, Name, whiteout};
use super::stream::Stream;
use super::tree::{Attributes, Halt, Tree, write};

/// What became of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is unpacked.
    Done(Unpacked),
    /// It cannot be without the layers below; what there is of it is of no use.
    NeedsBelow,
}

/// What an archive held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    /// Content of files.
    pub(crate) bytes: u64,
    /// Members that boxes have of their own, and attributes that mean nothing elsewhere.
    pub(crate) left_out: u64,
    /// Whether the layers below were looked at: upon others the tree would be another.
    pub(crate) depends: bool,
}

/// Unpacks into an empty directory. `lower` is `None` where the layers below are not at hand.
pub(crate) fn unpack(
    stream: &mut Stream<'_>,
    limits: &UnpackLimits,
    root: BorrowedFd<'_>,
    lower: Option<&Lower>,
) -> Result<Outcome, LayerError> {
    let mut archive = Archive::new(stream, limits);
    let mut unpacked = Unpacked::default();
    let taken = Tree::new(root, lower).map_err(Halt::from).and_then(|mut tree| {
        while let Some(member) = archive.next()? {
            take(&mut tree, &member, &mut archive, &mut unpacked)?;
        }
        unpacked.depends = tree.finish()?;
        Ok(())
    });
    unpacked.entries = archive.entries();
    match taken {
        Ok(()) => Ok(Outcome::Done(unpacked)),
        Err(Halt::NeedsBelow) => Ok(Outcome::NeedsBelow),
        Err(Halt::Refused(error)) => Err(error),
    }
}

fn take(
    tree: &mut Tree<'_>,
    member: &Member,
    archive: &mut Archive<'_, '_>,
    unpacked: &mut Unpacked,
) -> Result<(), Halt> {
    let name = Name::new(&member.path)?;
    let (kept, left_out) = attributes(member)?;
    unpacked.left_out += left_out;
    let Some((parent, last)) = name.split() else {
        return match member.kind {
            Kind::Directory => Ok(tree.describe_root(&Attributes::of(member), &kept)?),
            _ => {
                let why = "the root of a layer is a directory";
                Err(LayerError::Name { path: shown(&member.path), why }.into())
            }
        };
    };
    match whiteout(&name, parent, last)? {
        Some(Hidden::All) => return tree.make_opaque(parent),
        Some(Hidden::One(hidden)) => return tree.hide(parent, hidden),
        Some(Hidden::Nothing) => {
            unpacked.left_out += 1;
            return Ok(());
        }
        None => {}
    }
    let described = Attributes::of(member);
    match member.kind {
        Kind::Device { kind, major, minor } => {
            if !is_in_every_box(name.path(), kind, major, minor) {
                let path = shown(&member.path);
                return Err(LayerError::Device { path, kind, major, minor }.into());
            }
            unpacked.left_out += 1;
            Ok(())
        }
        Kind::Directory => tree.make_directory(parent, last, &described, &kept),
        Kind::SymbolicLink => tree.make_link(parent, last, &member.link, &described, &kept),
        Kind::Fifo => tree.make_fifo(parent, last, &described, &kept),
        Kind::HardLink => {
            let target = Name::new(&member.link)?;
            tree.link(parent, last, target.path())
        }
        Kind::Regular => {
            let directory = tree.directory(parent)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o600);
            let file = tree.replacing(&directory, parent, last, "make", || {
                openat(&*directory, last, flags | OFlags::CLOEXEC, mode)
            })?;
            loop {
                let chunk = archive.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                let count = rustix::io::write(&file, chunk).map_err(write("write", name.path()))?;
                archive.consume(count);
                unpacked.bytes += count as u64;
            }
            let (uid, gid) = described.owner();
            // A change of owner takes set-user-ID bits and capabilities away: it comes first.
            fchown(&file, uid, gid).map_err(write("give an owner to", name.path()))?;
            fchmod(&file, described.mode()).map_err(write("set the mode of", name.path()))?;
            for (attribute, value) in &kept {
                fsetxattr(&file, *attribute, value, XattrFlags::empty())
                    .map_err(write("set an extended attribute of", name.path()))?;
            }
            futimens(&file, &described.times()).map_err(write("set the time of", name.path()))?;
            Ok(())
        }
    }
}

/// The attributes that are kept, and how many are not.
#[allow(clippy::type_complexity)]
fn attributes(member: &Member) -> Result<(Vec<(&[u8], &[u8])>, u64), LayerError> {
    let mut kept = Vec::new();
    let mut left_out = 0;
    for (name, value) in &member.attributes {
        if name.contains(&0)
            || [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| name.starts_with(p))
        {
            return Err(LayerError::Attribute { path: shown(&member.path), name: shown(name) });
        }
        let is_kept = name.starts_with(b"user.")
            || [
                &b"security.capability"[..],
                b"system.posix_acl_access",
                b"system.posix_acl_default",
            ]
            .contains(&&name[..]);
        if is_kept {
            kept.push((&name[..], &value[..]));
        } else {
            left_out += 1;
        }
    }
    Ok((kept, left_out))
}

/// Whether a node is one of those that a box finds in its own `/dev`
/// (`Documentation/admin-guide/devices.txt`): console, full, null, ptmx, random, tty, urandom, zero.
fn is_in_every_box(path: &[u8], kind: &str, major: u32, minor: u32) -> bool {
    path.starts_with(b"dev/")
        && kind == "character"
        && matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2))
}

#[cfg(test)]
mod tests;
