//! `/dev`.

use std::ffi::CStr;

use super::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, attach, new_mount,
    set_attributes,
};
use crate::error::{Error, Stage};
use crate::script::Script;
use crate::spec::Dev;

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

/// A tmpfs with device nodes and links, read-only once filled.
pub(super) fn dev(script: &mut Script, kind: Dev) -> Result<(), Error> {
    let options = [(c"mode", "0755".to_owned())];
    let dev = new_mount(script, c"tmpfs", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    for (name, major, minor) in DEVICES {
        let address = script.arena.literal(name);
        script.call(
            Stage::Node,
            format!("/dev/{}", name.to_string_lossy()),
            libc::SYS_mknodat,
            &[
                dev.into(),
                address.into(),
                (libc::S_IFCHR | 0o666).into(),
                libc::makedev(*major, *minor).into(),
            ],
        );
    }
    let mut links = LINKS.to_vec();
    if let Dev::Full { .. } = kind {
        links.push((c"ptmx", c"pts/ptmx"));
        for name in [c"pts", c"shm"] {
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
    if let Dev::Full { shm_bytes } = kind {
        let options = [
            (c"ptmxmode", "0666".to_owned()),
            (c"mode", "0620".to_owned()),
            (c"gid", "5".to_owned()),
        ];
        let pts = new_mount(script, c"devpts", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
        attach(script, pts, dev.into(), c"pts");
        let options = [(c"mode", "1777".to_owned()), (c"size", shm_bytes.to_string())];
        let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let shm = new_mount(script, c"tmpfs", &options, attributes)?;
        attach(script, shm, dev.into(), c"shm");
    }
    Ok(())
}
