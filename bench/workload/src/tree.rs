//! One digest of a whole file tree, the same wherever the tree is looked at.
//!
//! It is SHA-256 over one record for each file, directory, link, pipe and device, where a directory
//! comes before what is in it and names are in the order of their bytes:
//!
//! ```text
//! path length, path · mode with its type · user · group · by type:
//!   regular file    size · SHA-256 of the content
//!   symbolic link   target length, target
//!   device          major · minor
//! number of user.* attributes · for each, by name: name length, name, value length, value
//! ```
//!
//! Numbers are 64 bits, little-endian. What is left out is what differs between boxes although the
//! bytes are the same: the root directory itself and `/proc`, `/sys` and `/dev`, which every box has of
//! its own; `/lost+found`, which a disk has; times of changes, which disks round; names that are links
//! of one file, which overlays do not always keep; and attributes other than `user.*`, which kernels
//! show only if they are built for them.

use alloc::collections::BinaryHeap;
use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ffi::CStr;

use sha2::{Digest, Sha256};

use crate::sys::{File, check, check_size};
use crate::{Context, Errno, Error};

/// At the root, these are not part of a tree.
const LEFT_OUT: [&CStr; 4] = [c"proc", c"sys", c"dev", c"lost+found"];
const CONTENT_BYTES: usize = 64 << 10;
/// The most that an attribute's value, or all names, may have (xattr(7)).
const ATTRIBUTE_BYTES: usize = 64 << 10;
/// Directories that are looked into below each other, each of which takes a descriptor.
const DEPTH_MAX: usize = 512;

/// Names, the first in order to be taken first. A sort would be 8 KiB of the agent for each use.
type Names = BinaryHeap<Reverse<CString>>;

/// What a tree comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// See the module's text.
    pub digest: [u8; 32],
    /// Files, directories and all else.
    pub entries: u64,
    /// Content of regular files.
    pub bytes: u64,
}

/// Reads all of the tree at `root`.
///
/// # Errors
/// [`Error::System`]: something of it cannot be read.
pub fn tree_digest(root: &str) -> Result<Tree, Error> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let directory = File::open(root, flags).on("open", root)?;
    let mut walk = Walk {
        hash: Hash::new(),
        entries: 0,
        bytes: 0,
        path: Vec::new(),
        buffer: vec![0; CONTENT_BYTES.max(ATTRIBUTE_BYTES)],
    };
    let mut names = walk.names(&directory)?;
    names.retain(|Reverse(name)| !LEFT_OUT.contains(&name.as_c_str()));
    let mut open = vec![(directory, names, 0)];
    while let Some((directory, names, path_bytes)) = open.last_mut() {
        walk.path.truncate(*path_bytes);
        let Some(Reverse(name)) = names.pop() else {
            open.pop();
            continue;
        };
        if !walk.path.is_empty() {
            walk.path.push(b'/');
        }
        walk.path.extend_from_slice(name.as_bytes());
        if let Some(inner) = walk.record(directory, &name)? {
            let names = walk.names(&inner)?;
            if open.len() == DEPTH_MAX {
                return Err(walk.failed("open", Errno(libc::ELOOP)));
            }
            open.push((inner, names, walk.path.len()));
        }
    }
    let Walk { hash, entries, bytes, .. } = walk;
    Ok(Tree { digest: hash.finish(), entries, bytes })
}

/// SHA-256, each step of it once in the agent rather than wherever it is used.
struct Hash(Sha256);

impl Hash {
    #[inline(never)]
    fn new() -> Hash {
        Hash(Sha256::new())
    }

    #[inline(never)]
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[inline(never)]
    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

struct Walk {
    hash: Hash,
    entries: u64,
    bytes: u64,
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl Walk {
    #[cold]
    fn failed(&self, call: &'static str, errno: Errno) -> Error {
        Error::System { call, target: String::from_utf8_lossy(&self.path).into_owned(), errno }
    }

    fn number(&mut self, number: u64) {
        self.hash.add(&number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.hash.add(text);
    }

    /// Adds one record; returns the directory, if it is one.
    fn record(&mut self, parent: &File, name: &CStr) -> Result<Option<File>, Error> {
        let stat = stat(parent, name).map_err(|errno| self.failed("fstatat", errno))?;
        self.entries += 1;
        let path = core::mem::take(&mut self.path);
        self.text(&path);
        self.path = path;
        self.number(stat.st_mode.into());
        self.number(stat.st_uid.into());
        self.number(stat.st_gid.into());
        let open = |flags| File::open_at(parent, name, flags | libc::O_RDONLY | libc::O_NOFOLLOW);
        let mut file = None;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                let opened = open(0).map_err(|errno| self.failed("open", errno))?;
                self.content(&opened)?;
                file = Some(opened);
            }
            libc::S_IFDIR => {
                file = Some(open(libc::O_DIRECTORY).map_err(|errno| self.failed("open", errno))?)
            }
            libc::S_IFLNK => self.link(parent, name)?,
            libc::S_IFCHR | libc::S_IFBLK => {
                self.number(libc::major(stat.st_rdev).into());
                self.number(libc::minor(stat.st_rdev).into());
            }
            _ => {}
        }
        match &file {
            Some(file) => self.attributes(file)?,
            None => self.number(0),
        }
        Ok(file.filter(|_| stat.st_mode & libc::S_IFMT == libc::S_IFDIR))
    }

