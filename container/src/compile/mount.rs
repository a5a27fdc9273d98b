//! The new mount interface (`fsopen(2)` and its kin), as steps of a script.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Stage};
use crate::script::{Arg, Reg, Script};

// linux/mount.h
pub(super) const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
pub(super) const FSOPEN_CLOEXEC: u32 = 1;
pub(super) const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
pub(super) const FSCONFIG_CMD_CREATE: u32 = 6;
pub(super) const OPEN_TREE_CLONE: u32 = 1;
pub(super) const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
pub(super) const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
pub(super) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// A detached copy of the mount at a path of the host, without what is mounted below.
pub(super) fn clone_tree(script: &mut Script, path: &Path) -> Result<Reg, Error> {
    let address = script.arena.text("path", path.as_os_str().as_bytes())?;
    Ok(script.call_for(
        Stage::Mount,
        path.display().to_string(),
        libc::SYS_open_tree,
        &[libc::AT_FDCWD.into(), address.into(), (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC).into()],
    ))
}

pub(super) fn set_attributes(script: &mut Script, mount: Reg, set: u64, target: String) {
    let empty = script.arena.literal(c"");
    // struct mount_attr: set, clear, propagation, user namespace
    let attributes = script.arena.words([set, 0, 0, 0]);
    script.call(
        Stage::Mount,
        target,
        libc::SYS_mount_setattr,
        &[
            mount.into(),
            empty.into(),
            libc::AT_EMPTY_PATH.into(),
            attributes.into(),
            32usize.into(),
        ],
    );
}

/// Makes a file system of its own, not attached anywhere yet.
pub(super) fn new_mount(
    script: &mut Script,
    kind: &'static CStr,
    options: &[(&'static CStr, String)],
    attributes: u64,
) -> Result<Reg, Error> {
    let name = kind.to_string_lossy();
    let kind = script.arena.literal(kind);
    let fd = script.call_for(
        Stage::Mount,
        name.clone(),
        libc::SYS_fsopen,
        &[kind.into(), FSOPEN_CLOEXEC.into()],
    );
    for (key, value) in options {
        let target = format!("{name} {}={value}", key.to_string_lossy());
        let (key, value) = (script.arena.literal(key), script.arena.text("mounts", value)?);
        script.call(
            Stage::Mount,
            target,
            libc::SYS_fsconfig,
            &[fd.into(), FSCONFIG_SET_STRING.into(), key.into(), value.into(), 0usize.into()],
        );
    }
    script.call(
        Stage::Mount,
        name.clone(),
        libc::SYS_fsconfig,
        &[fd.into(), FSCONFIG_CMD_CREATE.into(), 0usize.into(), 0usize.into(), 0usize.into()],
    );
    // The context is not needed again: its register takes the mount.
    script
        .call(
            Stage::Mount,
            name,
            libc::SYS_fsmount,
            &[fd.into(), FSMOUNT_CLOEXEC.into(), attributes.into()],
        )
        .result = Some(fd);
    Ok(fd)
}

/// Attaches a mount at `name` in directory `at`; a symbolic link there is not followed.
pub(super) fn attach(script: &mut Script, mount: Reg, at: Arg, name: &'static CStr) {
    attach_for(script, Stage::Mount, mount, at, name);
}

pub(super) fn attach_for(
    script: &mut Script,
    stage: Stage,
    mount: Reg,
    at: Arg,
    name: &'static CStr,
) {
    let (empty, address) = (script.arena.literal(c""), script.arena.literal(name));
    script.call(
        stage,
        name.to_string_lossy(),
        libc::SYS_move_mount,
        &[mount.into(), empty.into(), at, address.into(), MOVE_MOUNT_F_EMPTY_PATH.into()],
    );
}

/// A detached copy of what is mounted at, or lies at, `name` in directory `at`.
pub(super) fn clone_of(script: &mut Script, at: Reg, name: &'static CStr) -> Reg {
    let address = script.arena.literal(name);
    script.call_for(
        Stage::Mask,
        name.to_string_lossy(),
        libc::SYS_open_tree,
        &[at.into(), address.into(), (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC).into()],
    )
}

/// The same file through a detached read-only mount of its own, so that the box can neither write
/// to it nor change its mode or owner, not even through `/proc/self/exe` or `/proc/self/fd`. Not
/// open for reading or writing itself (`O_PATH`). What lies on no mount (a memfd) is returned as it
/// is.
pub(super) fn read_only(file: OwnedFd) -> OwnedFd {
    clone_read_only(&file).unwrap_or(file)
}

fn clone_read_only(file: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the empty path is a C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours alone.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attributes: [u64; 4] = [MOUNT_ATTR_RDONLY, 0, 0, 0];
    // SAFETY: struct mount_attr is 32 bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}
