//! An overlay as the root file system.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::root::STAGING;
use crate::error::{Error, Stage};
use crate::script::Script;

/// Longest option string that `mount(2)` takes: a page with its terminating zero.
const MOST_OPTIONS: usize = 4095;

/// A tmpfs, in it the upper and work directories, and the overlay itself.
///
/// The upper directory has to lie on a mount of this namespace (Linux before 6.15 takes no other),
/// so the tmpfs is attached. `mount(2)` takes one call where the newer interface takes seven, and
/// option strings of a page where that takes 255 bytes.
pub(super) fn on_tmpfs(
    script: &mut Script,
    lower: &[PathBuf],
    size_bytes: Option<u64>,
    has_users: bool,
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
    // In a user namespace the host's ids mean others, and root has made it.
    if let Some(top) = top.filter(|m| !has_users && (m.uid(), m.gid()) != (0, 0)) {
        let upper = script.arena.literal(c"u");
        script.call(
            Stage::Root,
            "overlay's directories",
            libc::SYS_chown,
            &[upper.into(), top.uid().into(), top.gid().into()],
        );
    }
    let first =
        if has_users { &b"userxattr,upperdir=u,workdir=w"[..] } else { b"upperdir=u,workdir=w" };
    let options = overlay_options(first, lower)?;
    mount(script, lower, c"m", options)
}

/// The overlay over directories of the host.
pub(super) fn on_directory(
    script: &mut Script,
    lower: &[PathBuf],
    [upper, work]: [&Path; 2],
    volatile: bool,
    has_users: bool,
) -> Result<(), Error> {
    let mut first = if has_users {
        // A user namespace's root cannot write attributes of the host's root (`trusted.*`); with
        // others the kernel does without redirections by itself.
        b"userxattr,".to_vec()
    } else {
        // Whatever the module's defaults are: what is kept must not refer to the layers below.
        b"redirect_dir=off,metacopy=off,".to_vec()
    };
    if volatile {
        first.extend(b"volatile,");
    }
    for (key, path) in [(&b"upperdir="[..], upper), (b",workdir=", work)] {
        first.extend(key);
        escape(path.as_os_str(), &mut first);
    }
    let options = overlay_options(&first, lower)?;
    mount(script, lower, STAGING, options)
}

/// Mounts the overlay and makes it the working directory.
fn mount(
    script: &mut Script,
    lower: &[PathBuf],
    at: &'static CStr,
    options: Vec<u8>,
) -> Result<(), Error> {
    let options = script.arena.text("rootfs", options)?;
    let overlay = script.arena.literal(c"overlay");
    let merged = script.arena.literal(at);
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

/// `first`, then `lowerdir=…` with `:`, `,` and `\` escaped.
fn overlay_options(first: &[u8], lower: &[PathBuf]) -> Result<Vec<u8>, Error> {
    let mut options = [first, b",lowerdir="].concat();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_overlay_options_escape_what_separates() {
        let options =
            overlay_options(b"upperdir=u,workdir=w", &["/a:b".into(), "/c,d\\e".into()]).unwrap();
        assert_eq!(options, br"upperdir=u,workdir=w,lowerdir=/a\:b:/c\,d\\e");
    }

    #[test]
    fn test_overlay_options_too_long_returns_invalid() {
        let layers = vec![PathBuf::from(format!("/{}", "x".repeat(200))); 40];
        let error = overlay_options(b"", &layers).unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "rootfs", .. }), "{error}");
    }
}
