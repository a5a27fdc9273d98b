//! The state of a vCPU, taken and given back.
//!
//! What must come before what is in Documentation/virt/kvm/api.rst and arch/x86/kvm/x86.c of Linux:
//! system registers before the local APIC (they hold its base), the control registers of extended
//! state before that state, the local APIC before the model-specific registers (its timer's deadline
//! is one), and whether it runs last.

use core::arch::x86_64::__cpuid;

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::KvmError;
use crate::snapshot::{FormatError, Kind, Sections, Writer};

/// `IA32_TSC_DEADLINE` (Intel SDM volume 4): counts from the time-stamp counter, so it comes after.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// What `kvm_xsave` holds. A guest may need more only with AMX, which a process has to ask for.
const XSAVE_BYTES: i32 = 4096;

/// A task-state segment's type has this bit while its task runs (Intel SDM volume 3, 9.2.2).
const TASK_STATE_BUSY: u8 = 2;
/// Where a hypervisor, or an emulator, gives its name.
const LEAF_HYPERVISOR: u32 = 0x4000_0000;
/// "TCGTCGTCGTCG" in EBX, ECX, EDX.
const TCG_SIGNATURE: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];

/// All registers of a vCPU.
pub(crate) struct Saved {
    registers: kvm_regs,
    system: kvm_sregs,
    /// Absent without XSAVE.
    extended_control: Option<kvm_xcrs>,
    extended: Box<kvm_xsave>,
    local_apic: kvm_lapic_state,
    model_specific: Msrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    running: kvm_mp_state,
    tsc_khz: u32,
}

/// The model-specific registers that make up a vCPU's state on this host.
pub(crate) fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, KvmError> {
    let list = kvm.get_msr_index_list().map_err(KvmError::request("KVM_GET_MSR_INDEX_LIST"))?;
    let mut indices = list.as_slice().to_vec();
    indices.sort_by_key(|&index| index == MSR_TSC_DEADLINE);
    Ok(indices)
}

impl Saved {
    /// Reads a vCPU that is not running. `vm` and `indices` are the vCPU's.
    pub(crate) fn of(vm: &VmFd, vcpu: &VcpuFd, indices: &[u32]) -> Result<Saved, KvmError> {
        if vm.check_extension_int(Cap::Xsave2) > XSAVE_BYTES {
            let error = std::io::Error::from_raw_os_error(libc::E2BIG);
            return Err(KvmError::Request { request: "KVM_GET_XSAVE", error });
        }
        // Read first: KVM settles what the guest's last halt or start left to be done.
        let running = vcpu.get_mp_state().map_err(KvmError::request("KVM_GET_MP_STATE"))?;
        Ok(Saved {
            registers: vcpu.get_regs().map_err(KvmError::request("KVM_GET_REGS"))?,
            system: vcpu.get_sregs().map_err(KvmError::request("KVM_GET_SREGS"))?,
            extended_control: vcpu.get_xcrs().ok(),
            extended: Box::new(vcpu.get_xsave().map_err(KvmError::request("KVM_GET_XSAVE"))?),
            local_apic: vcpu.get_lapic().map_err(KvmError::request("KVM_GET_LAPIC"))?,
            model_specific: read_msrs(vcpu, indices)?,
            debug: vcpu.get_debug_regs().map_err(KvmError::request("KVM_GET_DEBUGREGS"))?,
            events: vcpu.get_vcpu_events().map_err(KvmError::request("KVM_GET_VCPU_EVENTS"))?,
            running,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
        })
    }

    /// Adds it to a snapshot.
    pub(crate) fn write(&self, writer: &mut Writer, index: usize) {
        writer.section(Kind::Registers, index, &self.registers);
        writer.section(Kind::SystemRegisters, index, &self.system);
        if let Some(xcrs) = &self.extended_control {
            writer.section(Kind::ExtendedControl, index, xcrs);
        }
        writer.section(Kind::ExtendedState, index, &*self.extended);
        writer.section(Kind::LocalApic, index, &self.local_apic);
        writer.section(Kind::ModelSpecific, index, self.model_specific.as_slice());
        writer.section(Kind::Debug, index, &self.debug);
        writer.section(Kind::Events, index, &self.events);
        writer.section(Kind::Running, index, &self.running);
        writer.section(Kind::TscFrequency, index, &self.tsc_khz);
    }

