//! What is mounted and named inside the box, after the change of root.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount::{
    AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOVE_MOUNT_T_SYMLINKS, attach_at,
    attribute_words, change, new_file_system, new_mount,
};
use super::root::{Opened, Source};
use super::{dev, proc};
use crate::error::{Error, Stage};
use crate::mount::{Attributes, Change, FileSystem, Mount};
use crate::script::{Reg, Script};
use crate::spec::{Dev, Spec};

/// Attaches `/proc`, `/dev`, `/sys` and the spec's own. The working directory is the new root.
/// `terminal` says whether the box will have one.
pub(super) fn mounts(
    script: &mut Script,
    spec: &Spec,
    opened: &Opened,
    terminal: bool,
) -> Result<(), Error> {
    let mut cover = None;
    if let Some(mount) = opened.proc {
        mount_point(script, spec, c"proc")?;
        cover = proc::proc(script, mount, opened.nulls[0])?;
    }
    if let Some(mount) = opened.sys {
        mount_point(script, spec, c"sys")?;
        proc::sys(script, mount, cover)?;
    }
    if spec.dev != Dev::None {
        mount_point(script, spec, c"dev")?;
        dev::dev(script, spec, &opened.devices, terminal)?;
    }
    for (index, (mount, source)) in spec.mounts.iter().zip(&opened.mounts).enumerate() {
        let earlier = spec.mounts.get(..index).unwrap_or_default();
        extra(script, spec, earlier, mount, *source)?;
    }
    for node in &spec.nodes {
        dev::node(script, node)?;
    }
    for (path, says) in &spec.links {
        link(script, path, says)?;
    }
    Ok(())
}

/// Host name and network.
pub(super) fn names(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    let names = [
        ("hostname", &spec.hostname, libc::SYS_sethostname),
        ("domainname", &spec.domainname, libc::SYS_setdomainname),
    ];
    for (field, name, call) in names {
        let Some(name) = name else { continue };
        let address = script.arena.text(field, name.as_bytes())?;
        if name.is_empty() || name.len() > 64 {
            return Err(Error::Invalid {
                field,
                problem: format!("{} bytes long", name.len()),
                remedy: "use 1 to 64 bytes",
            });
        }
        let arguments = [address.into(), name.len().into()];
        script.call(Stage::Hostname, name.to_string_lossy(), call, &arguments);
    }
    // A station has it up already.
    if spec.loopback && spec.stations.is_none() {
        loopback(script);
    }
    Ok(())
}

fn loopback(script: &mut Script) {
    // struct ifreq: 16 bytes of name, then the flags; 40 bytes in all.
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u64;
    let request = script.arena.words([u64::from_le_bytes(*b"lo\0\0\0\0\0\0"), 0, flags, 0, 0]);
    let socket = script.call_for(
        Stage::Network,
        "lo",
        libc::SYS_socket,
        &[libc::AF_INET.into(), (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC).into(), 0usize.into()],
    );
    script.call(
        Stage::Network,
        "lo",
        libc::SYS_ioctl,
        &[socket.into(), (libc::SIOCSIFFLAGS as usize).into(), request.into()],
    );
}

/// Makes sure that a directory at the top of the box exists, to be mounted upon.
fn mount_point(script: &mut Script, spec: &Spec, name: &'static CStr) -> Result<(), Error> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    if spec.rootfs.is_overlay() { make_directory(script, path) } else { require(spec, path) }
}

fn require(spec: &Spec, path: &Path) -> Result<(), Error> {
    if spec.rootfs.has(path) {
        return Ok(());
    }
    Err(Error::Path {
        role: "mount point in the root file system",
        path: Path::new("/").join(path),
        source: std::io::Error::from_raw_os_error(libc::ENOENT),
        remedy: "create it there, use an overlay, or do not ask for the mount",
    })
}

fn make_directory(script: &mut Script, path: &Path) -> Result<(), Error> {
    let address = script.arena.text("mounts", path.as_os_str().as_bytes())?;
    script
        .call(
            Stage::Node,
            path.display().to_string(),
            libc::SYS_mkdir,
            &[address.into(), 0o755usize.into()],
        )
        .tolerate(&[libc::EEXIST]);
    Ok(())
}

