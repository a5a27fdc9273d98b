//! The initramfs: a cpio archive in the `newc` format, as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` defines it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest name or symbolic link target, without the closing NUL (the kernel's `PATH_MAX`).
const MAX_NAME_BYTES: usize = 4095;

/// Largest archive that is assembled, 2 GiB: beyond that no guest of this project could hold it,
/// and `newc` itself ends at 4 GiB a file.
pub const MAX_ARCHIVE_BYTES: u64 = 1 << 31;

const HEADER_BYTES: u64 = 110;
const TRAILER: &str = "TRAILER!!!";

const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Why an entry or an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be unpacked by the kernel to where it says.
    #[error("initramfs: `{name}` is not a usable name: {why}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name is already taken.
    #[error("initramfs: `{0}` is there already")]
    Duplicate(String),
    /// A parent of the entry is not a directory.
    #[error("initramfs: `{parent}` is not a directory, so it cannot hold `{name}`")]
    Parent {
        /// The entry.
        name: String,
        /// Its parent that is something else.
        parent: String,
    },
    /// The archive would exceed [`MAX_ARCHIVE_BYTES`].
    #[error("initramfs: adding `{name}` makes it {bytes} bytes; at most {MAX_ARCHIVE_BYTES} fit")]
    TooLarge {
        /// The entry that would not fit.
        name: String,
        /// The size the archive would have.
        bytes: u64,
    },
    /// A file of the host that should go in could not be read, or the archive not be written.
    #[error("initramfs: cannot {action} {path}: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The host's path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

/// Collects entries and writes them as one archive.
///
/// The result is a function of the entries alone: they are sorted by name, belong to root, have
/// time 0 and numbered inodes. Missing parent directories appear with mode 0755.
///
/// ```
/// let mut initramfs = tare_kernels::Initramfs::new();
/// initramfs.directory("dev", 0o755)?;
/// initramfs.character_device("dev/console", 0o600, 5, 1)?;
/// initramfs.file("init", 0o755, b"\x7fELF...")?;
/// initramfs.symlink("sbin/init", "/init")?;
/// let archive: Vec<u8> = initramfs.build();
/// assert_eq!(&archive[..6], b"070701");
/// # Ok::<(), tare_kernels::InitramfsError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
    archive_bytes: u64,
}

impl Initramfs {
    /// An empty archive.
    pub fn new() -> Initramfs {
        Initramfs::default()
    }

    /// Adds a directory; one that is there already only takes on the mode.
    ///
    /// # Errors
    /// As all the adding functions: a name that is absolute, empty, longer than 4095 bytes or
    /// has odd components, a name that is taken, a parent that is no directory, an archive that
    /// becomes too large.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<(), Error> {
        if let Some(entry) = self.entries.get_mut(name)
            && is_directory(entry)
        {
            entry.mode = S_IFDIR | (mode & 0o7777);
            return Ok(());
        }
        self.add(name, S_IFDIR | (mode & 0o7777), (0, 0), Vec::new())
    }

    /// Adds a regular file with the given content.
    pub fn file(
        &mut self,
        name: &str,
        mode: u32,
        content: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        self.add(name, S_IFREG | (mode & 0o7777), (0, 0), content.into())
    }

    /// Adds a copy of a file of the host, read now.
    pub fn file_from(&mut self, name: &str, mode: u32, host: &Path) -> Result<(), Error> {
        let content = fs::read(host).map_err(|source| Error::Io {
            action: "read",
            path: host.to_owned(),
            source,
        })?;
        self.file(name, mode, content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<(), Error> {
        if target.is_empty() || target.len() > MAX_NAME_BYTES || target.contains('\0') {
            let why = "its link target is empty, too long or contains NUL";
            return Err(Error::Name { name: name.to_owned(), why });
        }
        self.add(name, S_IFLNK | 0o777, (0, 0), target.as_bytes().to_vec())
    }

    /// Adds a character device node.
    pub fn character_device(
        &mut self,
        name: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), Error> {
        self.add(name, S_IFCHR | (mode & 0o7777), (major, minor), Vec::new())
    }

    /// The size of the archive in bytes, as [`build`](Initramfs::build) would return it.
    pub fn archive_bytes(&self) -> u64 {
        self.archive_bytes + record_bytes(TRAILER.len(), 0)
    }

    /// Writes the archive.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(self.archive_bytes()).unwrap_or(0));
        for (index, (name, entry)) in (1u32..).zip(&self.entries) {
            let links = if is_directory(entry) { 2 } else { 1 };
            let header = Header { inode: index, mode: entry.mode, links, device: entry.device };
            header.write(&mut out, name, &entry.content);
        }
        Header { inode: 0, mode: 0, links: 1, device: (0, 0) }.write(&mut out, TRAILER, &[]);
        out
    }

    /// Writes the archive to a file of the host.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write_to(&self, host: &Path) -> Result<(), Error> {
        fs::write(host, self.build()).map_err(|source| Error::Io {
            action: "write",
            path: host.to_owned(),
            source,
        })
    }

    fn add(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    ) -> Result<(), Error> {
        check_name(name)?;
        if self.entries.contains_key(name) {
            return Err(Error::Duplicate(name.to_owned()));
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            match self.entries.get(parent) {
                Some(entry) if is_directory(entry) => {}
                Some(_) => {
                    let (name, parent) = (name.to_owned(), parent.to_owned());
                    return Err(Error::Parent { name, parent });
                }
                None => self.add(parent, S_IFDIR | 0o755, (0, 0), Vec::new())?,
            }
        }
        let content_bytes = content.len() as u64;
        let bytes = self.archive_bytes.saturating_add(record_bytes(name.len(), content_bytes));
        if bytes + record_bytes(TRAILER.len(), 0) > MAX_ARCHIVE_BYTES {
            return Err(Error::TooLarge { name: name.to_owned(), bytes });
        }
        self.archive_bytes = bytes;
        self.entries.insert(name.to_owned(), Entry { mode, device, content });
        Ok(())
    }
}

fn is_directory(entry: &Entry) -> bool {
    entry.mode & 0o170_000 == S_IFDIR
}

/// Header and name, padded, then content, padded.
fn record_bytes(name_bytes: usize, content_bytes: u64) -> u64 {
    let head = HEADER_BYTES + name_bytes as u64 + 1;
    head.next_multiple_of(4).saturating_add(content_bytes.saturating_add(3) & !3)
}

fn check_name(name: &str) -> Result<(), Error> {
    let refuse = |why| Err(Error::Name { name: name.to_owned(), why });
    if name.len() > MAX_NAME_BYTES {
        return refuse("it is longer than 4095 bytes");
    }
    if name.contains('\0') {
        return refuse("it contains NUL");
    }
    if name == TRAILER {
        return refuse("it is the archive's own end mark");
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("it must be relative, without empty, `.` or `..` components");
    }
    Ok(())
}

struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Header {
    fn write(&self, out: &mut Vec<u8>, name: &str, content: &[u8]) {
        // Sizes fit: `add` keeps the whole archive below 2 GiB.
        let (name_bytes, content_bytes) = (name.len() as u32 + 1, content.len() as u32);
        let (major, minor) = self.device;
        // magic, inode, mode, uid, gid, links, mtime, size, device of the file system (two
        // words), device of the node (two words), size of the name, checksum (unused).
        let fields = [
            self.inode,
            self.mode,
            0,
            0,
            self.links,
            0,
            content_bytes,
            0,
            0,
            major,
            minor,
            name_bytes,
            0,
        ];
        out.extend_from_slice(b"070701");
        for field in fields {
            out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;
