//! Removal of cgroups, also of those whose run was killed before it could.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PARENT;
use super::error::CgroupError;
use super::files::{open_at, read_at, remove_directory_at, write_at};
use super::layout::CgroupLayout;
use super::name::Name;

/// How long killed processes may take to vanish.
const PATIENCE: Duration = Duration::from_secs(5);

/// What [`sweep`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Cgroups removed.
    pub removed: Vec<PathBuf>,
    /// Cgroups whose owner is of another pid namespace, so that nobody here can tell whether it
    /// lives. Left alone.
    pub undecided: Vec<PathBuf>,
}

/// Finds the cgroups of boxes whose run has died (by `kill -9`, for example), kills what still
/// runs in them and removes them. Those of live runs are left alone.
///
/// Nothing else can be left: mounts and network live in namespaces, which end with their last
/// process, and every process of a box dies with the thread that started it.
///
/// # Errors
/// `/proc` cannot be read, or a cgroup cannot be removed. Where no cgroup file system is mounted
/// there is nothing to do.
pub fn sweep() -> Result<Swept, CgroupError> {
    let layout = match CgroupLayout::detect() {
        Err(CgroupError::NotMounted) => return Ok(Swept::default()),
        other => other?,
    };
    let mut swept = Swept::default();
    for mount in layout.v1().iter().chain(layout.unified()) {
        let mut parents = Vec::new();
        find_parents(&mount.path, 0, &mut parents);
        for parent in parents {
            sweep_parent(&parent, &mut swept)?;
        }
    }
    Ok(swept)
}

/// Looks for directories called `tare`. Directories that vanish meanwhile are no error.
fn find_parents(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    // Deeper than any init system nests; a cgroup tree has no loops.
    if depth > 16 {
        return;
    }
    for path in subdirectories(directory) {
        if path.file_name().is_some_and(|name| name == PARENT) {
            found.push(path);
        } else {
            find_parents(&path, depth + 1, found);
        }
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn sweep_parent(parent: &Path, swept: &mut Swept) -> Result<(), CgroupError> {
    let directory = match File::open(parent) {
        Ok(file) => OwnedFd::from(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CgroupError::Unreadable { path: parent.to_owned(), source }),
    };
    for path in subdirectories(parent) {
        let Some(name) = path.file_name() else { continue };
        let Some(owner) = name.to_str().and_then(Name::owner) else { continue };
        let lives =
            owner.lives().map_err(|source| CgroupError::Proc { path: "/proc/PID/stat", source })?;
        match lives {
            Some(true) => {}
            None => swept.undecided.push(path),
            Some(false) => {
                let name = CString::new(name.as_bytes()).unwrap_or_default();
                remove_group(directory.as_fd(), &name)
                    .map_err(|source| CgroupError::NotRemoved { path: path.clone(), source })?;
                swept.removed.push(path);
            }
        }
    }
    // Fails while it has other children, as it should.
    let _ = std::fs::remove_dir(parent);
    Ok(())
}

/// Removes cgroup `name` of `parent` with all below it, killing what runs there. One that is gone
/// already is no error.
pub(crate) fn remove_group(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let mut waited = Duration::from_micros(50);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match remove_directory_at(parent, name) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                if Instant::now() >= deadline {
                    return Err(e);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
        // Something is in it still. This is off every timed path.
        let directory = match open_at(parent, name, libc::O_DIRECTORY | libc::O_RDONLY) {
            Ok(directory) => directory,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        kill_all(directory.as_fd())?;
        for child in children(directory.as_fd()) {
            remove_group(directory.as_fd(), &child)?;
        }
        std::thread::sleep(waited);
        waited = (waited * 2).min(Duration::from_millis(20));
    }
}

/// Names of the cgroups below.
fn children(directory: BorrowedFd<'_>) -> Vec<CString> {
    subdirectories(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())))
        .iter()
        .filter_map(|path| CString::new(path.file_name()?.as_bytes()).ok())
        .collect()
}

/// Kills every process of the cgroup: at one stroke where the kernel can (v2, Linux 5.14), else
/// one by one.
pub(crate) fn kill_all(directory: BorrowedFd<'_>) -> io::Result<()> {
    if write_at(directory, c"cgroup.kill", b"1").is_ok() {
        return Ok(());
    }
    for pid in members(directory)? {
        // A pid may be reused between reading and killing: hold it by a pidfd, then look again.
        // SAFETY: plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            continue;
        }
        // SAFETY: `fd` is open and ours alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        if members(directory)?.contains(&pid) {
            // A process that has ended meanwhile is what we want.
            let _ = crate::container::signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
    Ok(())
}

fn members(directory: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    // 0 stands for a process outside of this pid namespace, which cannot be signalled.
    Ok(read_at(directory, c"cgroup.procs")?
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}
