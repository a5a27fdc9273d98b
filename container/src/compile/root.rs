//! The root file system: built beside the host's, then changed into.

use std::io;
use std::path::Path;

use super::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH, clone_tree, set_attributes,
};
use super::{inside, overlay};
use crate::error::{Error, Stage};
use crate::script::{Reg, Script};
use crate::spec::{Mount, Proc, Rootfs, Spec};

/// Where the new root is attached until it is the root. Any directory would do that lies on no
/// path needed later; this one exists wherever a container can run at all, and nothing of the
/// host's `/proc` is needed again. It happens in the child's own mount namespace.
pub(super) const STAGING: &std::ffi::CStr = c"/proc";

/// A source opened before the change of root, to be attached after it.
pub(super) struct Opened {
    pub(super) mount: Reg,
    pub(super) directory: bool,
}

/// Everything that happens to mounts.
pub(super) fn build(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    let slash = script.arena.literal(c"/");
    script.call(
        Stage::Propagation,
        "/",
        libc::SYS_mount,
        &[
            0usize.into(),
            slash.into(),
            0usize.into(),
            (libc::MS_REC | libc::MS_PRIVATE).into(),
            0usize.into(),
        ],
    );
    let binds = spec
        .mounts
        .iter()
        .map(|mount| open_source(script, mount))
        .collect::<Result<Vec<_>, _>>()?;
    let null = (spec.proc == Proc::Masked).then(|| cover(script)).transpose()?;
    match &spec.rootfs {
        Rootfs::Host => {
            script.call(Stage::Root, "/", libc::SYS_chdir, &[slash.into()]);
        }
        Rootfs::ReadOnly(path) => bind_root(script, path, MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY)?,
        Rootfs::Bind(path) => bind_root(script, path, MOUNT_ATTR_NODEV)?,
        Rootfs::Overlay { lower, size_bytes } => overlay::on_tmpfs(script, lower, *size_bytes)?,
        Rootfs::OverlayOn { lower, upper, work, volatile } => {
            overlay::on_directory(script, lower, upper, work, *volatile)?;
        }
    }
    if spec.rootfs != Rootfs::Host {
        pivot(script);
    }
    inside::mounts(script, spec, &binds, null)
}

/// The null device, to hide files behind. Read-only: its mode must not be changed from inside.
fn cover(script: &mut Script) -> Result<Reg, Error> {
    let null = clone_tree(script, Path::new("/dev/null"))?;
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    set_attributes(script, null, attributes, "/dev/null (read-only)".into());
    Ok(null)
}

/// Opens the source of a bind mount as a detached mount; `None` for other kinds.
fn open_source(script: &mut Script, mount: &Mount) -> Result<Option<Opened>, Error> {
    let Mount::Bind { source, read_only, .. } = mount else { return Ok(None) };
    let metadata = std::fs::metadata(source).map_err(|e| unusable_source(source, e))?;
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if *read_only {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    let mount = clone_tree(script, source)?;
    set_attributes(script, mount, attributes, source.display().to_string());
    Ok(Some(Opened { mount, directory: metadata.is_dir() }))
}

pub(super) fn unusable_source(path: &Path, source: io::Error) -> Error {
    Error::Path {
        role: "source of a bind mount",
        path: path.to_owned(),
        source,
        remedy: "name a file or directory of the host",
    }
}

fn bind_root(script: &mut Script, path: &Path, attributes: u64) -> Result<(), Error> {
    let target = path.display().to_string();
    let root = clone_tree(script, path)?;
    set_attributes(script, root, attributes, target.clone());
    let (empty, staging) = (script.arena.literal(c""), script.arena.literal(STAGING));
    script.call(
        Stage::Root,
        target.clone(),
        libc::SYS_move_mount,
        &[
            root.into(),
            empty.into(),
            libc::AT_FDCWD.into(),
            staging.into(),
            MOVE_MOUNT_F_EMPTY_PATH.into(),
        ],
    );
    script.call(Stage::Root, target, libc::SYS_fchdir, &[root.into()]);
    Ok(())
}

/// Makes the working directory, the root of a mount, the root; the old root lands on top of it and
/// is let go with all below (`pivot_root(2)`, "pivot_root(".", ".")").
fn pivot(script: &mut Script) {
    let dot = script.arena.literal(c".");
    script.call(Stage::Pivot, "the new root", libc::SYS_pivot_root, &[dot.into(), dot.into()]);
    script.call(
        Stage::Pivot,
        "the new root (leaving the old one)",
        libc::SYS_umount2,
        &[dot.into(), libc::MNT_DETACH.into()],
    );
}