    /// Takes it from a snapshot.
    pub(crate) fn read(sections: &Sections, index: usize) -> Result<Saved, FormatError> {
        let msrs = sections.values::<kvm_msr_entry>(Kind::ModelSpecific, index)?;
        let odd = FormatError::Section(Kind::ModelSpecific as u32, index as u32);
        Ok(Saved {
            registers: sections.value(Kind::Registers, index)?,
            system: sections.value(Kind::SystemRegisters, index)?,
            extended_control: sections.value(Kind::ExtendedControl, index).ok(),
            extended: Box::new(sections.value(Kind::ExtendedState, index)?),
            local_apic: sections.value(Kind::LocalApic, index)?,
            model_specific: Msrs::from_entries(&msrs).map_err(|_| odd)?,
            debug: sections.value(Kind::Debug, index)?,
            events: sections.value(Kind::Events, index)?,
            running: sections.value(Kind::Running, index)?,
            tsc_khz: sections.value(Kind::TscFrequency, index)?,
        })
    }

    /// Gives it to a fresh vCPU that has its CPUID. `emulated` is what [`is_emulated`] says.
    pub(crate) fn give(&self, vcpu: &VcpuFd, emulated: bool) -> Result<(), KvmError> {
        // A host of another frequency scales the counter, or says here that it cannot.
        if self.tsc_khz != 0 && vcpu.get_tsc_khz() != Ok(self.tsc_khz) {
            vcpu.set_tsc_khz(self.tsc_khz).map_err(KvmError::request("KVM_SET_TSC_KHZ"))?;
        }
        let mut system = self.system;
        if emulated {
            system.tr.type_ &= !TASK_STATE_BUSY;
        }
        vcpu.set_sregs(&system).map_err(KvmError::request("KVM_SET_SREGS"))?;
        if let Some(xcrs) = &self.extended_control {
            vcpu.set_xcrs(xcrs).map_err(KvmError::request("KVM_SET_XCRS"))?;
        }
        // SAFETY: the guest has no state beyond `kvm_xsave`, or `of` would have refused.
        unsafe { vcpu.set_xsave(&self.extended) }.map_err(KvmError::request("KVM_SET_XSAVE"))?;
        vcpu.set_lapic(&self.local_apic).map_err(KvmError::request("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, &self.model_specific)?;
        vcpu.set_debug_regs(&self.debug).map_err(KvmError::request("KVM_SET_DEBUGREGS"))?;
        vcpu.set_vcpu_events(&self.events).map_err(KvmError::request("KVM_SET_VCPU_EVENTS"))?;
        vcpu.set_regs(&self.registers).map_err(KvmError::request("KVM_SET_REGS"))?;
        vcpu.set_mp_state(self.running).map_err(KvmError::request("KVM_SET_MP_STATE"))
    }
}

/// Whether the host's processor is QEMU's software emulation (TCG), which lets a program use the
/// ports that its task state allows only while the task's descriptor is not marked busy
/// (`check_io`, target/i386/tcg/seg_helper.c). KVM marks it when it reads it on AMD's processors,
/// which do not care.
pub(crate) fn is_emulated() -> bool {
    let leaf = __cpuid(LEAF_HYPERVISOR);
    [leaf.ebx, leaf.ecx, leaf.edx] == TCG_SIGNATURE
}

/// KVM stops at the first register that it does not have: its list names some that only other
/// processors have.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Msrs, KvmError> {
    let failed = || KvmError::request("KVM_GET_MSRS");
    let mut left: Vec<_> =
        indices.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut found = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let too_many = |_| failed()(kvm_ioctls::Error::new(libc::E2BIG));
        let mut msrs = Msrs::from_entries(&left).map_err(too_many)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(failed())?.min(left.len());
        found.extend_from_slice(&msrs.as_slice()[..count]);
        left.drain(..(count + 1).min(left.len()));
    }
    Msrs::from_entries(&found).map_err(|_| failed()(kvm_ioctls::Error::new(libc::E2BIG)))
}

fn write_msrs(vcpu: &VcpuFd, msrs: &Msrs) -> Result<(), KvmError> {
    let count = vcpu.set_msrs(msrs).map_err(KvmError::request("KVM_SET_MSRS"))?;
    match msrs.as_slice().get(count) {
        None => Ok(()),
        Some(entry) => Err(KvmError::Register { index: entry.index, value: entry.data }),
    }
}
