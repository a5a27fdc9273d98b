//! File systems of a microVM: what a job needs and nothing more.

use alloc::ffi::CString;
use alloc::string::String;
use core::ptr;

use tare_workload::{Context, Errno, Error};

/// Where a root file system waits before it becomes the root.
const NEW_ROOT: &str = "/newroot";

/// What has been mounted.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    has_devices: bool,
    has_proc: bool,
    /// True if something on a disk must be brought to it before the end.
    pub(crate) is_writable: bool,
}

impl Mounts {
    /// Mounts /dev, once.
    pub(crate) fn devices(&mut self) -> Result<(), Error> {
        if self.has_devices {
            return Ok(());
        }
        make_directory("/dev")?;
        match mount("devtmpfs", "/dev", "devtmpfs", libc::MS_NOSUID) {
            // A kernel with CONFIG_DEVTMPFS_MOUNT has done it for a root on a disk.
            Ok(()) | Err(Errno(libc::EBUSY)) => self.has_devices = true,
            Err(errno) => {
                return Err(errno).on("mount", "devtmpfs on /dev (CONFIG_DEVTMPFS)");
            }
        }
        Ok(())
    }

    /// Mounts /proc, once, where the kernel has it.
    pub(crate) fn proc(&mut self) -> Result<(), Error> {
        if !self.has_proc {
            self.has_proc = optional("proc", "/proc")?;
        }
        Ok(())
    }

    /// Mounts /sys, where the kernel has it.
    pub(crate) fn sys(&mut self) -> Result<(), Error> {
        optional("sysfs", "/sys").map(drop)
    }

    /// Mounts /dev/pts, on a /dev that is mounted.
    pub(crate) fn terminals(&mut self) -> Result<(), Error> {
        make_directory("/dev/pts")?;
        mount("devpts", "/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC)
            .on("mount", "devpts on /dev/pts (CONFIG_UNIX98_PTYS)")
    }

    /// Mounts the ext4 file system on `device` on `directory`, read-only if the device is.
    pub(crate) fn disk(&mut self, device: &str, directory: &str) -> Result<(), Error> {
        self.devices()?;
        make_directory(directory)?;
        let target = || alloc::format!("{device} (ext4) on {directory}");
        match mount(device, directory, "ext4", libc::MS_NOATIME) {
            Ok(()) => {
                self.is_writable = true;
                Ok(())
            }
            Err(Errno(libc::EACCES | libc::EROFS)) => {
                mount(device, directory, "ext4", libc::MS_NOATIME | libc::MS_RDONLY)
                    .on("mount", target())
            }
            Err(errno) => Err(errno).on("mount", target()),
        }
    }

    /// Makes the file system on `device` the root, with /dev moved into it. The initial RAM file
    /// system cannot be pivoted away from; it stays, covered.
    pub(crate) fn root(&mut self, device: &str) -> Result<(), Error> {
        self.disk(device, NEW_ROOT)?;
        let devices = alloc::format!("{NEW_ROOT}/dev");
        make_directory(&devices)?;
        mount("/dev", &devices, "", libc::MS_MOVE).on("mount(MS_MOVE)", &devices)?;
        change_directory(NEW_ROOT)?;
        mount(".", "/", "", libc::MS_MOVE).on("mount(MS_MOVE)", NEW_ROOT)?;
        // SAFETY: the path is NUL-terminated.
        check(unsafe { libc::chroot(c".".as_ptr()) }).on("chroot", NEW_ROOT)?;
        change_directory("/")
    }
}

/// Mounts a file system without a device on a directory of its own. False if the kernel lacks it.
fn optional(kind: &str, directory: &str) -> Result<bool, Error> {
    make_directory(directory)?;
    match mount(kind, directory, kind, libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC) {
        Ok(()) | Err(Errno(libc::EBUSY)) => Ok(true),
        Err(Errno(libc::ENODEV)) => Ok(false),
        Err(errno) => Err(errno).on("mount", alloc::format!("{kind} on {directory}")),
    }
}

/// Makes a directory the root of this process: no isolation, only other files.
pub(crate) fn change_root(directory: &str) -> Result<(), Error> {
    let name = c_path(directory).on("chroot", directory)?;
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::chroot(name.as_ptr()) }).on("chroot", directory)?;
    change_directory("/")
}

/// Creates a directory with its parents, as far as they are missing.
pub(crate) fn make_directory(path: &str) -> Result<(), Error> {
    let ends = path.match_indices('/').map(|(index, _)| index).skip(1).chain([path.len()]);
    for end in ends {
        let part = path.get(..end).unwrap_or(path);
        let name = c_path(part).on("mkdir", part)?;
        // SAFETY: the path is NUL-terminated.
        match check(unsafe { libc::mkdir(name.as_ptr(), 0o755) }) {
            Ok(()) | Err(Errno(libc::EEXIST)) => {}
            Err(errno) => return Err(errno).on("mkdir", part),
        }
    }
    Ok(())
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Result<(), Errno> {
    let (source, target, kind) = (c_path(source)?, c_path(target)?, c_path(kind)?);
    // SAFETY: all strings are NUL-terminated; there is no data.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null())
    })
}

fn change_directory(path: &str) -> Result<(), Error> {
    let name = c_path(path).on("chdir", path)?;
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::chdir(name.as_ptr()) }).on("chdir", path)
}

fn c_path(path: &str) -> Result<CString, Errno> {
    CString::new(String::from(path)).map_err(|_| Errno(libc::EINVAL))
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(()) }
}
