//! The layers of a stage, or a directory of the host, as a process with that root would see them.
//!
//! Nothing is mounted: paths are looked up layer by layer, and symbolic links are followed here, so
//! that none leads out.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Dir, FileType, Stat};
use rustix::io::Errno;

use super::entry::{Content, Entry, EntryKind};
use super::error::BuildError;
use super::upper::attributes;
use crate::image::{Lower, open_directory};

/// As many symbolic links are followed for one path as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// See the module's text.
pub(super) struct Merged {
    trees: Vec<PathBuf>,
    lower: Lower,
}

/// A file that is there.
pub(super) struct Found {
    /// Where it is on the host; none of the directories above it is a link.
    pub(super) on_host: PathBuf,
    pub(super) stat: Stat,
}

impl Merged {
    /// Opens trees, topmost first.
    pub(super) fn open(trees: Vec<PathBuf>) -> Result<Merged, BuildError> {
        let lower = Lower::open(&trees)?;
        Ok(Merged { trees, lower })
    }

    /// What a path, relative to the root, is; no symbolic link is followed.
    pub(super) fn find(&self, path: &Path) -> Result<Option<Found>, BuildError> {
        if path.as_os_str().is_empty() {
            let Some(root) = self.root() else { return Ok(None) };
            let stat = rustix::fs::lstat(root).map_err(failed("look at", root))?;
            return Ok(Some(Found { on_host: root.to_owned(), stat }));
        }
        let found =
            self.lower.find(path.as_os_str().as_bytes()).map_err(failed("look for", path))?;
        Ok(found.and_then(|found| {
            let on_host = self.trees.get(found.index)?.join(path);
            Some(Found { on_host, stat: found.stat })
        }))
    }

    pub(super) fn root(&self) -> Option<&Path> {
        self.trees.first().map(PathBuf::as_path)
    }

    /// The names in a directory, in their order.
    pub(super) fn names(&self, path: &Path) -> Result<Vec<OsString>, BuildError> {
        let mut names = BTreeSet::new();
        for tree in self.lower.trees() {
            let directory = match open_directory(tree, path.as_os_str().as_bytes()) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed("read", path)(errno)),
            };
            list(directory, &mut names).map_err(failed("read", path))?;
        }
        // A tree may have what another one hides.
        let mut shown = Vec::new();
        for name in names {
            if self.find(&path.join(&name))?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    /// Follows the links of a path, the last part too; parts that do not exist stay.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, BuildError> {
        resolve(path, &|path| match self.find(path)? {
            Some(found) if found.is_link() => read_link(&found).map(Some),
            _ => Ok(None),
        })
    }

    /// What it is to follow a path to a file.
    pub(super) fn follow(&self, path: &Path) -> Result<Option<(PathBuf, Found)>, BuildError> {
        let path = self.resolve(path)?;
        Ok(self.find(&path)?.map(|found| (path, found)))
    }

    /// The bytes of a small file, such as /etc/passwd; `None` if it is not there.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
        const MOST_BYTES: u64 = 16 << 20;
        let Some((_, found)) = self.follow(path)? else { return Ok(None) };
        if !found.is_file() || found.stat.st_size as u64 > MOST_BYTES {
            return Ok(None);
        }
        std::fs::read(&found.on_host).map(Some).map_err(BuildError::io("read", &found.on_host))
    }
}

impl Found {
    pub(super) fn is_directory(&self) -> bool {
        kind(self) == FileType::Directory
    }

    pub(super) fn is_link(&self) -> bool {
        kind(self) == FileType::Symlink
    }

    pub(super) fn is_file(&self) -> bool {
        kind(self) == FileType::RegularFile
    }

    pub(super) fn is_socket(&self) -> bool {
        kind(self) == FileType::Socket
    }

