//! `/dev`.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::inside::{below_root, make_parents};
use super::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, attach, clone_tree,
    new_mount, set_attributes,
};
use crate::error::{Error, Stage};
use crate::mount::Node;
use crate::namespace::{IdMap, Namespaces};
use crate::script::{Reg, Script};
use crate::spec::{Dev, Spec};

/// Name, major and minor number, `Documentation/admin-guide/devices.txt`.
const DEVICES: &[(&CStr, u32, u32)] = &[
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];
const LINKS: &[(&CStr, &CStr)] = &[
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
];

/// The host's devices, for a user namespace, where no node can be made.
pub(super) fn open_devices(script: &mut Script) -> Result<Vec<Reg>, Error> {
    let path = |name: &CStr| Path::new("/dev").join(name.to_string_lossy().as_ref());
    DEVICES.iter().map(|(name, ..)| clone_tree(script, &path(name))).collect()
}

/// A tmpfs with device nodes and links, read-only once filled. `devices` are to be bound in place of
/// nodes, if there are any.
pub(super) fn dev(
    script: &mut Script,
    spec: &Spec,
    devices: &[Reg],
    terminal: bool,
) -> Result<(), Error> {
    let kind = spec.dev;
    let options = [(c"mode", "0755".to_owned())];
    let dev = new_mount(script, c"tmpfs", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    let node = |script: &mut Script, name: &'static CStr, mode, device: u64| {
        let address = script.arena.literal(name);
        let mode: u32 = mode;
        script.call(
            Stage::Node,
            format!("/dev/{}", name.to_string_lossy()),
            libc::SYS_mknodat,
            &[dev.into(), address.into(), mode.into(), device.into()],
        );
    };
    for (name, major, minor) in DEVICES {
        match devices {
            [] => node(script, name, libc::S_IFCHR | 0o666, libc::makedev(*major, *minor)),
            _ => node(script, name, libc::S_IFREG | 0o666, 0),
        }
    }
    if terminal {
        node(script, c"console", libc::S_IFREG | 0o600, 0);
    }
    let mut links = LINKS.to_vec();
    if let Dev::Full { .. } = kind {
        links.push((c"ptmx", c"pts/ptmx"));
        for name in [c"pts", c"shm", c"mqueue"] {
            let address = script.arena.literal(name);
            script.call(
                Stage::Node,
                format!("/dev/{}", name.to_string_lossy()),
                libc::SYS_mkdirat,
                &[dev.into(), address.into(), 0o755usize.into()],
            );
        }
    }
    for (name, target) in links {
        let (address, to) = (script.arena.literal(name), script.arena.literal(target));
        script.call(
            Stage::Node,
            format!("/dev/{}", name.to_string_lossy()),
            libc::SYS_symlinkat,
            &[to.into(), dev.into(), address.into()],
        );
    }
    // With CAP_MKNOD the box could otherwise make the host's disks appear here; everywhere else
    // device nodes are dead (nodev).
    set_attributes(
        script,
        dev,
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        "/dev (read-only)".into(),
    );
    attach(script, dev, libc::AT_FDCWD.into(), c"dev");
    for ((name, ..), device) in DEVICES.iter().zip(devices) {
        attach(script, *device, dev.into(), name);
    }
    if let Dev::Full { shm_bytes } = kind {
        let mut options = vec![(c"ptmxmode", "0666".to_owned()), (c"mode", "0620".to_owned())];
        // The group tty, where there is one.
        let has_tty = |map: &IdMap| (map.inside..map.inside.saturating_add(map.count)).contains(&5);
        if spec.user_namespace.as_ref().is_none_or(|users| users.gids.iter().any(has_tty)) {
            options.push((c"gid", "5".to_owned()));
        }
        let pts = new_mount(script, c"devpts", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
        attach(script, pts, dev.into(), c"pts");
        let options = [(c"mode", "1777".to_owned()), (c"size", shm_bytes.to_string())];
        let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let shm = new_mount(script, c"tmpfs", &options, attributes)?;
        attach(script, shm, dev.into(), c"shm");
        if spec.namespaces.contains(Namespaces::IPC) {
            let mqueue = new_mount(script, c"mqueue", &[], attributes)?;
            attach(script, mqueue, dev.into(), c"mqueue");
        }
    }
    Ok(())
}

/// One more node, of the spec's.
pub(super) fn node(script: &mut Script, node: &Node) -> Result<(), Error> {
    let inside = below_root(&node.path)?;
    make_parents(script, inside)?;
    let name = node.path.display().to_string();
    let address = script.arena.text("nodes", inside.as_os_str().as_bytes())?;
    let device = libc::makedev(node.major, node.minor);
    script
        .call(
            Stage::Node,
            name.clone(),
            libc::SYS_mknod,
            &[address.into(), node.mode.into(), device.into()],
        )
        .tolerate(&[libc::EEXIST]);
    let arguments = [address.into(), node.uid.into(), node.gid.into()];
    script.call(Stage::Node, name, libc::SYS_lchown, &arguments);
    Ok(())
}
