//! What of a spec contradicts itself.

use super::{enters_users, slots};
use crate::error::Error;
use crate::namespace::{NamespaceKind, Namespaces, TimeOffsets};
use crate::spec::{Dev, Proc, Program, Rootfs, Spec};

/// Finds what contradicts itself.
pub(super) fn validate(spec: &Spec) -> Result<(), Error> {
    let invalid = |field, problem: &str, remedy| {
        Err(Error::Invalid { field, problem: problem.to_owned(), remedy })
    };
    let has = |namespace| {
        spec.namespaces.contains(namespace)
            || spec.joined.iter().any(|joined| joined.kind.set() == namespace)
    };
    let mounts = spec.rootfs != Rootfs::Host
        || spec.proc != Proc::None
        || spec.dev != Dev::None
        || spec.sys
        || !spec.mounts.is_empty();
    if mounts && !has(Namespaces::MOUNT) {
        return invalid(
            "namespaces",
            "a root file system or mounts without a mount namespace would change the host's",
            "add Namespaces::MOUNT",
        );
    }
    if let Some(joined) = spec.joined.iter().find(|j| spec.namespaces.contains(j.kind.set())) {
        let problem = format!("both made and joined: {}", joined.kind.name());
        return invalid("joined", &problem, "leave it out of the one or the other");
    }
    if spec.user_namespace.is_some() && spec.joined.iter().any(|j| j.kind == NamespaceKind::User) {
        return invalid("joined", "a user namespace is made as well", "leave one out");
    }
    if (spec.hostname.is_some() || spec.domainname.is_some()) && !has(Namespaces::UTS) {
        return invalid("hostname", "it would change the host's", "add Namespaces::UTS");
    }
    if spec.network.is_some() && !has(Namespaces::NET) {
        return invalid("network", "the host's network is to be kept", "add Namespaces::NET");
    }
    let has_own_network = spec.namespaces.contains(Namespaces::NET) && spec.network.is_none();
    if spec.stations.is_some() && !has_own_network {
        return invalid(
            "stations",
            "the network is another's",
            "leave network out and add Namespaces::NET",
        );
    }
    if spec.stations.is_some() && enters_users(spec) {
        return invalid(
            "stations",
            "only the host's own users may enter its networks",
            "leave the user namespace out",
        );
    }
    if spec.loopback && !has(Namespaces::NET) {
        return invalid("loopback", "it would change the host's", "add Namespaces::NET");
    }
    if spec.sys && !has(Namespaces::NET) && spec.rootfs != Rootfs::Host {
        return invalid(
            "sys",
            "a fresh sysfs belongs to a network namespace of its own",
            "add Namespaces::NET, or set sys to false",
        );
    }
    if spec.args.is_empty() && !matches!(spec.program, Program::Caller) {
        return invalid("args", "there is no argv[0]", "give at least the program's name");
    }
    if let Rootfs::Overlay { lower, .. } | Rootfs::OverlayOn { lower, .. } = &spec.rootfs
        && lower.is_empty()
    {
        return invalid("rootfs", "an overlay of no directories", "name at least one");
    }
    if !spec.cwd.is_absolute() {
        return invalid("cwd", "not an absolute path", "begin it with a slash");
    }
    if spec.time_offsets != TimeOffsets::default() && !has(Namespaces::TIME) {
        return invalid("time_offsets", "they would change the host's", "add Namespaces::TIME");
    }
    if spec.terminal.is_some() && !spec.session {
        return invalid("terminal", "it controls a session of its own", "set session to true");
    }
    if spec.init && !matches!(spec.program, Program::Command(_)) {
        return invalid("init", "it executes a command of the box", "use Program::Command");
    }
    if spec.init && !has(Namespaces::PID) {
        return invalid("init", "it reaps what is of its pid namespace", "add Namespaces::PID");
    }
    if spec.capabilities.is_some() && spec.capability_sets.is_some() {
        return invalid("capability_sets", "capabilities are given as well", "give one of them");
    }
    if spec.umask > 0o777 {
        return invalid("umask", "more than 0777", "use permission bits only");
    }
    if slots(spec) > 32 {
        return invalid("descriptors", "a slot above 31", "number the slots from 0");
    }
    let mut numbers: Vec<i32> = spec.descriptors.iter().map(|d| d.number).collect();
    numbers.sort_unstable();
    if numbers.iter().any(|number| !(3..1024).contains(number)) {
        return invalid("descriptors", "a number outside of 3 to 1023", "use stdio for 0 to 2");
    }
    if numbers.windows(2).any(|pair| pair.first() == pair.last()) {
        return invalid("descriptors", "one number twice", "give each its own");
    }
    Ok(())
}
