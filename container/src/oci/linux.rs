//! `linux`: namespaces, ids, devices, paths and parameters.

use std::fs::File;
use std::path::{Path, PathBuf};

use oci_spec::runtime;
use runtime::{LinuxDeviceType, LinuxNamespaceType as Kind};

use super::error::{OciError, invalid, unsupported};
use crate::capability::Capabilities;
use crate::cgroup::{DeviceKind, DeviceRule};
use crate::error::Error;
use crate::mount::{Attributes, Change, Mount, Node, Propagation, Tree};
use crate::namespace::{IdMap, Joined, NamespaceKind, Namespaces, TimeOffsets, UserNamespace};
use crate::spec::Spec;

/// The devices that every box has, by name, major and minor number.
const DEVICES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

pub(super) fn namespaces(linux: &runtime::Linux, spec: &mut Spec) -> Result<(), OciError> {
    let mut seen = Vec::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let property = format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(invalid(property, format!("{kind:?} twice")));
        }
        seen.push(kind);
        let set = match kind {
            Kind::Pid => Namespaces::PID,
            Kind::Mount => Namespaces::MOUNT,
            Kind::Uts => Namespaces::UTS,
            Kind::Ipc => Namespaces::IPC,
            Kind::Cgroup => Namespaces::CGROUP,
            Kind::Network => Namespaces::NET,
            Kind::Time => Namespaces::TIME,
            Kind::User => Namespaces::NONE,
        };
        match namespace.path() {
            None if kind == Kind::User => {
                spec.user_namespace = Some(UserNamespace {
                    uids: maps(linux.uid_mappings()),
                    gids: maps(linux.gid_mappings()),
                });
            }
            None => spec.namespaces = spec.namespaces.with(set),
            Some(path) => spec.joined.push(join(&property, kind, path)?),
        }
    }
    let mapped = linux.uid_mappings().is_some() || linux.gid_mappings().is_some();
    if mapped && spec.user_namespace.is_none() {
        return Err(invalid("linux.uidMappings", "there is no new user namespace"));
    }
    if let Some(offsets) = linux.time_offsets() {
        spec.time_offsets = time_offsets(offsets)?;
    }
    Ok(())
}

fn join(property: &str, kind: Kind, path: &Path) -> Result<Joined, OciError> {
    let kind = match kind {
        Kind::Pid => NamespaceKind::Pid,
        Kind::Uts => NamespaceKind::Uts,
        Kind::Ipc => NamespaceKind::Ipc,
        Kind::Cgroup => NamespaceKind::Cgroup,
        Kind::Network => NamespaceKind::Net,
        Kind::User => NamespaceKind::User,
        Kind::Mount | Kind::Time => {
            return Err(unsupported(format!("{property}.path"), "of a mount or time namespace"));
        }
    };
    let file = File::open(path).map_err(|source| Error::Path {
        role: "namespace",
        path: path.to_owned(),
        source,
        remedy: "name a file of /proc/PID/ns of a process that runs",
    })?;
    Ok(Joined { kind, file: file.into() })
}

fn maps(mappings: &Option<Vec<runtime::LinuxIdMapping>>) -> Vec<IdMap> {
    let map = |m: &runtime::LinuxIdMapping| IdMap {
        inside: m.container_id(),
        outside: m.host_id(),
        count: m.size(),
    };
    mappings.iter().flatten().map(map).collect()
}

fn time_offsets(
    offsets: &std::collections::HashMap<String, runtime::LinuxTimeOffset>,
) -> Result<TimeOffsets, OciError> {
    let mut all = TimeOffsets::default();
    for (clock, offset) in offsets {
        let (seconds, ns) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        match clock.as_str() {
            "monotonic" => (all.monotonic_s, all.monotonic_ns) = (seconds, ns),
            "boottime" => (all.boottime_s, all.boottime_ns) = (seconds, ns),
            _ => return Err(invalid("linux.timeOffsets", format!("there is no clock {clock:?}"))),
        }
    }
    Ok(all)
}

