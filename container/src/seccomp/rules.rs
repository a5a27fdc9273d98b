//! Which calls are refused, and why.

use libc::{EPERM, SYS_clone, SYS_clone3, SYS_personality, SYS_socket};

/// What happens to one call number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Allow,
    Refuse(i32),
    /// EPERM if any of these bits is set in argument 0.
    RefuseBits(u32),
    /// EPERM if argument 0 is one of these.
    RefuseValues([u32; 2]),
    /// EPERM unless argument 0 is a harmless personality.
    Personality,
}

/// First number not known: `file_setattr` of Linux 6.17 is 469.
pub(super) const END: u32 = 470;

/// Not in the libc crate: Linux 6.15, and the three of 6.8 about security modules.
const SYS_OPEN_TREE_ATTR: i64 = 467;
const SYS_LSM_GET_SELF_ATTR: i64 = 459;
const SYS_LSM_SET_SELF_ATTR: i64 = 460;
const SYS_LSM_LIST_MODULES: i64 = 461;

/// Calls refused with `EPERM` whatever their arguments.
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    SYS_LSM_GET_SELF_ATTR,
    SYS_LSM_LIST_MODULES,
    SYS_LSM_SET_SELF_ATTR,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_uselib,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
    libc::SYS_vhangup,
];

/// Every namespace flag of `clone`: cgroup, uts, ipc, user, pid, net, mount. (`CLONE_NEWTIME`
/// exists for `clone3` and `unshare` only.)
const CLONE_NAMESPACES: u32 = 0x7E02_0000;

/// Personalities that change nothing dangerous: Linux and Linux32, each with or without the
/// `UNAME26` flag, and the query.
pub(super) const PERSONALITIES: [u32; 5] = [0, 8, 0x20000, 0x20008, 0xffff_ffff];

/// Not bound to any namespace, it would reach the hypervisor's host.
pub(super) const AF_VSOCK: u32 = 40;

/// The kernel's cryptography, whose bugs are the host's.
pub(super) const AF_ALG: u32 = 38;

/// The rule of every known number, in order.
pub(super) fn standard_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::Allow; END as usize];
    let mut set = |number: i64, rule| {
        if let Some(slot) = usize::try_from(number).ok().and_then(|n| rules.get_mut(n)) {
            *slot = rule;
        }
    };
    for number in DENIED {
        set(*number, Rule::Refuse(EPERM));
    }
    set(SYS_clone, Rule::RefuseBits(CLONE_NAMESPACES));
    set(SYS_clone3, Rule::Refuse(libc::ENOSYS));
    set(SYS_personality, Rule::Personality);
    set(SYS_socket, Rule::RefuseValues([AF_VSOCK, AF_ALG]));
    // 335 to 423 were skipped so that new calls have one number on every architecture.
    for number in 335..424 {
        set(number, Rule::Refuse(libc::ENOSYS));
    }
    rules
}
