//! The kernel's linker script, with pages of 4 KiB in the place of 2 MiB.
//!
//! On x86-64 the kernel's own script begins each of its parts — text, entry code, read-only data,
//! data — at a large page, so that each can be protected by itself without splitting one. A guest
//! that is booted with `rodata=off` protects none of them, and every large page that its image
//! reaches into is one that the VMM has to get from the host and the host has to clear.

/// As the C preprocessor leaves `ALIGN(HPAGE_SIZE)` and `ALIGN(PMD_SIZE)`.
const LARGE: &str = "ALIGN((1 << 21))";
const SMALL: &str = "ALIGN((1 << 12))";

/// Where the kernel's build makes its script, below its objects.
pub(crate) const SCRIPT: &str = "arch/x86/kernel/vmlinux.lds";
/// Where ours is put.
pub(crate) const PACKED_SCRIPT: &str = "arch/x86/kernel/packed.lds";
/// What has the kernel's build use it.
pub(crate) const PACKED_VARIABLE: &str = "KBUILD_LDS=arch/x86/kernel/packed.lds";

/// The packed form of a script; `None` if it aligns nothing to a large page.
pub(crate) fn pack(script: &str) -> Option<String> {
    script.contains(LARGE).then(|| script.replace(LARGE, SMALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_pack_replaces_every_large_alignment_and_refuses_a_script_without() {
        let script = " . = ALIGN((1 << 21));\n .data : { . = ALIGN(64); } . = ALIGN((1 << 21));";
        let packed = pack(script).unwrap();
        assert_eq!(packed.matches(SMALL).count(), 2);
        assert!(!packed.contains(LARGE) && packed.contains("ALIGN(64)"));
        assert_eq!(pack(&packed), None);
    }
}
