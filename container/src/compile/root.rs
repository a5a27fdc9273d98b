//! The root file system: built beside the host's, then changed into.

use std::io;
use std::path::Path;

use super::mount::{
    AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    attach_at, change, clone_of_path, clone_tree, set_attributes,
};
use super::privileges::enters_users;
use super::proc::{new_proc, new_sys};
use super::{dev, entry, inside, overlay};
use crate::error::{Error, Stage};
use crate::mount::{Attributes, Mount, Propagation};
use crate::script::{Reg, Script};
use crate::spec::{Dev, Proc, Rootfs, Spec};

/// Where the new root is attached until it is the root. Any directory would do that lies on no
/// path needed later; this one exists wherever a container can run at all, and nothing of the
/// host's `/proc` is needed again. It happens in the child's own mount namespace.
pub(super) const STAGING: &std::ffi::CStr = c"/proc";

/// What was made before the change of root, to be attached after it.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// For each of the spec's mounts; `None` where there is nothing to attach.
    pub(super) mounts: Vec<Option<Source>>,
    /// The null device, to hide files of `/proc` behind, and those of the spec's.
    pub(super) nulls: [Option<Reg>; 2],
    /// The host's device nodes, where no others can be made.
    pub(super) devices: Vec<Reg>,
    pub(super) proc: Option<Reg>,
    pub(super) sys: Option<Reg>,
}

/// One mount.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) mount: Reg,
    pub(super) directory: bool,
}

/// Everything that happens to mounts. `between` comes when mounts of the host are out of reach, and
/// before the root is the box's.
pub(super) fn build(
    script: &mut Script,
    spec: &Spec,
    between: impl FnOnce(&mut Script),
) -> Result<Opened, Error> {
    let mut opened = Opened::default();
    // Before all is made private: a tree may be asked to share.
    for mount in &spec.mounts {
        opened.mounts.push(open_source(script, mount)?);
    }
    let root = match &spec.rootfs {
        Rootfs::ReadOnly(path) => Some(open_root(script, spec, path, MOUNT_ATTR_RDONLY)?),
        Rootfs::Bind(path) => Some(open_root(script, spec, path, 0)?),
        _ => None,
    };
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
    if spec.proc == Proc::Masked {
        opened.nulls[0] = Some(cover(script)?);
    }
    if !spec.masked.is_empty() {
        opened.nulls[1] = Some(cover(script)?);
    }
    let has_users = enters_users(spec);
    if has_users && spec.dev != Dev::None {
        opened.devices = dev::open_devices(script)?;
    }
    between(script);
    if has_users {
        entry::become_root(script);
    }
    for (mount, slot) in spec.mounts.iter().zip(&mut opened.mounts) {
        if let Some(mount) = inside::new_source(script, mount)? {
            *slot = Some(Source { mount, directory: true });
        }
    }
    opened.proc = (spec.proc != Proc::None).then(|| new_proc(script, spec.proc)).transpose()?;
    opened.sys = spec.sys.then(|| new_sys(script)).transpose()?;
    match (&spec.rootfs, root) {
        (Rootfs::Overlay { lower, size_bytes }, _) => {
            overlay::on_tmpfs(script, lower, *size_bytes, has_users)?;
        }
        (Rootfs::OverlayOn { lower, upper, work, volatile }, _) => {
            overlay::on_directory(script, lower, [upper, work], *volatile, has_users)?;
        }
        (_, Some(root)) => attach_root(script, root),
        (_, None) => {
            script.call(Stage::Root, "/", libc::SYS_chdir, &[slash.into()]);
        }
    }
    if spec.rootfs != Rootfs::Host {
        pivot(script);
    }
    Ok(opened)
}

/// The null device, to hide files behind. Read-only: its mode must not be changed from inside.
fn cover(script: &mut Script) -> Result<Reg, Error> {
    let null = clone_tree(script, Path::new("/dev/null"))?;
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    set_attributes(script, null, attributes, "/dev/null (read-only)".into());
    Ok(null)
}

/// Opens a directory or file of the host as a detached mount; `None` for other kinds.
fn open_source(script: &mut Script, mount: &Mount) -> Result<Option<Source>, Error> {
    let (source, recursive, attributes, propagation) = match mount {
        Mount::Bind { source, read_only, .. } => {
            let mut set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
            if *read_only {
                set |= MOUNT_ATTR_RDONLY;
            }
            (source, false, Attributes { set, clear: 0 }, None)
        }
        Mount::Tree(tree) => (&tree.source, tree.recursive, tree.attributes, tree.propagation),
        _ => return Ok(None),
    };
    let metadata = std::fs::metadata(source).map_err(|e| unusable_source(source, e))?;
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    let mount = clone_of_path(script, Stage::Mount, source, flags)?;
    let propagation = propagation.or(Some(Propagation::Private));
    change(script, mount, attributes, propagation, recursive, source.display().to_string());
    Ok(Some(Source { mount, directory: metadata.is_dir() }))
}

pub(super) fn unusable_source(path: &Path, source: io::Error) -> Error {
    Error::Path {
        role: "source of a bind mount",
        path: path.to_owned(),
        source,
        remedy: "name a file or directory of the host",
    }
}

fn open_root(script: &mut Script, spec: &Spec, path: &Path, set: u64) -> Result<Reg, Error> {
    let root = clone_tree(script, path)?;
    let attributes = Attributes { set: MOUNT_ATTR_NODEV | set, clear: 0 };
    let propagation = match spec.root_propagation {
        // What is shared cannot become the root; it is made so afterwards.
        Some(Propagation::Shared | Propagation::Slave) => Propagation::Slave,
        _ => Propagation::Private,
    };
    change(script, root, attributes, Some(propagation), false, path.display().to_string());
    Ok(root)
}

fn attach_root(script: &mut Script, root: Reg) {
    let staging = script.arena.literal(STAGING);
    attach_at(script, Stage::Root, "the directory", root, staging, 0);
    script.call(Stage::Root, "the directory", libc::SYS_fchdir, &[root.into()]);
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
