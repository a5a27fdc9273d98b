//! Which properties are understood. All others are refused by their names: those that the
//! specification does not know as well as those that are not done here.

use oci_spec::runtime;
use serde_json::Value;

use super::error::{OciError, invalid, unsupported};

/// Every property that is done, by its path; `[]` is each element of a list, `*` any name.
const KNOWN: &[&str] = &[
    "ociVersion",
    "hostname",
    "domainname",
    "annotations.*",
    "root.path",
    "root.readonly",
    "mounts[].destination",
    "mounts[].type",
    "mounts[].source",
    "mounts[].options[]",
    "process.terminal",
    "process.consoleSize.height",
    "process.consoleSize.width",
    "process.user.uid",
    "process.user.gid",
    "process.user.umask",
    "process.user.additionalGids[]",
    "process.args[]",
    "process.env[]",
    "process.cwd",
    "process.capabilities.bounding[]",
    "process.capabilities.effective[]",
    "process.capabilities.inheritable[]",
    "process.capabilities.permitted[]",
    "process.capabilities.ambient[]",
    "process.rlimits[].type",
    "process.rlimits[].hard",
    "process.rlimits[].soft",
    "process.noNewPrivileges",
    "process.oomScoreAdj",
    "linux.uidMappings[].containerID",
    "linux.uidMappings[].hostID",
    "linux.uidMappings[].size",
    "linux.gidMappings[].containerID",
    "linux.gidMappings[].hostID",
    "linux.gidMappings[].size",
    "linux.sysctl.*",
    "linux.cgroupsPath",
    "linux.namespaces[].type",
    "linux.namespaces[].path",
    "linux.devices[].path",
    "linux.devices[].type",
    "linux.devices[].major",
    "linux.devices[].minor",
    "linux.devices[].fileMode",
    "linux.devices[].uid",
    "linux.devices[].gid",
    "linux.rootfsPropagation",
    "linux.maskedPaths[]",
    "linux.readonlyPaths[]",
    "linux.timeOffsets.*.secs",
    "linux.timeOffsets.*.nanosecs",
    "linux.seccomp.defaultAction",
    "linux.seccomp.defaultErrnoRet",
    "linux.seccomp.architectures[]",
    "linux.seccomp.flags[]",
    "linux.seccomp.syscalls[].names[]",
    "linux.seccomp.syscalls[].action",
    "linux.seccomp.syscalls[].errnoRet",
    "linux.seccomp.syscalls[].args[].index",
    "linux.seccomp.syscalls[].args[].value",
    "linux.seccomp.syscalls[].args[].valueTwo",
    "linux.seccomp.syscalls[].args[].op",
    "linux.resources.devices[].allow",
    "linux.resources.devices[].type",
    "linux.resources.devices[].major",
    "linux.resources.devices[].minor",
    "linux.resources.devices[].access",
    "linux.resources.memory.limit",
    "linux.resources.memory.reservation",
    "linux.resources.memory.swap",
    "linux.resources.cpu.shares",
    "linux.resources.cpu.quota",
    "linux.resources.cpu.period",
    "linux.resources.cpu.cpus",
    "linux.resources.cpu.mems",
    "linux.resources.pids.limit",
    "linux.resources.blockIO.throttleReadBpsDevice[].major",
    "linux.resources.blockIO.throttleReadBpsDevice[].minor",
    "linux.resources.blockIO.throttleReadBpsDevice[].rate",
    "linux.resources.blockIO.throttleWriteBpsDevice[].major",
    "linux.resources.blockIO.throttleWriteBpsDevice[].minor",
    "linux.resources.blockIO.throttleWriteBpsDevice[].rate",
    "linux.resources.blockIO.throttleReadIOPSDevice[].major",
    "linux.resources.blockIO.throttleReadIOPSDevice[].minor",
    "linux.resources.blockIO.throttleReadIOPSDevice[].rate",
    "linux.resources.blockIO.throttleWriteIOPSDevice[].major",
    "linux.resources.blockIO.throttleWriteIOPSDevice[].minor",
    "linux.resources.blockIO.throttleWriteIOPSDevice[].rate",
    "linux.resources.unified.*",
    "hooks.*[].path",
    "hooks.*[].args[]",
    "hooks.*[].env[]",
    "hooks.*[].timeout",
];

/// Properties that may be there, if they say nothing.
const EMPTY: &[&str] = &["process.apparmorProfile", "process.selinuxLabel", "linux.mountLabel"];

/// Kinds of hooks; the names of the others' maps are free.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Reads a configuration all of whose properties are known.
pub(super) fn parse(config: &[u8]) -> Result<runtime::Spec, OciError> {
    let value: Value = serde_json::from_slice(config)?;
    if !value.is_object() {
        return Err(invalid("(the whole)", "not an object"));
    }
    check(&value, "", "")?;
    // Of a number too large, or a word that is none of a list, this names line and column only.
    let spec: runtime::Spec = serde_json::from_slice(config)?;
    let version = spec.version();
    let supported = version.split('.').next() == Some("1") && version.split('.').count() == 3;
    if !supported {
        return Err(unsupported("ociVersion", format!("{version:?}, where 1.x.y is")));
    }
    Ok(spec)
}

/// Looks at all below `value`. `pattern` is its path as the lists above have it, `path` as it is.
fn check(value: &Value, pattern: &str, path: &str) -> Result<(), OciError> {
    match value {
        // As if it were not there.
        Value::Null => Ok(()),
        Value::Object(fields) => {
            for (name, field) in fields {
                let join = |to: &str, name: &str| match to {
                    "" => name.to_owned(),
                    to => format!("{to}.{name}"),
                };
                let free = matches!(
                    pattern,
                    "annotations"
                        | "linux.sysctl"
                        | "linux.timeOffsets"
                        | "linux.resources.unified"
                ) || (pattern == "hooks" && HOOKS.contains(&name.as_str()));
                let pattern = join(pattern, if free { "*" } else { name });
                let path = join(path, name);
                let leads = |known: &&&str| {
                    known.strip_prefix(pattern.as_str()).is_some_and(|rest| {
                        rest.is_empty() || rest.starts_with('.') || rest.starts_with("[]")
                    })
                };
                let may_be_empty = EMPTY.contains(&pattern.as_str());
                if may_be_empty && field.as_str() == Some("") {
                    continue;
                }
                if !KNOWN.iter().any(|known| leads(&known)) && !field.is_null() {
                    return Err(unsupported(path, ""));
                }
                check(field, &pattern, &path)?;
            }
            Ok(())
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                check(element, &format!("{pattern}[]"), &format!("{path}[{index}]"))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
