//! What the vCPU answers to CPUID: what KVM supports, as one of the cores of a processor, each with one thread.
//!
//! Leaves as in Intel SDM volume 2, CPUID, and AMD APM volume 3, appendix E; KVM's own in
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, EBX: initial APIC id and logical processor count.
const EBX_APIC_AND_COUNT: u32 = 0xffff_0000;
/// Leaf 1, ECX.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor.
const EDX_HTT: u32 = 1 << 28;
/// Leaf 4 and 0x8000001D, EAX: less one, how many share the cache (bit 14) and how many cores there
/// are (bit 26).
const EAX_CACHE_OWN: u32 = 0x3fff;
const EAX_CACHE_LEVEL: u32 = 0b111 << 5;
const CACHE_SHARED: u32 = 3 << 5;
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

/// The answers of the vCPU `index` of `count`, whose APIC id is its index. `None` only if there are
/// more entries than KVM takes.
pub(super) fn of_vcpu(
    supported: &[kvm_cpuid_entry2],
    deadline_timer: bool,
    index: u8,
    count: u8,
) -> Option<CpuId> {
    let place = Place { index: index.into(), count: count.into() };
    let mut entries = Vec::with_capacity(supported.len() + 4);
    entries.extend(supported.iter().filter(|entry| !is_dropped(entry.function)).copied());
    for entry in &mut entries {
        place.adapt(entry, deadline_timer);
    }
    let highest =
        supported.iter().map(|entry| entry.function).filter(|leaf| *leaf < LEAF_KVM).max();
    if highest >= Some(LEAF_TOPOLOGY) {
        entries.extend([
            place.level(0, 0, 1, LEVEL_THREAD),
            place.level(1, place.id_bits(), place.count, LEVEL_CORE),
            place.level(2, 0, 0, 0),
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
    // KVM answers zeros for what it does not have; and it searches all that it has some thirty times
    // when it is given them.
    entries.retain(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx] != [0; 4]);
    CpuId::from_entries(&entries).ok()
}

/// Which vCPU of how many.
struct Place {
    index: u32,
    count: u32,
}

impl Place {
    /// Bits of an APIC id that tell cores apart.
    fn id_bits(&self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    fn adapt(&self, entry: &mut kvm_cpuid_entry2, deadline_timer: bool) {
        let others = self.count - 1;
        match entry.function {
            0x1 => {
                let place = self.index << 24 | self.count << 16;
                entry.ebx = entry.ebx & !EBX_APIC_AND_COUNT | place;
                entry.ecx |= ECX_HYPERVISOR;
                // KVM leaves the bit out of what it supports, since it needs the in-kernel local
                // APIC.
                if deadline_timer {
                    entry.ecx |= ECX_TSC_DEADLINE;
                }
                entry.edx &= !EDX_HTT;
                if others > 0 {
                    entry.edx |= EDX_HTT;
                }
            }
            0x4 | 0x8000_001d => {
                let is_shared = entry.eax & EAX_CACHE_LEVEL >= CACHE_SHARED;
                entry.eax &= EAX_CACHE_OWN;
                if is_shared {
                    entry.eax |= others << 14;
                }
                // Reserved in AMD's leaf. An entry of type 0 ends the list.
                if entry.function == 0x4 && entry.eax & 0x1f != 0 {
                    entry.eax |= others << 26;
                }
            }
            0xa => [entry.eax, entry.ebx, entry.ecx, entry.edx] = [0; 4],
            0x8000_0001 => {
                entry.ecx &=
                    !(ECX_CMP_LEGACY | ECX_PERFCTR_CORE | ECX_PERFCTR_NB | ECX_PERFCTR_LLC);
            }
            // Number of threads less one, and the width of the core's part of an APIC id.
            0x8000_0008 => entry.ecx = others | self.id_bits() << 12,
            // Extended APIC id, core id with threads per core, node id with nodes per processor.
            0x8000_001e => [entry.eax, entry.ebx, entry.ecx] = [self.index, self.index, 0],
            _ => {}
        }
    }

    /// A level of leaf 0xB: how far to shift an x2APIC id to reach the next level, how many
    /// processors there are in this one, and its kind.
    fn level(&self, index: u32, shift: u32, processors: u32, level: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function: LEAF_TOPOLOGY,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: level | index,
            edx: self.index,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuProfile, kvm};

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        let mut entries = cpuid.as_slice().iter();
        entries.find(|entry| (entry.function, entry.index) == (function, index)).copied()
    }

    #[test]
    fn test_of_vcpu_describes_one_core_with_one_thread() {
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
        let cpuid = of_vcpu(&host, true, 0, 1).unwrap();
        let one = find(&cpuid, 1, 0).unwrap();
        assert_eq!(one.ebx, 0x0001_0800);
        assert_eq!(one.ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE | 0x0020_0000);
        assert_eq!(one.edx, 1);
        assert_eq!(find(&cpuid, 4, 0).unwrap().eax, 0x121);
        let level = find(&cpuid, 0xb, 1).unwrap();
        assert_eq!((level.eax, level.ebx, level.ecx, level.edx), (0, 1, 0x201, 0));
        assert!(find(&cpuid, 0x1f, 0).is_none());
        assert_eq!(find(&cpuid, 0x8000_0001, 0).unwrap().ecx, 1);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().ecx, 0);
        assert_eq!(find(&cpuid, 0x8000_001d, 0).unwrap().eax, 0x121);
        assert!(find(&cpuid, 0x8000_001e, 0).is_none(), "all of it is zero");
    }

    #[test]
    fn test_of_vcpu_without_kvm_leaf_adds_its_signature() {
        let cpuid = of_vcpu(&[leaf(1, 0, [0; 4])], false, 0, 1).unwrap();
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
    fn test_of_vcpu_of_this_host_is_taken_by_kvm() {
        if !kvm::available("test_of_vcpu_of_this_host_is_taken_by_kvm") {
            return;
        }
        let kvm = kvm::open().unwrap();
        let vm = kvm::create_vm(&kvm).unwrap();
        vm.create_irq_chip().unwrap();
        let vcpu = crate::cpu::create(
            &vm,
            0,
            &crate::cpu::Identity::new(&kvm, 1, CpuProfile::Host).unwrap(),
        )
        .unwrap();
        let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap();
        assert_ne!(find(&cpuid, 1, 0).unwrap().ecx & ECX_HYPERVISOR, 0);
        assert!(find(&cpuid, LEAF_KVM_FEATURES, 0).is_some(), "KVM offers its features leaf");
    }

    #[test]
    fn test_of_vcpu_third_of_six_has_its_id_in_every_leaf() {
        let host = [
            leaf(0x1, 0, [0, 0, 0, 1]),
            leaf(0x4, 1, [0x121, 1, 2, 3]),
            leaf(0x4, 3, [0x163, 1, 2, 3]),
            leaf(0xb, 0, [0; 4]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0x503f, 0]),
            leaf(0x8000_001e, 0, [0x3b, 0x11d, 3, 0]),
        ];
        let cpuid = of_vcpu(&host, true, 2, 6).unwrap();
        let one = find(&cpuid, 1, 0).unwrap();
        assert_eq!((one.ebx, one.edx), (0x0206_0000, EDX_HTT | 1));
        assert_eq!(find(&cpuid, 4, 1).unwrap().eax, 0x121 | 5 << 26);
        assert_eq!(find(&cpuid, 4, 3).unwrap().eax, 0x163 | 5 << 26 | 5 << 14);
        let level = find(&cpuid, 0xb, 1).unwrap();
        assert_eq!((level.eax, level.ebx, level.edx), (3, 6, 2));
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().ecx, 0x3005);
        let amd = find(&cpuid, 0x8000_001e, 0).unwrap();
        assert_eq!((amd.eax, amd.ebx, amd.ecx), (2, 2, 0));
    }

    #[test]
    fn test_of_vcpu_secondary_waits_to_be_started() {
        if !kvm::available("test_of_vcpu_secondary_waits_to_be_started") {
            return;
        }
        let kvm = kvm::open().unwrap();
        let vm = kvm::create_vm(&kvm).unwrap();
        vm.create_irq_chip().unwrap();
        let identity = crate::cpu::Identity::new(&kvm, 2, CpuProfile::Host).unwrap();
        let states = [0, 1].map(|index| {
            let vcpu = crate::cpu::create(&vm, index, &identity).unwrap();
            vcpu.get_mp_state().unwrap().mp_state
        });
        let want = [kvm_bindings::KVM_MP_STATE_RUNNABLE, kvm_bindings::KVM_MP_STATE_UNINITIALIZED];
        assert_eq!(states, want);
    }
}
