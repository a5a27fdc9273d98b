//! Sets of Linux capabilities (`capabilities(7)`).

use std::fmt;

/// Names by number, `linux/capability.h` up to Linux 6.18.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// A set of capabilities: bit *n* is capability number *n*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u64);

/// The five sets of a process, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    /// What an execution may ever add.
    pub bounding: Capabilities,
    /// What it can do.
    pub effective: Capabilities,
    /// What it can give itself.
    pub permitted: Capabilities,
    /// What an execution keeps of a file's inheritable ones.
    pub inheritable: Capabilities,
    /// What an execution keeps for anyone; part of permitted and inheritable.
    pub ambient: Capabilities,
}

impl Capabilities {
    /// No capability at all.
    pub const NONE: Capabilities = Capabilities(0);
    /// Every capability this version knows.
    pub const ALL: Capabilities = Capabilities((1 << NAMES.len()) - 1);
    /// The fourteen that Docker leaves to a container: chown, dac_override, fowner, fsetid, kill,
    /// setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write,
    /// setfcap.
    pub const DOCKER: Capabilities = Capabilities(
        1 | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31,
    );

    /// From a mask as in `/proc/self/status`; bits without a name are dropped.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Capabilities {
        Capabilities(bits & Capabilities::ALL.0)
    }

    /// As a mask.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The capability called `name`: any case, with or without `cap_`. `None` if unknown.
    #[must_use]
    pub fn named(name: &str) -> Option<Capabilities> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("cap_").unwrap_or(&name);
        NAMES.iter().position(|known| *known == name).map(|number| Capabilities(1 << number))
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// This set less `other`.
    #[must_use]
    pub const fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Whether every capability of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the set, in order of number, without `cap_`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(number, _)| self.0 >> number & 1 == 1)
            .map(|(_, name)| *name)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_docker_default_is_its_documented_mask() {
        // What /proc/self/status shows inside `docker run`.
        assert_eq!(Capabilities::DOCKER.bits(), 0xa804_25fb);
        assert_eq!(Capabilities::DOCKER.names().count(), 14);
    }

    #[test]
    fn test_named_invalid_name_returns_none() {
        assert_eq!(Capabilities::named("CAP_SYS_ADMIN"), Some(Capabilities(1 << 21)));
        assert_eq!(Capabilities::named("checkpoint_restore"), Some(Capabilities(1 << 40)));
        assert_eq!(Capabilities::named("sys_everything"), None);
    }

    #[test]
    fn test_without_removes_and_contains_tells() {
        let mknod = Capabilities(1 << 27);
        assert!(Capabilities::DOCKER.contains(mknod));
        assert!(!Capabilities::DOCKER.without(mknod).contains(mknod));
        assert_eq!(Capabilities::from_bits(!0), Capabilities::ALL);
    }
}
