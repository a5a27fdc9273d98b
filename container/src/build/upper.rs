//! What a command has changed: the upper directory of an overlay, read as a layer.
//!
//! overlayfs has whiteouts as character devices 0:0 and hides the lower layers' files of a directory
//! by an attribute (`Documentation/filesystems/overlayfs.rst`). Its own attributes are no part of a
//! layer, nor are sockets, which archives cannot hold.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::entry::{Attributes, Content, Entries, Entry, EntryKind};
use super::error::BuildError;

/// Attributes that are part of an image; others mean something to one host only.
const KEPT_ATTRIBUTES: [&[u8]; 4] =
    [b"user.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
const OPAQUE: &str = "trusted.overlay.opaque";
/// The deepest directory that is read: paths inside a box have at most PATH_MAX bytes, but a
/// program can go further step by step.
const DEPTH_MAX: usize = 1024;

/// Reads the upper directory `upper`; its own owner and mode are not looked at.
pub(super) fn read_upper(upper: &Path) -> Result<Entries, BuildError> {
    let mut reading = Reading { entries: Entries::new(), linked: HashMap::new() };
    reading.directory(upper, Path::new(""), 0)?;
    Ok(reading.entries)
}

struct Reading {
    entries: Entries,
    /// Files with several names, by device and number: the first of the names.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Reading {
    fn directory(&mut self, on_host: &Path, path: &Path, depth: usize) -> Result<(), BuildError> {
        if depth > DEPTH_MAX {
            return Err(BuildError::TooDeep(path.to_owned()));
        }
        for name in sorted_names(on_host)? {
            let (on_host, path) = (on_host.join(&name), path.join(&name));
            let metadata = on_host.symlink_metadata().map_err(BuildError::io("read", &on_host))?;
            let Some(kind) = self.kind(&on_host, &path, &metadata)? else { continue };
            let is_directory = matches!(kind, EntryKind::Directory { .. });
            let attributes = match kind {
                EntryKind::Hardlink(_) | EntryKind::Whiteout => Vec::new(),
                _ => attributes(&on_host)?,
            };
            let entry = Entry {
                kind,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                attributes,
            };
            self.entries.insert(path.clone(), entry);
            if is_directory {
                self.directory(&on_host, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn kind(
        &mut self,
        on_host: &Path,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<Option<EntryKind>, BuildError> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Ok(Some(EntryKind::Directory { opaque: is_opaque(on_host)? }));
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            return Ok(Some(EntryKind::Whiteout));
        }
        if kind.is_socket() {
            return Ok(None);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Err(BuildError::Device(Path::new("/").join(path)));
        }
        // A link gets the first name, a symbolic link or pipe as well.
        if metadata.nlink() > 1 {
            let id = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&id) {
                return Ok(Some(EntryKind::Hardlink(first.clone())));
            }
            self.linked.insert(id, path.to_owned());
        }
        Ok(Some(if kind.is_symlink() {
            let target = fs::read_link(on_host).map_err(BuildError::io("read", on_host))?;
            EntryKind::Symlink(target.as_os_str().as_bytes().to_vec())
        } else if kind.is_fifo() {
            EntryKind::Fifo
        } else {
            EntryKind::File(Content::of(on_host.to_owned())?)
        }))
    }
}

/// The names in a directory, in their order.
pub(super) fn sorted_names(directory: &Path) -> Result<Vec<std::ffi::OsString>, BuildError> {
    let mut names = fs::read_dir(directory)
        .and_then(|names| {
            names.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(BuildError::io("read", directory))?;
    names.sort();
    Ok(names)
}

fn is_opaque(directory: &Path) -> Result<bool, BuildError> {
    let mut value = [0; 2];
    match rustix::fs::lgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(BuildError::io("read attributes of", directory)(errno.into())),
    }
}

/// The attributes of a file that are part of an image, in the order of their names.
pub(super) fn attributes(path: &Path) -> Result<Attributes, BuildError> {
    // The kernel's bounds of both: XATTR_LIST_MAX, XATTR_SIZE_MAX (linux/limits.h).
    let mut buffer = vec![0; 64 << 10];
    let failed =
        |errno: rustix::io::Errno| Err(BuildError::io("read attributes of", path)(errno.into()));
    let names = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(length) => buffer.get(..length).unwrap_or_default().to_vec(),
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return failed(errno),
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if !KEPT_ATTRIBUTES.iter().any(|kept| name.starts_with(kept)) {
            continue;
        }
        match rustix::fs::lgetxattr(path, name, &mut buffer[..]) {
            Ok(length) => {
                let value = buffer.get(..length).unwrap_or_default();
                attributes.push((name.to_vec(), value.to_vec()));
            }
            Err(errno) => return failed(errno),
        }
    }
    attributes.sort();
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_read_upper_takes_links_and_attributes_but_no_sockets() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/b"), "b").unwrap();
        fs::hard_link(at("d/b"), at("d/c")).unwrap();
        std::os::unix::fs::symlink("../x", at("l")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("s")).unwrap();
        let has_attributes =
            rustix::fs::setxattr(at("d"), "user.x", b"1", rustix::fs::XattrFlags::empty()).is_ok();
        let entries = read_upper(upper.path()).unwrap();
        let names: Vec<_> = entries.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["d", "d/b", "d/c", "l"]);
        assert_eq!(entries[Path::new("d/c")].kind, EntryKind::Hardlink("d/b".into()));
        assert_eq!(entries[Path::new("l")].kind, EntryKind::Symlink(b"../x".to_vec()));
        if has_attributes {
            assert_eq!(entries[Path::new("d")].attributes, [(b"user.x".to_vec(), b"1".to_vec())]);
        }
    }

    #[test]
    fn test_read_upper_takes_whiteouts_and_refuses_devices() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let upper = tempfile::tempdir().unwrap();
        let device = |name: &str, minor| {
            let path = upper.path().join(name);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::CharacterDevice;
            let number = rustix::fs::makedev(0, minor);
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, number).unwrap();
        };
        device("gone", 0);
        let directory = upper.path().join("d");
        fs::create_dir(&directory).unwrap();
        rustix::fs::setxattr(&directory, OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let entries = read_upper(upper.path()).unwrap();
        assert_eq!(entries[Path::new("gone")].kind, EntryKind::Whiteout);
        assert_eq!(entries[Path::new("d")].kind, EntryKind::Directory { opaque: true });
        device("other", 1);
        assert!(matches!(read_upper(upper.path()), Err(BuildError::Device(_))));
    }
}