pub(super) fn linux(linux: &runtime::Linux, spec: &mut Spec) -> Result<(), OciError> {
    if let Some(path) = linux.cgroups_path()
        && path.to_string_lossy().contains(':')
    {
        return Err(unsupported("linux.cgroupsPath", "a slice of systemd's"));
    }
    let paths = |paths: &Option<Vec<String>>| paths.iter().flatten().map(PathBuf::from).collect();
    spec.masked = paths(linux.masked_paths());
    spec.read_only = paths(linux.readonly_paths());
    spec.sysctls = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
    spec.sysctls.sort();
    propagation(linux, spec)?;
    devices(linux, spec)
}

fn propagation(linux: &runtime::Linux, spec: &mut Spec) -> Result<(), OciError> {
    let Some(word) = linux.rootfs_propagation() else { return Ok(()) };
    let kind = match word.as_str() {
        "" | "private" | "rprivate" => return Ok(()),
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        "unbindable" | "runbindable" => Propagation::Unbindable,
        _ => return Err(invalid("linux.rootfsPropagation", format!("{word:?} is none"))),
    };
    spec.root_propagation = Some(kind);
    if kind != Propagation::Slave {
        spec.mounts.push(Mount::Change(Change {
            target: "/".into(),
            recursive: false,
            attributes: Attributes::default(),
            propagation: Some(kind),
        }));
    }
    Ok(())
}

/// Whoever may make nodes could make the host's disks: what the bundle's rules do not give, or all
/// where it has none, is refused but for the box's own devices and terminals.
fn device_rules(nodes: &[Node], spec: &mut Spec) {
    let may_make = Capabilities::named("mknod").unwrap_or_default();
    let makes = spec.capability_sets.is_some_and(|sets| sets.bounding.contains(may_make));
    if !makes && spec.resources.devices.is_none() {
        return;
    }
    let rule = |kind, major, minor| DeviceRule {
        allow: true,
        kind: Some(kind),
        major: Some(major),
        minor,
        read: true,
        write: true,
    };
    let terminals = [(5, Some(2)), (136, None)];
    let rules = spec.resources.devices.get_or_insert_default();
    rules.extend(nodes.iter().filter_map(|node| {
        let kind = match node.mode & libc::S_IFMT {
            libc::S_IFCHR => DeviceKind::Character,
            libc::S_IFBLK => DeviceKind::Block,
            _ => return None,
        };
        Some(rule(kind, node.major, Some(node.minor)))
    }));
    let terminal = |(major, minor)| rule(DeviceKind::Character, major, minor);
    rules.extend(terminals.map(terminal));
}

/// The devices of every box and those asked for. Where no node can be made, in a user namespace, the
/// host's of the same name are bound.
fn devices(linux: &runtime::Linux, spec: &mut Spec) -> Result<(), OciError> {
    let standard = DEVICES.iter().map(|(path, major, minor)| Node {
        path: path.into(),
        mode: libc::S_IFCHR | 0o666,
        major: *major,
        minor: *minor,
        uid: 0,
        gid: 0,
    });
    let mut nodes: Vec<Node> = standard.collect();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let property = format!("linux.devices[{index}]");
        let format = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(invalid(property, "type a is of rules only")),
        };
        let number =
            |n: i64| u32::try_from(n).map_err(|_| invalid(property.clone(), format!("number {n}")));
        nodes.retain(|node| node.path != *device.path());
        nodes.push(Node {
            path: device.path().clone(),
            mode: format | device.file_mode().unwrap_or(0o666) & 0o7777,
            major: number(device.major())?,
            minor: number(device.minor())?,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    let has_users = spec.user_namespace.is_some()
        || spec.joined.iter().any(|joined| joined.kind == NamespaceKind::User);
    if !has_users {
        device_rules(&nodes, spec);
    }
    for node in nodes {
        if !has_users || node.mode & libc::S_IFMT == libc::S_IFIFO {
            spec.nodes.push(node);
            continue;
        }
        spec.mounts.push(Mount::Tree(Tree {
            source: node.path.clone(),
            target: node.path,
            recursive: false,
            attributes: Attributes::default(),
            propagation: None,
        }));
    }
    spec.links = LINKS.iter().map(|(path, says)| (path.into(), says.into())).collect();
    Ok(())
}
