//! The vCPU: what it says it is, and the state in which it enters the guest.

mod cpuid;
mod state;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::KvmError;
use crate::boot::Entry;

/// Creates the only vCPU and gives it its identity, which does not depend on the guest.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd) -> Result<VcpuFd, KvmError> {
    let vcpu = vm.create_vcpu(0).map_err(KvmError::request("KVM_CREATE_VCPU"))?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::request("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let cpuid = cpuid::of_single_vcpu(supported.as_slice(), deadline_timer).ok_or_else(|| {
        KvmError::Request {
            request: "KVM_SET_CPUID2",
            error: std::io::Error::from_raw_os_error(libc::E2BIG),
        }
    })?;
    vcpu.set_cpuid2(&cpuid).map_err(KvmError::request("KVM_SET_CPUID2"))?;
    Ok(vcpu)
}

/// Puts the vCPU at the kernel's first instruction, in the state that the 64-bit boot protocol
/// asks for.
pub(crate) fn start_at(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    state::set_msrs(vcpu)?;
    state::set_local_apic(vcpu)?;
    state::set_registers(vcpu, entry)
}
