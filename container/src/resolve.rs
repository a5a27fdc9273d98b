//! Looking at a root file system from outside without being led out of it by its symbolic links.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::spec::Rootfs;

/// Opens `path` as a process whose root is `root` would see it (`openat2(2)`, `RESOLVE_IN_ROOT`).
pub(crate) fn open_in_root(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = File::open(root)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: three integers, for which zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: `path` and `how` are valid for the call, and the size is that of `how`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

impl Rootfs {
    /// The host's directories that it is made of, topmost first.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Rootfs::Host => vec!["/".into()],
            Rootfs::ReadOnly(path) | Rootfs::Bind(path) => vec![path.clone()],
            Rootfs::Overlay { lower, .. } => lower.clone(),
            Rootfs::OverlayOn { lower, upper, .. } => {
                std::iter::once(upper).chain(lower).cloned().collect()
            }
        }
    }

    /// Whether `path` exists in it, before anything is mounted there.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.directories().iter().any(|root| open_in_root(root, path).is_ok())
    }

    /// Whether what the box writes to it is not seen in the directories it is made of.
    pub(crate) fn is_overlay(&self) -> bool {
        matches!(self, Rootfs::Overlay { .. } | Rootfs::OverlayOn { .. })
    }

    /// The same with absolute paths free of symbolic links, all of them directories.
    pub(crate) fn canonical(&self) -> Result<Rootfs, Error> {
        let directory = |path: &PathBuf| -> Result<PathBuf, Error> {
            let canonical = std::fs::canonicalize(path).and_then(|canonical| {
                if canonical.is_dir() {
                    Ok(canonical)
                } else {
                    Err(io::Error::from_raw_os_error(libc::ENOTDIR))
                }
            });
            canonical.map_err(|source| Error::Path {
                role: "root file system",
                path: path.clone(),
                source,
                remedy: "name a directory that holds an unpacked root file system",
            })
        };
        Ok(match self {
            Rootfs::Host => Rootfs::Host,
            Rootfs::ReadOnly(path) => Rootfs::ReadOnly(directory(path)?),
            Rootfs::Bind(path) => Rootfs::Bind(directory(path)?),
            Rootfs::Overlay { lower, size_bytes } => Rootfs::Overlay {
                lower: lower.iter().map(directory).collect::<Result<_, _>>()?,
                size_bytes: *size_bytes,
            },
            Rootfs::OverlayOn { lower, upper, work, volatile } => Rootfs::OverlayOn {
                lower: lower.iter().map(directory).collect::<Result<_, _>>()?,
                upper: directory(upper)?,
                work: directory(work)?,
                volatile: *volatile,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_open_in_root_absolute_link_stays_inside() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("escape")).unwrap();
        std::os::unix::fs::symlink("../../../proc", root.path().join("up")).unwrap();
        assert!(open_in_root(root.path(), Path::new("/escape")).is_err());
        assert!(open_in_root(root.path(), Path::new("up/self")).is_err());
        std::fs::create_dir(root.path().join("etc")).unwrap();
        assert!(open_in_root(root.path(), Path::new("/escape")).is_ok());
    }

    #[test]
    fn test_canonical_of_missing_directory_returns_path_error() {
        let rootfs = Rootfs::ReadOnly("/nonexistent/rootfs".into());
        let error = rootfs.canonical().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/rootfs"), "{error}");
        assert!(Rootfs::Bind("/dev/null".into()).canonical().is_err());
    }
}
