//! `/proc` and `/sys`, with what is of the whole host hidden or write-protected.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount::{
    FSCONFIG_CMD_CREATE, FSMOUNT_CLOEXEC, FSOPEN_CLOEXEC, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, attach, attach_for, clone_of, new_mount, set_attributes,
};
use crate::error::{Error, Stage};
use crate::script::{Reg, Script};
use crate::spec::Proc;

/// Files of `/proc` that tell of the whole host or reach into it: hidden by `/dev/null`.
const HIDDEN_FILES: &[&CStr] = &[
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    c"sched_debug",
    c"timer_list",
    c"timer_stats",
];
/// Directories of `/proc` of that kind: hidden by an empty one.
const HIDDEN_DIRECTORIES: &[&CStr] = &[c"acpi", c"asound", c"scsi"];
/// Parts of `/proc` that may be read but not written; the last lets any user 0 write to the kernel's
/// log as it likes.
const READ_ONLY: &[&CStr] = &[c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger", c"dynamic_debug"];
/// Directories of `/sys` that are hidden.
const HIDDEN_SYS: &[&CStr] = &[c"firmware", c"devices/virtual/powercap"];

/// Where an empty directory covers another already: to be copied for the next.
pub(super) type Cover = Option<(Reg, &'static CStr)>;

const ATTRIBUTES: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Makes a `/proc`, not attached yet. In a user namespace that takes one that can be seen whole:
/// the host's, while it is there.
pub(super) fn new_proc(script: &mut Script, kind: Proc) -> Result<Reg, Error> {
    let options: &[_] =
        if kind == Proc::ProcessesOnly { &[(c"subset", "pid".to_owned())] } else { &[] };
    new_mount(script, c"proc", options, ATTRIBUTES)
}

/// Makes a read-only `/sys`, as [`new_proc`].
pub(super) fn new_sys(script: &mut Script) -> Result<Reg, Error> {
    new_mount(script, c"sysfs", &[], ATTRIBUTES | MOUNT_ATTR_RDONLY)
}

/// Attaches `/proc`; `null` is a detached mount of the null device.
pub(super) fn proc(script: &mut Script, proc: Reg, null: Option<Reg>) -> Result<Cover, Error> {
    attach(script, proc, libc::AT_FDCWD.into(), c"proc");
    let Some(null) = null else { return Ok(None) };
    // What follows is relative to the descriptor of this very mount: no path that the box could
    // influence is walked.
    let shown = Shown::by(c"proc")?;
    let mut hidden: Cover = None;
    for name in HIDDEN_FILES.iter().filter(|name| shown.has(name)) {
        let cover = match hidden {
            None => null,
            Some((at, hidden)) => clone_of(script, at, hidden),
        };
        attach_for(script, Stage::Mask, cover, proc.into(), name);
        hidden = Some((proc, name));
    }
    let cover = hide_directories(script, None, proc, &shown, HIDDEN_DIRECTORIES)?;
    for name in READ_ONLY.iter().filter(|name| shown.has(name)) {
        let part = clone_of(script, proc, name);
        let target = format!("/proc/{} (read-only)", name.to_string_lossy());
        set_attributes(script, part, ATTRIBUTES | MOUNT_ATTR_RDONLY, target);
        attach_for(script, Stage::Mask, part, proc.into(), name);
    }
    Ok(cover)
}

/// Attaches `/sys`.
pub(super) fn sys(script: &mut Script, sys: Reg, cover: Cover) -> Result<(), Error> {
    attach(script, sys, libc::AT_FDCWD.into(), c"sys");
    hide_directories(script, cover, sys, &Shown::by(c"sysfs")?, HIDDEN_SYS)?;
    Ok(())
}

/// Covers directories of `at` by one empty read-only tmpfs, which may be there already.
fn hide_directories(
    script: &mut Script,
    mut cover: Cover,
    at: Reg,
    shown: &Shown,
    names: &'static [&'static CStr],
) -> Result<Cover, Error> {
    for name in names.iter().filter(|name| shown.has(name)) {
        let mount = match cover {
            Some((at, hidden)) => clone_of(script, at, hidden),
            None => {
                let options = [(c"mode", "0555".to_owned())];
                let attributes =
                    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
                new_mount(script, c"tmpfs", &options, attributes)?
            }
        };
        attach_for(script, Stage::Mask, mount, at.into(), name);
        cover = Some((at, name));
    }
    Ok(cover)
}

/// What this kernel shows in a file system. Asked of a mount made for the question, for the
/// host's own may be missing, or masked itself; but whoever may make none is let into a user
/// namespace's only where the host's can be seen whole.
pub(super) struct Shown(OwnedFd);

impl Shown {
    pub(super) fn by(kind: &'static CStr) -> Result<Shown, Error> {
        match Shown::made(kind) {
            Err(Error::Setup { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
                let path = if kind == c"proc" { "/proc" } else { "/sys" };
                File::open(path).map(|file| Shown(file.into())).map_err(|source| Error::Path {
                    role: "file system of the kernel's",
                    path: path.into(),
                    source,
                    remedy: "mount it on the host",
                })
            }
            other => other,
        }
    }

    fn made(kind: &'static CStr) -> Result<Shown, Error> {
        let failed = || Error::Setup {
            stage: Stage::Mount,
            target: kind.to_string_lossy().into_owned(),
            source: io::Error::last_os_error(),
        };
        let own = |fd: libc::c_long| {
            // SAFETY: a descriptor just made, ours alone.
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        // SAFETY: a C string and numbers.
        let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        let context = own(context).ok_or_else(failed)?;
        // SAFETY: numbers and null pointers, as this command wants them.
        let created = unsafe {
            let command = FSCONFIG_CMD_CREATE;
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, 0usize, 0usize, 0)
        };
        if created < 0 {
            return Err(failed());
        }
        // SAFETY: numbers.
        let mount =
            unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
        own(mount).map(Shown).ok_or_else(failed)
    }

    /// Whether there is a directory at `path`; `None` if there is nothing.
    pub(super) fn is_directory(&self, path: &Path) -> Option<bool> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let mut status = MaybeUninit::<libc::stat>::uninit();
        let (fd, flags) = (self.0.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH);
        // SAFETY: an open descriptor, a C string, and room for the answer.
        if unsafe { libc::fstatat(fd, path.as_ptr(), status.as_mut_ptr(), flags) } != 0 {
            return None;
        }
        // SAFETY: the call has filled it.
        let mode = unsafe { status.assume_init() }.st_mode;
        Some(mode & libc::S_IFMT == libc::S_IFDIR)
    }

    fn has(&self, name: &CStr) -> bool {
        // SAFETY: an open descriptor and a C string.
        unsafe { libc::faccessat(self.0.as_raw_fd(), name.as_ptr(), libc::F_OK, 0) == 0 }
    }
}
