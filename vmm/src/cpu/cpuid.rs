//! What the vCPU answers to CPUID: what KVM supports, as a processor with one core and one thread.
//!
//! Leaves as in Intel SDM volume 2, CPUID, and AMD APM volume 3, appendix E; KVM's own in
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, EBX: initial APIC id and logical processor count.
const EBX_APIC_AND_COUNT: u32 = 0xffff_0000;
const EBX_ONE_PROCESSOR: u32 = 1 << 16;
/// Leaf 1, ECX.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor.
const EDX_HTT: u32 = 1 << 28;
/// Leaf 4 and 0x8000001D, EAX: sharing and cores per package are 0, meaning one.
const EAX_CACHE_OWN: u32 = 0x3fff;
/// Leaf 0x80000001, ECX.
const ECX_CMP_LEGACY: u32 = 1 << 1;
const ECX_PERFCTR_CORE: u32 = 1 << 23;
const ECX_PERFCTR_NB: u32 = 1 << 24;
const ECX_PERFCTR_LLC: u32 = 1 << 28;
/// Leaf 0xB: what the levels mean.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_KVM: u32 = 0x4000_0000;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// "KVMKVMKVM\0\0\0" in EBX, ECX, EDX.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];

/// Leaves of which nothing is left: topology beyond leaf 0xB, which describes the host, and the
/// performance counters, whose probing costs the guest time and which a guest made for a moment
/// does not need.
fn is_dropped(leaf: u32) -> bool {
    matches!(leaf, LEAF_TOPOLOGY | 0x1f | 0x8000_0022 | 0x8000_0026)
}

/// The answers of a lone vCPU with APIC id 0. `None` only if there are more entries than KVM takes.
pub(super) fn of_single_vcpu(
    supported: &[kvm_cpuid_entry2],
    deadline_timer: bool,
) -> Option<CpuId> {
    let mut entries = Vec::with_capacity(supported.len() + 4);
    entries.extend(supported.iter().filter(|entry| !is_dropped(entry.function)).copied());
    for entry in &mut entries {
        adapt(entry, deadline_timer);
    }
    let highest =
        supported.iter().map(|entry| entry.function).filter(|leaf| *leaf < LEAF_KVM).max();
    if highest >= Some(LEAF_TOPOLOGY) {
        entries.extend([
            topology(0, 1, LEVEL_THREAD),
            topology(1, 1, LEVEL_CORE),
            topology(2, 0, 0),
        ]);
    }
    if !entries.iter().any(|entry| entry.function == LEAF_KVM) {
        let [ebx, ecx, edx] = KVM_SIGNATURE;
        let eax = LEAF_KVM_FEATURES;
        entries.push(kvm_cpuid_entry2 {
            function: LEAF_KVM,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        });
    }
    CpuId::from_entries(&entries).ok()
}

fn adapt(entry: &mut kvm_cpuid_entry2, deadline_timer: bool) {
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & !EBX_APIC_AND_COUNT | EBX_ONE_PROCESSOR;
            entry.ecx |= ECX_HYPERVISOR;
            // KVM leaves the bit out of what it supports, since it needs the in-kernel local APIC.
            if deadline_timer {
                entry.ecx |= ECX_TSC_DEADLINE;
            }
            entry.edx &= !EDX_HTT;
        }
        0x4 | 0x8000_001d => entry.eax &= EAX_CACHE_OWN,
        0xa => [entry.eax, entry.ebx, entry.ecx, entry.edx] = [0; 4],
        0x8000_0001 => {
            entry.ecx &= !(ECX_CMP_LEGACY | ECX_PERFCTR_CORE | ECX_PERFCTR_NB | ECX_PERFCTR_LLC);
        }
        // Number of threads less one, and the width of the core's part of an APIC id.
        0x8000_0008 => entry.ecx = 0,
        // Extended APIC id, core id with threads per core, node id with nodes per processor.
        0x8000_001e => [entry.eax, entry.ebx, entry.ecx] = [0; 3],
        _ => {}
    }
}