    /// As an entry of a layer.
    pub(super) fn entry(&self) -> Result<Entry, BuildError> {
        let kind = match kind(self) {
            FileType::Directory => EntryKind::Directory { opaque: false },
            FileType::RegularFile => EntryKind::File(Content::of(self.on_host.clone())?),
            FileType::Symlink => {
                EntryKind::Symlink(read_link(self)?.into_os_string().into_encoded_bytes())
            }
            FileType::Fifo => EntryKind::Fifo,
            _ => return Err(BuildError::Device(self.on_host.clone())),
        };
        Ok(Entry {
            kind,
            mode: self.stat.st_mode & 0o7777,
            uid: self.stat.st_uid,
            gid: self.stat.st_gid,
            attributes: attributes(&self.on_host)?,
        })
    }
}

/// Follows links by `link_at`, which tells the target of a path that is one.
pub(super) fn resolve(
    path: &Path,
    link_at: &dyn Fn(&Path) -> Result<Option<PathBuf>, BuildError>,
) -> Result<PathBuf, BuildError> {
    let mut resolved = PathBuf::new();
    // What is still to be walked, the next part last.
    let mut pending = parts(path);
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(&part);
        if let Some(target) = link_at(&resolved)? {
            links += 1;
            if links > LINKS_MAX {
                let source = std::io::Error::from_raw_os_error(libc::ELOOP);
                return Err(BuildError::io("follow the links of", path)(source));
            }
            resolved.pop();
            if target.is_absolute() {
                resolved = PathBuf::new();
            }
            pending.extend(parts(&target));
        }
    }
    Ok(resolved)
}

/// The parts of a path from the last to the first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

fn kind(found: &Found) -> FileType {
    FileType::from_raw_mode(found.stat.st_mode)
}

fn read_link(found: &Found) -> Result<PathBuf, BuildError> {
    std::fs::read_link(&found.on_host).map_err(BuildError::io("read", &found.on_host))
}

fn list(directory: OwnedFd, into: &mut BTreeSet<OsString>) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            into.insert(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> BuildError {
    let path = path.to_owned();
    move |errno| BuildError::io(action, &path)(errno.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn test_resolve_stays_inside_and_keeps_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        for (target, name) in
            [("usr/lib", "lib"), ("/etc", "abs"), ("../../../usr", "up"), ("loop", "loop")]
        {
            std::os::unix::fs::symlink(target, root.path().join(name)).unwrap();
        }
        let merged = Merged::open(vec![root.path().to_owned()]).unwrap();
        for (path, expected) in [
            ("/lib/x/y", "usr/lib/x/y"),
            ("abs/passwd", "etc/passwd"),
            ("up/lib", "usr/lib"),
            ("a/../../b", "b"),
            ("/", ""),
        ] {
            assert_eq!(merged.resolve(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
        assert!(merged.resolve(Path::new("loop")).is_err());
        assert!(merged.read(Path::new("abs/passwd")).unwrap().is_none());
    }

    #[test]
    fn test_names_of_several_layers_leave_out_what_is_hidden() {
        if !crate::image::may_unpack("test_names_of_several_layers") {
            return;
        }
        let (top, low) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (tree, path) in [(&top, "d/new"), (&low, "d/old"), (&low, "d/gone"), (&low, "e/hidden")]
        {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let whiteout = top.path().join("d/gone");
        let (mode, kind) = (rustix::fs::Mode::empty(), FileType::CharacterDevice);
        rustix::fs::mknodat(rustix::fs::CWD, whiteout, kind, mode, 0).unwrap();
        fs::create_dir(top.path().join("e")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(top.path().join("e"), "trusted.overlay.opaque", b"y", flags).unwrap();
        let merged = Merged::open(vec![top.path().into(), low.path().into()]).unwrap();
        assert_eq!(merged.names(Path::new("d")).unwrap(), ["new", "old"]);
        assert!(merged.names(Path::new("e")).unwrap().is_empty());
        assert_eq!(merged.names(Path::new("")).unwrap(), ["d", "e"]);
        let old = merged.find(Path::new("d/old")).unwrap().unwrap();
        assert_eq!(old.on_host, low.path().join("d/old"));
    }
}
