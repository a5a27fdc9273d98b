//! Paths that the box is not to see, or not to change.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mount::{
    AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE, attach_at, change, clone_of_path, new_mount,
};
use super::proc::Shown;
use crate::error::{Error, Stage};
use crate::mount::{Attributes, Mount};
use crate::resolve::open_in_root;
use crate::script::{Reg, Script};
use crate::spec::{Proc, Spec};

/// What is at a path of the box before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

/// Hides and protects what the spec says. `null` is a detached mount of the null device. The working
/// directory is the root.
pub(super) fn apply(script: &mut Script, spec: &Spec, null: Option<Reg>) -> Result<(), Error> {
    let mut shown = Vec::new();
    for path in &spec.read_only {
        if kind_of(spec, path, &mut shown)?.is_some() {
            protect(script, path)?;
        }
    }
    // The cover that is attached already is what others are copied from.
    let mut covers: [Option<PathBuf>; 2] = [None, None];
    for path in &spec.masked {
        let Some(kind) = kind_of(spec, path, &mut shown)? else { continue };
        let cover = match (&covers[usize::from(kind == Kind::Directory)], kind) {
            (Some(first), _) => clone_of_path(script, Stage::Mask, first, 0)?,
            (None, Kind::File) => match null {
                Some(null) => null,
                None => continue,
            },
            (None, Kind::Directory) => new_mount(
                script,
                c"tmpfs",
                &[(c"mode", "0555".to_owned())],
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
            )?,
        };
        let target = script.arena.text("masked", path.as_os_str().as_bytes())?;
        attach_at(script, Stage::Mask, &path.display().to_string(), cover, target, 0);
        covers[usize::from(kind == Kind::Directory)].get_or_insert_with(|| path.clone());
    }
    Ok(())
}

fn protect(script: &mut Script, path: &Path) -> Result<(), Error> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    let tree = clone_of_path(script, Stage::Mask, path, flags)?;
    let target = format!("{} (read-only)", path.display());
    let attributes = Attributes { set: MOUNT_ATTR_RDONLY, clear: 0 };
    change(script, tree, attributes, None, true, target.clone());
    let address = script.arena.text("read_only", path.as_os_str().as_bytes())?;
    attach_at(script, Stage::Mask, &target, tree, address, 0);
    Ok(())
}

/// What will be at `path`, as far as can be told: in a file system of the kernel's by asking another
/// of its kind, elsewhere in the root file system.
fn kind_of(
    spec: &Spec,
    path: &Path,
    shown: &mut Vec<(&'static str, Shown)>,
) -> Result<Option<Kind>, Error> {
    if !path.is_absolute() {
        return Err(Error::Invalid {
            field: "masked",
            problem: format!("{} is not an absolute path", path.display()),
            remedy: "begin it with a slash",
        });
    }
    let mut systems: Vec<(PathBuf, &str)> = Vec::new();
    if spec.proc != Proc::None {
        systems.push(("/proc".into(), "proc"));
    }
    if spec.sys {
        systems.push(("/sys".into(), "sysfs"));
    }
    for mount in &spec.mounts {
        match mount {
            Mount::FileSystem(system) if system.kind == "proc" => {
                systems.push((system.target.clone(), "proc"));
            }
            Mount::FileSystem(system) if system.kind == "sysfs" => {
                systems.push((system.target.clone(), "sysfs"));
            }
            Mount::Tree(tree) if path.starts_with(&tree.target) && path != tree.target => {
                systems.push((tree.target.clone(), "tree"));
            }
            _ => {}
        }
    }
    let kind = |is_directory: bool| if is_directory { Kind::Directory } else { Kind::File };
    let nearest = systems.iter().rfind(|(at, _)| path.starts_with(at));
    Ok(match nearest {
        None => spec.rootfs.directories().iter().find_map(|root| {
            let file = std::fs::File::from(open_in_root(root, path).ok()?);
            Some(kind(file.metadata().ok()?.is_dir()))
        }),
        Some((at, name)) => {
            let rest = path.strip_prefix(at).unwrap_or(path);
            let name = match *name {
                "proc" => "proc",
                "sysfs" => "sysfs",
                _ => {
                    let source = spec.mounts.iter().rev().find_map(|mount| match mount {
                        Mount::Tree(tree) if tree.target == *at => Some(&tree.source),
                        _ => None,
                    });
                    let metadata = source.and_then(|s| std::fs::metadata(s.join(rest)).ok());
                    return Ok(metadata.map(|metadata| kind(metadata.is_dir())));
                }
            };
            if !shown.iter().any(|(kind, _)| *kind == name) {
                shown.push((name, Shown::by(if name == "proc" { c"proc" } else { c"sysfs" })?));
            }
            let found = shown.iter().find(|(kind, _)| *kind == name);
            found.and_then(|(_, shown)| shown.is_directory(rest)).map(kind)
        }
    })
}
