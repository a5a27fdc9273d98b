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

const MINIMAL: Fragment =
    Fragment { name: "minimal.config", text: include_str!("../configs/minimal.config") };
const PRACTICAL_ONLY: Fragment =
    Fragment { name: "practical.config", text: include_str!("../configs/practical.config") };

/// Boots fast and runs every workload: virtio-mmio disks and vsock, ext4, erofs, overlay, one
/// processor, no network protocols, no CPU mitigations.
pub const PRACTICAL: Variant = Variant {
    name: "practical",
    summary: "virtio-mmio disks and vsock, ext4, erofs, overlay; one processor, no mitigations",
    packed: true,
    fragments: &[MINIMAL, PRACTICAL_ONLY],
    estimated_steps: 1301,
};

/// All of them.
pub const VARIANTS: &[Variant] = &[PRACTICAL];

impl Variant {
    /// Finds a variant by name.
    pub fn by_name(name: &str) -> Option<&'static Variant> {
        VARIANTS.iter().find(|variant| variant.name == name)
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
        }
        assert_eq!(Variant::by_name("nonsense"), None);
    }

    #[test]
    fn test_practical_overrides_minimal() {
        let text = PRACTICAL.config().unwrap().text();
        assert!(text.contains("CONFIG_PVH=y\n"));
        assert!(!text.contains("CONFIG_PVH is not set"));
    }
}