/// A level of leaf 0xB: how many processors it has, and its kind. The shift in EAX and the x2APIC
/// id in EDX are 0.
fn topology(index: u32, processors: u32, level: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ebx: processors,
        ecx: level | index,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        let mut entries = cpuid.as_slice().iter();
        entries.find(|entry| (entry.function, entry.index) == (function, index)).copied()
    }

    #[test]
    fn test_of_single_vcpu_describes_one_core_with_one_thread() {
        let host = [
            leaf(0x1, 0, [0x80_0f12, 0x3b10_0800, 0x0020_0000, EDX_HTT | 1]),
            leaf(0x4, 0, [0xfc00_4121, 1, 2, 3]),
            leaf(0xb, 0, [1, 2, 0x100, 0x3b]),
            leaf(0xb, 1, [6, 64, 0x201, 0x3b]),
            leaf(0x1f, 0, [1, 2, 0x100, 0x3b]),
            leaf(0x8000_0001, 0, [0, 0, 0x0180_0003, 0]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0x503f, 0]),
            leaf(0x8000_001d, 0, [0x3c00_4121, 1, 2, 3]),
            leaf(0x8000_001e, 0, [0x3b, 0x11d, 3, 0]),
        ];
        let cpuid = of_single_vcpu(&host, true).unwrap();
        let one = find(&cpuid, 1, 0).unwrap();
        assert_eq!(one.ebx, 0x0001_0800);
        assert_eq!(one.ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE | 0x0020_0000);
        assert_eq!(one.edx, 1);
        assert_eq!(find(&cpuid, 4, 0).unwrap().eax, 0x121);
        assert_eq!(find(&cpuid, 0xb, 0).unwrap(), topology(0, 1, LEVEL_THREAD));
        assert_eq!(find(&cpuid, 0xb, 1).unwrap(), topology(1, 1, LEVEL_CORE));
        assert!(find(&cpuid, 0x1f, 0).is_none());
        assert_eq!(find(&cpuid, 0x8000_0001, 0).unwrap().ecx, 1);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().ecx, 0);
        assert_eq!(find(&cpuid, 0x8000_001d, 0).unwrap().eax, 0x121);
        assert_eq!(find(&cpuid, 0x8000_001e, 0).unwrap().ebx, 0);
    }

    #[test]
    fn test_of_single_vcpu_without_kvm_leaf_adds_its_signature() {
        let cpuid = of_single_vcpu(&[leaf(1, 0, [0; 4])], false).unwrap();
        let kvm = find(&cpuid, LEAF_KVM, 0).unwrap();
        let text: Vec<u8> = [kvm.ebx, kvm.ecx, kvm.edx]
            .iter()
            .flat_map(|register| register.to_le_bytes())
            .collect();
        assert_eq!(&text, b"KVMKVMKVM\0\0\0");
        assert_eq!(find(&cpuid, 1, 0).unwrap().ecx & ECX_TSC_DEADLINE, 0);
        assert!(find(&cpuid, 0xb, 0).is_none());
    }

    #[test]
    fn test_of_single_vcpu_of_this_host_is_taken_by_kvm() {
        if !kvm::available("test_of_single_vcpu_of_this_host_is_taken_by_kvm") {
            return;
        }
        let kvm = kvm::open().unwrap();
        let vm = kvm::create_vm(&kvm).unwrap();
        vm.create_irq_chip().unwrap();
        let vcpu = crate::cpu::create(&vm, &crate::cpu::Identity::new(&kvm).unwrap()).unwrap();
        let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap();
        assert_ne!(find(&cpuid, 1, 0).unwrap().ecx & ECX_HYPERVISOR, 0);
        assert!(find(&cpuid, LEAF_KVM_FEATURES, 0).is_some(), "KVM offers its features leaf");
    }
}
