//! The kernels there are: lists of configuration fragments.

use crate::config::{Config, Error};

/// A piece of kernel configuration with a name for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The file's name below `kernels/configs/`.
    pub name: &'static str,
    /// Its text, in the syntax of a kernel's `.config`.
    pub text: &'static str,
}

/// A guest kernel by its name: fragments laid over `allnoconfig`, each overriding those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// The name on the command line and beside every figure.
    pub name: &'static str,
    /// One sentence for lists.
    pub summary: &'static str,
    /// Whether its parts follow each other without gaps (see `link`). It must be booted with
    /// `rodata=off`, as by [`command_line`](crate::command_line).
    pub packed: bool,
    /// What it is made of.
    pub fragments: &'static [Fragment],
    /// About how many steps `make` reports for it, for the progress bar of a first build.
    pub(crate) estimated_steps: u64,
}

macro_rules! fragment {
    ($name:literal) => {
        Fragment { name: $name, text: include_str!(concat!("../configs/", $name)) }
    };
}

/// Nothing but start-up: unpacks its initramfs, runs `/init`, ends the machine.
pub const BARE: Variant = Variant {
    name: "bare",
    summary: "nothing but start-up: no device, no console, no message; one processor, no mitigations",
    packed: true,
    fragments: &[fragment!("minimal.config"), fragment!("bare.config")],
    estimated_steps: 900,
};

/// Boots fast and runs every workload: virtio-mmio disks and vsock, ext4, erofs, overlay, one
/// processor, no network protocols, no CPU mitigations.
pub const PRACTICAL: Variant = Variant {
    name: "practical",
    summary: "virtio-mmio disks and vsock, ext4, erofs, overlay; one processor, no mitigations",
    packed: true,
    fragments: &[fragment!("minimal.config"), fragment!("practical.config")],
    estimated_steps: 1301,
};

/// For comparisons of processor, memory, input/output and network: up to 8 processors, every
/// virtio device and file system, mitigations and allocators as in a distribution's kernel.
pub const FULL: Variant = Variant {
    name: "full",
    summary: "all virtio-mmio devices, IPv4, file systems; 8 processors; mitigations as Debian has them",
    packed: false,
    fragments: &[fragment!("full.config")],
    estimated_steps: 1900,
};

/// All of them.
pub const VARIANTS: &[Variant] = &[BARE, PRACTICAL, FULL];

impl Variant {
    /// Finds a variant by name.
    pub fn by_name(name: &str) -> Option<&'static Variant> {
        VARIANTS.iter().find(|variant| variant.name == name)
    }

    /// The variant that an entry of the cache, `<variant>-<version>-<hash>`, is of.
    pub fn of_entry(entry: &str) -> Option<&'static Variant> {
        let (variant, rest) = entry.split_once('-')?;
        Variant::by_name(variant).filter(|_| rest.contains('-'))
    }

    /// All fragments as one.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        let mut config = Config::default();
        for fragment in self.fragments {
            config.merge(fragment.name, fragment.text)?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_variants_all_fragments_parse_and_names_are_found() {
        for variant in VARIANTS {
            assert!(!variant.config().unwrap().text().is_empty());
            assert_eq!(Variant::by_name(variant.name), Some(variant));
            let entry = format!("{}-6.12.117-7114a317cdbf", variant.name);
            assert_eq!(Variant::of_entry(&entry), Some(variant));
        }
        for name in ["nonsense", "", "bare-", "full-6.12"] {
            assert_eq!(Variant::by_name(name), None);
            assert_eq!(Variant::of_entry(name), None);
        }
    }

    #[test]
    fn test_variants_all_enter_by_pvh_and_let_the_agent_write_to_ports() {
        for variant in VARIANTS {
            let text = variant.config().unwrap().text();
            for line in ["CONFIG_PVH=y", "CONFIG_X86_IOPL_IOPERM=y", "CONFIG_KVM_GUEST=y"] {
                assert!(text.lines().any(|l| l == line), "{}: {line}", variant.name);
            }
        }
    }

    /// What the config of Debian's linux-image-6.12.117+deb12-cloud-amd64 has on that makes a kernel
    /// slower and safer, or decides how it allocates and schedules. Left out is what a kernel without
    /// modules, KVM or PCI cannot have.
    const OF_DEBIAN: &[&str] = &[
        "CPU_MITIGATIONS",
        "MITIGATION_PAGE_TABLE_ISOLATION",
        "MITIGATION_RETPOLINE",
        "MITIGATION_RETHUNK",
        "MITIGATION_UNRET_ENTRY",
        "MITIGATION_CALL_DEPTH_TRACKING",
        "MITIGATION_IBPB_ENTRY",
        "MITIGATION_IBRS_ENTRY",
        "MITIGATION_SRSO",
        "MITIGATION_SLS",
        "MITIGATION_GDS",
        "MITIGATION_RFDS",
        "MITIGATION_SPECTRE_BHI",
        "MITIGATION_MDS",
        "MITIGATION_TAA",
        "MITIGATION_MMIO_STALE_DATA",
        "MITIGATION_L1TF",
        "MITIGATION_RETBLEED",
        "MITIGATION_SPECTRE_V1",
        "MITIGATION_SPECTRE_V2",
        "MITIGATION_SRBDS",
        "MITIGATION_SSB",
        "MITIGATION_ITS",
        "MITIGATION_TSA",
        "STACKPROTECTOR_STRONG",
        "RANDOMIZE_KSTACK_OFFSET_DEFAULT",
        "VMAP_STACK",
        "INIT_STACK_ALL_ZERO",
        "INIT_ON_ALLOC_DEFAULT_ON",
        "HARDENED_USERCOPY",
        "FORTIFY_SOURCE",
        "LIST_HARDENED",
        "SECCOMP",
        "STRICT_KERNEL_RWX",
        "SLAB_FREELIST_RANDOM",
        "SLAB_FREELIST_HARDENED",
        "SLAB_BUCKETS",
        "SLUB_CPU_PARTIAL",
        "TRANSPARENT_HUGEPAGE_ALWAYS",
        "LRU_GEN_ENABLED",
        "COMPACTION",
        "PREEMPT_VOLUNTARY",
        "PREEMPT_DYNAMIC",
        "HZ_250",
        "NO_HZ_FULL",
        "HIGH_RES_TIMERS",
        "FAIR_GROUP_SCHED",
        "SCHED_AUTOGROUP",
        "JUMP_LABEL",
        "PARAVIRT_SPINLOCKS",
    ];

    #[test]
    fn test_full_has_what_debian_s_kernel_has() {
        let text = FULL.config().unwrap().text();
        for symbol in OF_DEBIAN {
            let line = format!("CONFIG_{symbol}=y");
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }
}
