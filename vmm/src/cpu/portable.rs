//! The portable profile: see [`CpuProfile::Portable`](super::CpuProfile::Portable).

use kvm_bindings::kvm_cpuid_entry2;

use super::CpuError;

/// A bit of a register, and its name in /proc/cpuinfo.
type Bit = (u32, &'static str);

/// Leaf 1.
const ECX_1: [Bit; 7] = [
    (0, "pni"),
    (9, "ssse3"),
    (13, "cx16"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (21, "x2apic"),
    (23, "popcnt"),
];
const EDX_1: [Bit; 21] = [
    (0, "fpu"),
    (2, "de"),
    (3, "pse"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (7, "mce"),
    (8, "cx8"),
    (9, "apic"),
    (11, "sep"),
    (12, "mtrr"),
    (13, "pge"),
    (14, "mca"),
    (15, "cmov"),
    (16, "pat"),
    (17, "pse36"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
];
/// Leaf 0x80000001.
const ECX_EXTENDED: [Bit; 1] = [(0, "lahf_lm")];
const EDX_EXTENDED: [Bit; 3] = [(11, "syscall"), (20, "nx"), (29, "lm")];
/// Leaf 0x40000001, EAX (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: [Bit; 4] = [
    (0, "kvmclock"),
    (1, "no delay of port accesses (KVM_FEATURE_NOP_IO_DELAY)"),
    (3, "kvmclock's new registers (KVM_FEATURE_CLOCKSOURCE2)"),
    (24, "kvmclock_stable"),
];

const LEAF_BASIC_MAX: u32 = 0xb;
const LEAF_EXTENDED: u32 = 0x8000_0000;
const LEAF_EXTENDED_MAX: u32 = 0x8000_0008;
const LEAF_KVM: u32 = 0x4000_0000;
/// "Auth", the start of AMD's name in EBX of leaf 0.
const AMD: u32 = 0x6874_7541;
/// Family 23, model 1, stepping 2.
const SIGNATURE_AMD: u32 = 0x0080_0f12;
/// Family 6, model 26, stepping 0.
const SIGNATURE_INTEL: u32 = 0x0001_06a0;
/// CLFLUSH works on 64 bytes: EBX of leaf 1, in units of 8.
const EBX_CLFLUSH: u32 = 8 << 8;
/// Linear and physical bits.
const ADDRESS_BITS: u32 = 48 << 8 | 39;
const BRAND: &[u8; 48] = b"tare portable x86-64-v2 CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// What is left of what KVM supports. An error names what is not there.
pub(super) fn reduce(supported: &[kvm_cpuid_entry2]) -> Result<Vec<kvm_cpuid_entry2>, CpuError> {
    let find = |function| {
        let found = supported.iter().find(|entry| entry.function == function);
        found.copied().unwrap_or(kvm_cpuid_entry2 { function, ..Default::default() })
    };
    let leaf = |function, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let (vendor, one, extended, kvm) =
        (find(0), find(1), find(LEAF_EXTENDED + 1), find(LEAF_KVM + 1));
    let is_amd = vendor.ebx == AMD;
    let signature = if is_amd { SIGNATURE_AMD } else { SIGNATURE_INTEL };
    let named = [vendor.ebx, vendor.ecx, vendor.edx];
    let [ebx, ecx, edx] = named;
    // AMD repeats its name in the extended range, Intel does not.
    let [ebx_extended, ecx_extended, edx_extended] = if is_amd { named } else { [0; 3] };
    let mut leaves = vec![
        leaf(0, [LEAF_BASIC_MAX, ebx, ecx, edx]),
        leaf(1, [signature, EBX_CLFLUSH, all(one.ecx, &ECX_1)?, all(one.edx, &EDX_1)?]),
        kvm_cpuid_entry2 { eax: LEAF_KVM + 1, ..find(LEAF_KVM) },
        leaf(LEAF_KVM + 1, [all(kvm.eax, &KVM_FEATURES)?, 0, 0, 0]),
        leaf(LEAF_EXTENDED, [LEAF_EXTENDED_MAX, ebx_extended, ecx_extended, edx_extended]),
        leaf(
            LEAF_EXTENDED + 1,
            [0, 0, all(extended.ecx, &ECX_EXTENDED)?, all(extended.edx, &EDX_EXTENDED)?],
        ),
        leaf(LEAF_EXTENDED + 8, [ADDRESS_BITS, 0, 0, 0]),
        // Marks that leaf 0xB is there; what it says is the topology's.
        leaf(LEAF_BASIC_MAX, [0; 4]),
    ];
    for (index, part) in BRAND.chunks_exact(16).enumerate() {
        let mut registers = [0; 4];
        for (register, bytes) in registers.iter_mut().zip(part.chunks_exact(4)) {
            *register = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        }
        leaves.push(leaf(LEAF_EXTENDED + 2 + index as u32, registers));
    }
    Ok(leaves)
}

/// The bits as a register, if `found` has them all.
fn all(found: u32, bits: &[Bit]) -> Result<u32, CpuError> {
    let missing = bits.iter().find(|(bit, _)| found >> bit & 1 == 0);
    match missing {
        Some((_, feature)) => Err(CpuError::Missing { feature }),
        None => Ok(bits.iter().fold(0, |register, (bit, _)| register | 1 << bit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has everything, and more than is asked.
    fn host(name: u32) -> Vec<kvm_cpuid_entry2> {
        let leaves = [0, 1, 7, 0xd, LEAF_KVM, LEAF_KVM + 1, LEAF_EXTENDED, LEAF_EXTENDED + 1];
        leaves
            .map(|function| kvm_cpuid_entry2 {
                function,
                eax: !0,
                ebx: if function == 0 { name } else { !0 },
                ecx: !0,
                edx: !0,
                ..Default::default()
            })
            .to_vec()
    }

    #[test]
    fn test_reduce_two_hosts_give_the_same_but_for_what_is_more() {
        let rich = host(AMD);
        let mut poor = host(AMD);
        poor.retain(|entry| entry.function != 7 && entry.function != 0xd);
        poor[1].ecx = all(!0, &ECX_1).unwrap();
        poor[1].eax = 0x1234;
        assert_eq!(reduce(&rich).unwrap(), reduce(&poor).unwrap());
        assert!(reduce(&rich).unwrap().iter().all(|entry| entry.function != 7));
    }

    #[test]
    fn test_reduce_without_a_bit_names_it() {
        let mut host = host(0);
        host[1].ecx &= !(1 << 20);
        let message = reduce(&host).unwrap_err().to_string();
        assert!(message.contains("sse4_2"), "{message}");
    }
}