/// Makes the file system that a mount of the spec's is, if it is one.
pub(super) fn new_source(script: &mut Script, mount: &Mount) -> Result<Option<Reg>, Error> {
    match mount {
        Mount::Tmpfs { size_bytes, .. } => {
            let mut options = vec![(c"mode", "1777".to_owned())];
            options.extend(size_bytes.map(|bytes| (c"size", bytes.to_string())));
            let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
            new_mount(script, c"tmpfs", &options, attributes).map(Some)
        }
        Mount::FileSystem(system) => new_file_system(
            script,
            &system.kind,
            system.source.as_deref(),
            &system.options,
            system.attributes.set,
        )
        .map(Some),
        _ => Ok(None),
    }
}

/// One of the spec's own mounts.
fn extra(
    script: &mut Script,
    spec: &Spec,
    earlier: &[Mount],
    mount: &Mount,
    source: Option<Source>,
) -> Result<(), Error> {
    let target = mount.target();
    if let Mount::Change(change) = mount {
        return change_of(script, change);
    }
    let Some(source) = source else {
        let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
        return Err(super::root::unusable_source(target, gone));
    };
    let inside = below_root(target)?;
    let makes = spec.rootfs.is_overlay() || matches!(mount, Mount::Tree(_) | Mount::FileSystem(_));
    if makes || earlier.iter().any(|m| target.starts_with(m.target())) {
        make_target(script, inside, !source.directory)?;
    } else {
        require(spec, inside)?;
    }
    let name = target.display().to_string();
    let address = script.arena.text("mounts", inside.as_os_str().as_bytes())?;
    attach_at(script, Stage::Mount, &name, source.mount, address, MOVE_MOUNT_T_SYMLINKS);
    if let Mount::FileSystem(FileSystem { propagation: Some(kind), .. }) = mount {
        change(script, source.mount, Attributes::default(), Some(*kind), false, name);
    }
    Ok(())
}

/// Changes what is mounted at a path already.
fn change_of(script: &mut Script, what: &Change) -> Result<(), Error> {
    let path = match what.target.as_os_str().as_bytes() {
        b"/" => Path::new("."),
        _ => below_root(&what.target)?,
    };
    let address = script.arena.text("mounts", path.as_os_str().as_bytes())?;
    let words = script.arena.words(attribute_words(what.attributes, what.propagation));
    let flags = if what.recursive { AT_RECURSIVE } else { 0 };
    script.call(
        Stage::Mount,
        format!("{} (as asked)", what.target.display()),
        libc::SYS_mount_setattr,
        &[libc::AT_FDCWD.into(), address.into(), flags.into(), words.into(), 32usize.into()],
    );
    Ok(())
}

/// A path of the box as seen from its root, which is the working directory.
pub(super) fn below_root(target: &Path) -> Result<&Path, Error> {
    let inside = target.strip_prefix("/").ok().filter(|rest| {
        !rest.as_os_str().is_empty()
            && rest.components().all(|c| matches!(c, std::path::Component::Normal(_)))
    });
    inside.ok_or_else(|| Error::Invalid {
        field: "mounts",
        problem: format!("target {} is not an absolute path below /", target.display()),
        remedy: "name a path inside the box, without . and ..",
    })
}

fn link(script: &mut Script, path: &Path, says: &Path) -> Result<(), Error> {
    let inside = below_root(path)?;
    make_parents(script, inside)?;
    let at = script.arena.text("links", inside.as_os_str().as_bytes())?;
    let says = script.arena.text("links", says.as_os_str().as_bytes())?;
    script
        .call(Stage::Node, path.display().to_string(), libc::SYS_symlink, &[says.into(), at.into()])
        .tolerate(&[libc::EEXIST]);
    Ok(())
}

/// Makes the directories that lead to `inside`.
pub(super) fn make_parents(script: &mut Script, inside: &Path) -> Result<(), Error> {
    let mut parents: Vec<&Path> =
        inside.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    parents.reverse();
    parents.into_iter().try_for_each(|parent| make_directory(script, parent))
}

/// Makes a mount point with its parents.
fn make_target(script: &mut Script, inside: &Path, file: bool) -> Result<(), Error> {
    make_parents(script, inside)?;
    if !file {
        return make_directory(script, inside);
    }
    let address = script.arena.text("mounts", inside.as_os_str().as_bytes())?;
    script
        .call(
            Stage::Node,
            inside.display().to_string(),
            libc::SYS_mknod,
            &[address.into(), (libc::S_IFREG | 0o644).into(), 0usize.into()],
        )
        .tolerate(&[libc::EEXIST]);
    Ok(())
}
