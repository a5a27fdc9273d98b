//! The root file system: built beside the host's, then changed into.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::inside;
use super::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH, clone_tree, set_attributes,
};
use crate::error::{Error, Stage};
use crate::script::{Reg, Script};
use crate::spec::{Mount, Proc, Rootfs, Spec};

/// Where the new root is attached until it is the root. Any directory would do that lies on no
/// path needed later; this one exists wherever a container can run at all, and nothing of the
/// host's `/proc` is needed again. It happens in the child's own mount namespace.
const STAGING: &std::ffi::CStr = c"/proc";

/// Longest option string that `mount(2)` takes: a page with its terminating zero.
const MOST_OPTIONS: usize = 4095;

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
        Rootfs::Overlay { lower, size_bytes } => overlay_root(script, lower, *size_bytes)?,
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

/// A tmpfs, in it the upper and work directories, and the overlay itself.
///
/// The upper directory has to lie on a mount of this namespace (Linux before 6.15 takes no other),
/// so the tmpfs is attached. `mount(2)` takes one call where the newer interface takes seven, and
/// option strings of a page where that takes 255 bytes.
fn overlay_root(
    script: &mut Script,
    lower: &[PathBuf],
    size_bytes: Option<u64>,
) -> Result<(), Error> {
    let mut options = String::from("mode=0700");
    if let Some(bytes) = size_bytes {
        options.push_str(&format!(",size={bytes}"));
    }
    let options = script.arena.text("rootfs", options)?;
    let tmpfs = script.arena.literal(c"tmpfs");
    let staging = script.arena.literal(STAGING);
    script.call(
        Stage::Root,
        "overlay's tmpfs",
        libc::SYS_mount,
        &[tmpfs.into(), staging.into(), tmpfs.into(), libc::MS_NODEV.into(), options.into()],
    );
    script.call(Stage::Root, "overlay's tmpfs", libc::SYS_chdir, &[staging.into()]);
    // The root directory's owner and mode are those of the upper directory.
    let top = lower.first().map(std::fs::metadata).transpose().map_err(|source| Error::Path {
        role: "root file system",
        path: lower.first().cloned().unwrap_or_default(),
        source,
        remedy: "name a directory that holds an unpacked root file system",
    })?;
    let mode = top.as_ref().map_or(0o755, |m| m.mode() & 0o7777);
    for (name, mode) in [(c"u", mode), (c"w", 0o700), (c"m", 0o700)] {
        let name = script.arena.literal(name);
        script.call(
            Stage::Root,
            "overlay's directories",
            libc::SYS_mkdir,
            &[name.into(), mode.into()],
        );
    }
    if let Some(top) = top.filter(|m| (m.uid(), m.gid()) != (0, 0)) {
        let upper = script.arena.literal(c"u");
        script.call(
            Stage::Root,
            "overlay's directories",
            libc::SYS_chown,
            &[upper.into(), top.uid().into(), top.gid().into()],
        );
    }
    let options = overlay_options(lower)?;
    let options = script.arena.text("rootfs", options)?;
    let overlay = script.arena.literal(c"overlay");
    let merged = script.arena.literal(c"m");
    let target = lower.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(":");
    script.call(
        Stage::Root,
        format!("overlay of {target}"),
        libc::SYS_mount,
        &[overlay.into(), merged.into(), overlay.into(), libc::MS_NODEV.into(), options.into()],
    );
    script.call(Stage::Root, "overlay", libc::SYS_chdir, &[merged.into()]);
    Ok(())
}

/// `lowerdir=…` with `:`, `,` and `\` escaped, upper and work relative to the tmpfs.
fn overlay_options(lower: &[PathBuf]) -> Result<Vec<u8>, Error> {
    let mut options = b"upperdir=u,workdir=w,lowerdir=".to_vec();
    for (index, path) in lower.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        escape(path.as_os_str(), &mut options);
    }
    if options.len() > MOST_OPTIONS {
        return Err(Error::Invalid {
            field: "rootfs",
            problem: format!(
                "the paths of {} layers take {} bytes, the kernel takes {MOST_OPTIONS}",
                lower.len(),
                options.len()
            ),
            remedy: "use shorter paths or fewer layers",
        });
    }
    Ok(options)
}

fn escape(path: &OsStr, into: &mut Vec<u8>) {
    for byte in path.as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_overlay_options_escape_what_separates() {
        let options = overlay_options(&["/a:b".into(), "/c,d\\e".into()]).unwrap();
        assert_eq!(options, br"upperdir=u,workdir=w,lowerdir=/a\:b:/c\,d\\e");
    }

    #[test]
    fn test_overlay_options_too_long_returns_invalid() {
        let layers = vec![PathBuf::from(format!("/{}", "x".repeat(200))); 40];
        let error = overlay_options(&layers).unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "rootfs", .. }), "{error}");
    }
}
