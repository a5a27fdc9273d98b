//! The tree that overlayfs makes of an image's layers, mounted where nobody else sees it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::rundir::RunDir;

/// What mount(2) takes as options.
const OPTIONS_MAX_BYTES: usize = 4095;

/// The tree cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory to mount on cannot be made.
    #[error("cannot make a directory for the image's tree: {0}")]
    Directory(io::Error),
    /// A step of the mount.
    #[error("cannot {step} for the image's tree: {source}; run tare as root, with overlayfs")]
    Mount {
        /// The step.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The layers' paths are too long together.
    #[error(
        "the paths of the image's {0} layers are too long for one mount: put the store in a shorter \
         path (TARE_STORE), or use an image of fewer layers"
    )]
    TooMany(usize),
}

/// A mount that belongs to no namespace: it is there while this value is, or something runs in it,
/// and cannot be left behind.
#[derive(Debug)]
pub struct Merged {
    mount: OwnedFd,
    /// Keeps the place that it was mounted on from being used by another.
    _directory: RunDir,
}

impl Merged {
    /// Mounts layers, topmost first, with a tmpfs above them that takes all changes.
    ///
    /// # Errors
    /// [`Error`]; nothing stays mounted.
    pub fn new(layers: &[PathBuf]) -> Result<Merged, Error> {
        let directory = RunDir::new().map_err(Error::Directory)?;
        let mount = mounted(directory.path(), layers, detach)??;
        Ok(Merged { mount, _directory: directory })
    }

    /// Its root, for this process and its children.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        // By the last part it is a directory, and no link, to who looks at it.
        format!("/proc/{}/fd/{}/.", std::process::id(), self.mount.as_raw_fd()).into()
    }
}

/// Gives `use_it` the path of the same tree, which is mounted there for its thread, and what that
/// starts, alone. For programs that want to know the true name of what they read.
///
/// # Errors
/// [`Error`]; nothing stays mounted.
pub fn while_merged<T: Send>(
    layers: &[PathBuf],
    use_it: impl FnOnce(&Path) -> T + Send,
) -> Result<T, Error> {
    let directory = RunDir::new().map_err(Error::Directory)?;
    mounted(directory.path(), layers, use_it)
}

/// Mounts on a thread with a mount namespace of its own, which lives as long as the thread,
/// whatever becomes of it.
fn mounted<T: Send>(
    place: &Path,
    layers: &[PathBuf],
    use_it: impl FnOnce(&Path) -> T + Send,
) -> Result<T, Error> {
    let options = options(layers)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mount_overlay(place, &options)?;
            Ok(use_it(&place.join("m")))
        });
        thread.join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread that mounts has panicked");
            Err(Error::Mount { step: "mount", source })
        })
    })
}

fn options(layers: &[PathBuf]) -> Result<Vec<u8>, Error> {
    let mut options = b"upperdir=u,workdir=w,lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        for byte in layer.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                options.push(b'\\');
            }
            options.push(*byte);
        }
    }
    if options.len() > OPTIONS_MAX_BYTES {
        return Err(Error::TooMany(layers.len()));
    }
    Ok(options)
}

fn mount_overlay(place: &Path, options: &[u8]) -> Result<(), Error> {
    let failed = |step| move |errno: nix::Error| Error::Mount { step, source: errno.into() };
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).map_err(failed("unshare mounts"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("make mounts private"))?;
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(failed("mount a tmpfs"))?;
    std::env::set_current_dir(place)
        .and_then(|()| ["u", "w", "m"].iter().try_for_each(std::fs::create_dir))
        .map_err(|source| Error::Mount { step: "use a tmpfs", source })?;
    mount(Some("overlay"), "m", Some("overlay"), MsFlags::empty(), Some(options))
        .map_err(failed("mount an overlay"))
}

/// A mount without a place.
fn detach(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Mount { step: "keep the mount", source };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: the path is a C string; the result is checked.
    let fd = unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    };
    match i32::try_from(fd) {
        // SAFETY: `fd` is open and ours alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn test_merged_shows_all_layers_and_is_in_no_mount_table() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "not root, and CI=true");
            eprintln!("SKIPPED test_merged_shows_all_layers_and_is_in_no_mount_table: not root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join(name), name).unwrap();
            path
        };
        let layers = [layer("top"), layer("a,b:c\\d")];
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        let merged = Merged::new(&layers).unwrap();
        assert_eq!(mounts(), before);
        let tree = merged.path();
        assert_eq!(fs::read_to_string(tree.join("top")).unwrap(), "top");
        assert_eq!(fs::read_to_string(tree.join("a,b:c\\d")).unwrap(), "a,b:c\\d");
        fs::write(tree.join("top"), "changed").unwrap();
        assert_eq!(fs::read_to_string(layers[0].join("top")).unwrap(), "top");
        let seen = while_merged(&layers, |path| fs::read_to_string(path.join("top")).unwrap());
        assert_eq!(seen.unwrap(), "top");
        assert_eq!(mounts(), before);
        let child = std::process::Command::new("/bin/ls").arg(&tree).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&child.stdout), "a,b:c\\d\ntop\n");
    }
}
