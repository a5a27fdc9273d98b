//! The new mount interface (`fsopen(2)` and its kin), as steps of a script.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Stage};
use crate::mount::{Attributes, Propagation};
use crate::script::{Arg, Reg, Script};

// linux/mount.h
pub(super) const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
pub(super) const FSOPEN_CLOEXEC: u32 = 1;
pub(super) const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
pub(super) const FSCONFIG_CMD_CREATE: u32 = 6;
pub(super) const OPEN_TREE_CLONE: u32 = 1;
pub(super) const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
pub(super) const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
pub(super) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// linux/fcntl.h; the libc crate does not have it for musl.
pub(super) const AT_RECURSIVE: u32 = 0x8000;

/// A detached copy of the mount at a path of the host, without what is mounted below.
pub(super) fn clone_tree(script: &mut Script, path: &Path) -> Result<Reg, Error> {
    clone_of_path(script, Stage::Mount, path, 0)
}

/// A detached copy of what is at `path`, with these flags besides (`AT_RECURSIVE`).
pub(super) fn clone_of_path(
    script: &mut Script,
    stage: Stage,
    path: &Path,
    flags: u32,
) -> Result<Reg, Error> {
    let address = script.arena.text("path", path.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags;
    Ok(script.call_for(
        stage,
        path.display().to_string(),
        libc::SYS_open_tree,
        &[libc::AT_FDCWD.into(), address.into(), flags.into()],
    ))
}

pub(super) fn set_attributes(script: &mut Script, mount: Reg, set: u64, target: String) {
    change(script, mount, Attributes { set, clear: 0 }, None, false, target);
}

/// Changes attributes of a mount, and of all below it if `recursive`.
pub(super) fn change(
    script: &mut Script,
    mount: Reg,
    attributes: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
    target: String,
) {
    let empty = script.arena.literal(c"");
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    let words = attribute_words(attributes, propagation);
    let words = script.arena.words(words);
    script.call(
        Stage::Mount,
        target,
        libc::SYS_mount_setattr,
        &[mount.into(), empty.into(), flags.into(), words.into(), 32usize.into()],
    );
}

/// `struct mount_attr`: set, clear, propagation, user namespace.
pub(super) fn attribute_words(
    attributes: Attributes,
    propagation: Option<Propagation>,
) -> [u64; 4] {
    let propagation = propagation.map_or(0, |kind| match kind {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    });
    [attributes.set, attributes.clear, propagation, 0]
}

/// Makes a file system of its own, not attached anywhere yet.
pub(super) fn new_mount(
    script: &mut Script,
    kind: &'static CStr,
    options: &[(&'static CStr, String)],
    attributes: u64,
) -> Result<Reg, Error> {
    let text = |text: &CStr| OsString::from(text.to_string_lossy().into_owned());
    let options: Vec<_> =
        options.iter().map(|(key, value)| (text(key), Some(value.into()))).collect();
    new_file_system(script, &text(kind), None, &options, attributes)
}

/// As [`new_mount`], of whatever kind and with options that may be flags.
pub(super) fn new_file_system(
    script: &mut Script,
    kind: &OsStr,
    source: Option<&OsStr>,
    options: &[(OsString, Option<OsString>)],
    attributes: u64,
) -> Result<Reg, Error> {
    let name = kind.to_string_lossy();
    let address = script.arena.text("mounts", kind.as_bytes())?;
    let fd = script.call_for(
        Stage::Mount,
        name.clone(),
        libc::SYS_fsopen,
        &[address.into(), FSOPEN_CLOEXEC.into()],
    );
    let source = source.map(|source| (OsString::from("source"), Some(source.to_owned())));
    for (key, value) in source.iter().chain(options) {
        let mut target = format!("{name} {}", key.to_string_lossy());
        let key = script.arena.text("mounts", key.as_bytes())?;
        let (command, value) = match value {
            None => (FSCONFIG_SET_FLAG, 0),
            Some(value) => {
                target.push_str(&format!("={}", value.to_string_lossy()));
                (FSCONFIG_SET_STRING, script.arena.text("mounts", value.as_bytes())?)
            }
        };
        script.call(
            Stage::Mount,
            target,
            libc::SYS_fsconfig,
            &[fd.into(), command.into(), key.into(), value.into(), 0usize.into()],
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

/// Attaches a mount at the path that lies at `address`, from the working directory.
pub(super) fn attach_at(
    script: &mut Script,
    stage: Stage,
    target: &str,
    mount: Reg,
    address: usize,
    flags: u32,
) {
    let empty = script.arena.literal(c"");
    let flags = MOVE_MOUNT_F_EMPTY_PATH | flags;
    script.call(
        stage,
        target,
        libc::SYS_move_mount,
        &[mount.into(), empty.into(), libc::AT_FDCWD.into(), address.into(), flags.into()],
    );
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
pub(crate) fn read_only(file: OwnedFd) -> OwnedFd {
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
