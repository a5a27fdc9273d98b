//! Registers at the guest's first instruction. 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst): long mode with paging on, interrupts off, flat segments, RSI
//! at the zero page. PVH (docs/misc/pvh.pandoc of Xen): 32-bit protected mode without paging, flat
//! segments, EBX at the start info.

use kvm_bindings::{Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use crate::boot::{CODE_SELECTOR, DATA_SELECTOR, Entry, GDT_ENTRIES, TSS_SELECTOR, descriptor};
use crate::layout::{BOOT_STACK, GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};
use crate::{BootProtocol, KvmError};

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts are off.
const RFLAGS: u64 = 2;

const LEAF_EXTENDED_STATE: u32 = 0xd;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
/// Fast strings, and neither branch trace storage nor precise event sampling (Intel SDM volume 4,
/// table 2-2): the vCPU has no performance counters.
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Enabled, and write-back where no range says otherwise.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Registers of the local APIC (Intel SDM volume 3, 11.5.1) and delivery modes in them.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const APIC_MODE: u32 = 0b111 << 8;
const APIC_MODE_NMI: u32 = 0b100 << 8;
const APIC_MODE_EXTINT: u32 = 0b111 << 8;
const APIC_MASKED: u32 = 1 << 16;

/// What firmware would have set. A host's KVM that knows neither register refuses them one by
/// one; the guest then finds the processor's reset value, with which Linux boots too.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [msr(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK), msr(MSR_IA32_MISC_ENABLE, MISC_ENABLE)];
    // Two entries always fit.
    let Ok(msrs) = Msrs::from_entries(&entries) else { return Ok(()) };
    vcpu.set_msrs(&msrs).map_err(KvmError::request("KVM_SET_MSRS"))?;
    Ok(())
}

/// Enables in XCR0 what CPUID (leaf 0xD) says there is, as firmware may. A guest that enables it
/// itself finds it as it wants it. On an emulated host whose KVM does not notice the guest's XSETBV,
/// that guest would find sizes in leaf 0xD that do not fit, warn at length and do without XSAVE.
pub(super) fn enable_extended_state(
    vcpu: &VcpuFd,
    entries: &[kvm_cpuid_entry2],
) -> Result<(), KvmError> {
    let leaf =
        |entry: &&kvm_cpuid_entry2| entry.function == LEAF_EXTENDED_STATE && entry.index == 0;
    let Some(entry) = entries.iter().find(leaf) else { return Ok(()) };
    let features = u64::from(entry.eax) | u64::from(entry.edx) << 32;
    if features == 0 {
        return Ok(());
    }
    let mut registers = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    registers.xcrs[0].value = features;
    vcpu.set_xcrs(&registers).map_err(KvmError::request("KVM_SET_XCRS"))
}

/// "Virtual wire" mode: the 8259's interrupts come in by LINT0, NMIs by LINT1.
pub(super) fn set_local_apic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut apic = vcpu.get_lapic().map_err(KvmError::request("KVM_GET_LAPIC"))?;
    for (register, mode) in [(APIC_LVT_LINT0, APIC_MODE_EXTINT), (APIC_LVT_LINT1, APIC_MODE_NMI)] {
        let Some(bytes) = apic.regs.get_mut(register..register + 4) else { continue };
        let mut value = 0;
        for (index, byte) in bytes.iter().enumerate() {
            value |= u32::from(*byte as u8) << (8 * index);
        }
        value = value & !(APIC_MODE | APIC_MASKED) | mode;
        for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *byte = new as _;
        }
    }
    vcpu.set_lapic(&apic).map_err(KvmError::request("KVM_SET_LAPIC"))
}

/// General and system registers.
pub(super) fn set_registers(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let mut system = vcpu.get_sregs().map_err(KvmError::request("KVM_GET_SREGS"))?;
    system.gdt.base = GDT;
    system.gdt.limit = (GDT_ENTRIES * 8 - 1) as u16;
    system.idt.base = 0;
    system.idt.limit = 0;
    let protocol = entry.protocol;
    system.cs = descriptor(protocol, CODE_SELECTOR);
    let data = descriptor(protocol, DATA_SELECTOR);
    [system.ds, system.es, system.fs, system.gs, system.ss] = [data; 5];
    system.tr = descriptor(protocol, TSS_SELECTOR);
    system.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    system.cr4 = 0;
    system.efer = 0;
    if protocol == BootProtocol::Linux64 {
        system.cr0 |= CR0_PAGING;
        system.cr3 = PAGE_TABLES;
        system.cr4 = CR4_PAE;
        system.efer = EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE;
    }
    vcpu.set_sregs(&system).map_err(KvmError::request("KVM_SET_SREGS"))?;
    let general = kvm_regs {
        rip: entry.address,
        rsi: ZERO_PAGE,
        rbx: START_INFO,
        rsp: BOOT_STACK,
        rbp: BOOT_STACK,
        rflags: RFLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&general).map_err(KvmError::request("KVM_SET_REGS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuProfile, cpu, kvm};

    #[test]
    fn test_enable_extended_state_sets_xcr0_to_what_cpuid_has() {
        if !kvm::available("test_enable_extended_state") {
            return;
        }
        let kvm = kvm::open().unwrap();
        let vm = kvm::create_vm(&kvm).unwrap();
        vm.create_irq_chip().unwrap();
        let identity = cpu::Identity::new(&kvm, 1, CpuProfile::Host).unwrap();
        let vcpu = cpu::create(&vm, 0, &identity).unwrap();
        let leaf = |entry: &&kvm_cpuid_entry2| (entry.function, entry.index) == (0xd, 0);
        let Some(entry) = identity.entries(0).iter().find(leaf) else { return };
        let wanted = u64::from(entry.eax) | u64::from(entry.edx) << 32;
        assert_eq!(vcpu.get_xcrs().unwrap().xcrs[0].value, wanted.max(1));
        // The size of what is enabled is that of all there is.
        let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap();
        let now = cpuid.as_slice().iter().find(leaf).unwrap();
        assert_eq!(now.ebx, now.ecx);
    }

    #[test]
    fn test_enable_extended_state_asks_nothing_of_a_vcpu_without() {
        if !kvm::available("test_enable_extended_state_asks_nothing") {
            return;
        }
        let vm = kvm::create_vm(&kvm::open().unwrap()).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        enable_extended_state(&vcpu, &[]).unwrap();
        let bare = kvm_cpuid_entry2 { function: LEAF_EXTENDED_STATE, ..Default::default() };
        enable_extended_state(&vcpu, &[bare]).unwrap();
    }
}
