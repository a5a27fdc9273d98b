//! What is mounted and named inside the box, after the change of root.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_SYMLINKS, new_mount,
};
use super::root::Opened;
use super::{dev, proc};
use crate::error::{Error, Stage};
use crate::script::{Reg, Script};
use crate::spec::{Dev, Mount, Proc, Rootfs, Spec};

/// Mounts `/proc`, `/dev`, `/sys` and the spec's own. The working directory is the new root.
pub(super) fn mounts(
    script: &mut Script,
    spec: &Spec,
    binds: &[Option<Opened>],
    null: Option<Reg>,
) -> Result<(), Error> {
    let mut cover = None;
    if spec.proc != Proc::None {
        mount_point(script, spec, c"proc")?;
        cover = proc::proc(script, spec.proc, null)?;
    }
    if spec.sys {
        mount_point(script, spec, c"sys")?;
        proc::sys(script, cover)?;
    }
    if spec.dev != Dev::None {
        mount_point(script, spec, c"dev")?;
        dev::dev(script, spec.dev)?;
    }
    for (index, (mount, bind)) in spec.mounts.iter().zip(binds).enumerate() {
        let earlier = spec.mounts.get(..index).unwrap_or_default();
        extra(script, spec, earlier, mount, bind.as_ref())?;
    }
    Ok(())
}

/// Host name and network.
pub(super) fn names(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    if let Some(name) = &spec.hostname {
        let address = script.arena.text("hostname", name.as_bytes())?;
        if name.is_empty() || name.len() > 64 {
            return Err(Error::Invalid {
                field: "hostname",
                problem: format!("{} bytes long", name.len()),
                remedy: "use 1 to 64 bytes",
            });
        }
        script.call(
            Stage::Hostname,
            name.to_string_lossy(),
            libc::SYS_sethostname,
            &[address.into(), name.len().into()],
        );
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
    if let Rootfs::Overlay { .. } = spec.rootfs {
        make_directory(script, path)
    } else {
        require(spec, path)
    }
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

/// One of the spec's own mounts.
fn extra(
    script: &mut Script,
    spec: &Spec,
    earlier: &[Mount],
    mount: &Mount,
    bind: Option<&Opened>,
) -> Result<(), Error> {
    let target = mount.target();
    let inside = target.strip_prefix("/").ok().filter(|rest| {
        !rest.as_os_str().is_empty()
            && rest.components().all(|c| matches!(c, std::path::Component::Normal(_)))
    });
    let Some(inside) = inside else {
        return Err(Error::Invalid {
            field: "mounts",
            problem: format!("target {} is not an absolute path below /", target.display()),
            remedy: "name a path inside the box, without . and ..",
        });
    };
    let file = bind.is_some_and(|opened| !opened.directory);
    let writable = matches!(spec.rootfs, Rootfs::Overlay { .. });
    if writable || earlier.iter().any(|m| target.starts_with(m.target())) {
        make_target(script, inside, file)?;
    } else {
        require(spec, inside)?;
    }
    let source = match (mount, bind) {
        (Mount::Bind { .. }, Some(opened)) => opened.mount,
        (Mount::Bind { source, .. }, None) => {
            let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
            return Err(super::root::unusable_source(source, gone));
        }
        (Mount::Tmpfs { size_bytes, .. }, _) => {
            let mut options = vec![(c"mode", "1777".to_owned())];
            options.extend(size_bytes.map(|bytes| (c"size", bytes.to_string())));
            new_mount(script, c"tmpfs", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)?
        }
    };
    let empty = script.arena.literal(c"");
    let address = script.arena.text("mounts", inside.as_os_str().as_bytes())?;
    script.call(
        Stage::Mount,
        target.display().to_string(),
        libc::SYS_move_mount,
        &[
            source.into(),
            empty.into(),
            libc::AT_FDCWD.into(),
            address.into(),
            (MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS).into(),
        ],
    );
    Ok(())
}

/// Makes a mount point with its parents.
fn make_target(script: &mut Script, inside: &Path, file: bool) -> Result<(), Error> {
    let mut parents: Vec<&Path> =
        inside.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    parents.reverse();
    if file {
        parents.pop();
    }
    for parent in parents {
        make_directory(script, parent)?;
    }
    if file {
        let address = script.arena.text("mounts", inside.as_os_str().as_bytes())?;
        script
            .call(
                Stage::Node,
                inside.display().to_string(),
                libc::SYS_mknod,
                &[address.into(), (libc::S_IFREG | 0o644).into(), 0usize.into()],
            )
            .tolerate(&[libc::EEXIST]);
    }
    Ok(())
}