    fn content(&mut self, file: &File) -> Result<(), Error> {
        let mut hash = Hash::new();
        let mut size = 0;
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno(libc::EINTR)) => continue,
                Err(errno) => return Err(self.failed("read", errno)),
            };
            hash.add(self.buffer.get(..count).unwrap_or_default());
            size += count as u64;
        }
        self.bytes += size;
        self.number(size);
        self.hash.add(&hash.finish());
        Ok(())
    }

    fn link(&mut self, parent: &File, name: &CStr) -> Result<(), Error> {
        // SAFETY: the name is NUL-terminated and the buffer valid for writing of its length.
        let length = check_size(unsafe {
            let (to, size) = (self.buffer.as_mut_ptr().cast(), self.buffer.len());
            libc::readlinkat(parent.fd(), name.as_ptr(), to, size)
        })
        .map_err(|errno| self.failed("readlink", errno))?;
        let target = self.buffer.get(..length).unwrap_or_default().to_vec();
        self.text(&target);
        Ok(())
    }

    fn attributes(&mut self, file: &File) -> Result<(), Error> {
        // SAFETY: the buffer is valid for writing of its length.
        let listed = check_size(unsafe {
            libc::flistxattr(file.fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len())
        });
        let length = match listed {
            Ok(length) => length,
            // The file system has none.
            Err(Errno(libc::ENOTSUP)) => 0,
            Err(errno) => return Err(self.failed("flistxattr", errno)),
        };
        let mut names = Names::new();
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        while let Ok(name) = CStr::from_bytes_until_nul(rest) {
            rest = rest.get(name.count_bytes() + 1..).unwrap_or_default();
            if name.to_bytes().starts_with(b"user.") {
                names.push(Reverse(name.into()));
            }
        }
        self.number(names.len() as u64);
        while let Some(Reverse(name)) = names.pop() {
            // SAFETY: the name is NUL-terminated and the buffer valid for writing of its length.
            let length = check_size(unsafe {
                let (to, size) = (self.buffer.as_mut_ptr().cast(), self.buffer.len());
                libc::fgetxattr(file.fd(), name.as_ptr(), to, size)
            })
            .map_err(|errno| self.failed("fgetxattr", errno))?;
            let value = self.buffer.get(..length).unwrap_or_default().to_vec();
            self.text(name.as_bytes());
            self.text(&value);
        }
        Ok(())
    }

    /// The names in a directory.
    fn names(&mut self, directory: &File) -> Result<Names, Error> {
        /// Where the fields of `struct linux_dirent64` are (getdents(2)).
        const LENGTH: usize = 16;
        const NAME: usize = 19;
        let mut names = Names::new();
        loop {
            // SAFETY: the buffer is valid for writing of its length.
            let count = check_size(unsafe {
                let (to, size) = (self.buffer.as_mut_ptr(), self.buffer.len());
                libc::syscall(libc::SYS_getdents64, directory.fd(), to, size)
            } as isize)
            .map_err(|errno| self.failed("getdents64", errno))?;
            if count == 0 {
                break;
            }
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
                let length = usize::from(u16::from_le_bytes([low, high]));
                let Some((entry, others)) = rest.split_at_checked(length) else { break };
                rest = others;
                let name = entry.get(NAME..).and_then(|name| CStr::from_bytes_until_nul(name).ok());
                names.extend(
                    name.filter(|name| *name != c"." && *name != c"..")
                        .map(|name| Reverse(name.into())),
                );
            }
        }
        Ok(names)
    }
}

fn stat(parent: &File, name: &CStr) -> Result<libc::stat, Errno> {
    let mut stat = core::mem::MaybeUninit::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the name is NUL-terminated and `stat` valid for writing.
    check(unsafe { libc::fstatat(parent.fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: the call succeeded and has written it.
    Ok(unsafe { stat.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::string::ToString;

    use super::*;

    fn digest(root: &Path) -> Tree {
        tree_digest(root.to_str().unwrap()).unwrap()
    }

    fn make(root: &Path) {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "content").unwrap();
        fs::write(root.join("a.file"), "").unwrap();
        symlink("b/file", root.join("a/link")).unwrap();
    }

    #[test]
    fn test_tree_digest_of_equal_trees_is_equal() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(one.path());
        fs::write(other.path().join("a.file"), "").unwrap();
        make(other.path());
        // What boxes have of their own does not count.
        for name in ["proc", "sys/kernel", "dev", "lost+found"] {
            fs::create_dir_all(other.path().join(name)).unwrap();
        }
        fs::set_permissions(other.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let tree = digest(one.path());
        assert_eq!(tree, digest(other.path()));
        assert_eq!((tree.entries, tree.bytes), (5, 7));
    }

    #[test]
    fn test_tree_digest_tells_every_change() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        make(root);
        let mut seen = vec![digest(root).digest];
        let changes: [&dyn Fn(); 7] = [
            &|| fs::write(root.join("a/b/file"), "Content").unwrap(),
            &|| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(root.join("a.file"), mode).unwrap();
            },
            &|| {
                fs::remove_file(root.join("a/link")).unwrap();
                symlink("b/files", root.join("a/link")).unwrap();
            },
            &|| fs::create_dir(root.join("c")).unwrap(),
            &|| fs::rename(root.join("c"), root.join("d")).unwrap(),
            // A path is no other because its parts are joined in another way.
            &|| fs::rename(root.join("a.file"), root.join("a/file")).unwrap(),
            &|| {
                fs::remove_dir(root.join("d")).unwrap();
                fs::write(root.join("d"), "").unwrap();
            },
        ];
        for change in changes {
            change();
            let now = digest(root).digest;
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }

    #[test]
    fn test_tree_digest_of_nothing_names_it() {
        let error = tree_digest("/nonexistent").unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
