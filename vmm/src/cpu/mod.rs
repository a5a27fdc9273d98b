//! The vCPU: what it says it is, and the state in which it enters the guest.

mod cpuid;
mod state;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::KvmError;
use crate::boot::Entry;

/// What a vCPU says of itself. It depends on the host, not on the guest, so that one serves all
/// launches.
#[derive(Debug)]
pub(crate) struct Identity {
    cpuid: CpuId,
}

impl Identity {
    /// Asks KVM what it supports.
    pub(crate) fn new(kvm: &Kvm) -> Result<Identity, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::request("KVM_GET_SUPPORTED_CPUID"))?;
        let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        let cpuid = cpuid::of_single_vcpu(supported.as_slice(), deadline_timer);
        let error = || std::io::Error::from_raw_os_error(libc::E2BIG);
        let cpuid =
            cpuid.ok_or_else(|| KvmError::Request { request: "KVM_SET_CPUID2", error: error() })?;
        Ok(Identity { cpuid })
    }
}

/// Creates the only vCPU and gives it its identity.
pub(crate) fn create(vm: &VmFd, identity: &Identity) -> Result<VcpuFd, KvmError> {
    let vcpu = vm.create_vcpu(0).map_err(KvmError::request("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&identity.cpuid).map_err(KvmError::request("KVM_SET_CPUID2"))?;
    Ok(vcpu)
}

/// Puts the vCPU at the kernel's first instruction, in the state that the 64-bit boot protocol
/// asks for.
pub(crate) fn start_at(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    state::set_msrs(vcpu)?;
    state::set_local_apic(vcpu)?;
    state::set_registers(vcpu, entry)
}
