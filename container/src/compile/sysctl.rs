//! Kernel parameters that belong to the box's namespaces.

use crate::error::{Error, Stage};
use crate::namespace::{NamespaceKind, Namespaces};
use crate::script::Script;
use crate::spec::Spec;

/// Parameters of the IPC namespace, besides those of `fs.mqueue`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Writes them through the host's `/proc`, which shows whoever looks its own namespaces'.
pub(super) fn set(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    for (name, value) in &spec.sysctls {
        let invalid = |problem: &str, remedy| Error::Invalid {
            field: "sysctls",
            problem: format!("{name} {problem}"),
            remedy,
        };
        let Some((kind, set)) = namespace_of(name) else {
            return Err(invalid("belongs to no namespace of a box", "set it on the host"));
        };
        let own = spec.namespaces.contains(set) || spec.joined.iter().any(|j| j.kind == kind);
        if !own {
            return Err(invalid("would change the host's", "add the namespace it belongs to"));
        }
        // Slashes stand for themselves where dots separate, as in sysctl(8).
        let path: String = name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect();
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid("is no name of a parameter", "write it as sysctl(8) does"));
        }
        script.write_file(Stage::Sysctl, &format!("/proc/sys/{path}"), value.as_bytes())?;
    }
    Ok(())
}

fn namespace_of(name: &str) -> Option<(NamespaceKind, Namespaces)> {
    if name.starts_with("net.") {
        return Some((NamespaceKind::Net, Namespaces::NET));
    }
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some((NamespaceKind::Ipc, Namespaces::IPC));
    }
    matches!(name, "kernel.domainname" | "kernel.hostname")
        .then_some((NamespaceKind::Uts, Namespaces::UTS))
}
