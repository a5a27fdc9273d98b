//! The vCPUs: what they say they are, and the state in which the first enters the guest.

mod cpuid;
mod portable;
mod saved;
mod state;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use thiserror::Error;

pub(crate) use saved::Saved;

use crate::boot::Entry;
use crate::{Error, KvmError};

/// The most vCPUs a guest may have.
pub const VCPUS_MAX: u8 = 8;

/// Why the vCPUs cannot be as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CpuError {
    /// None, or too many.
    #[error("a microVM with {count} vCPUs is not possible: give from 1 to {VCPUS_MAX}")]
    Count {
        /// What was asked for.
        count: u8,
    },
    /// The host lacks a part of the portable profile.
    #[error(
        "this host's KVM does not offer {feature}, which the portable CPU profile promises: use the profile `Host`, or a host with an x86-64-v2 processor"
    )]
    Missing {
        /// The feature's name in Linux's /proc/cpuinfo.
        feature: &'static str,
    },
}

/// What the vCPUs of a guest say of themselves by CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CpuProfile {
    /// All that KVM supports on this host.
    #[default]
    Host,
    /// The same on every host of one vendor, so that a snapshot may move.
    ///
    /// x86-64-v2 (SSE4.2, SSSE3, POPCNT, CX16, LAHF) with NX, x2APIC and the TSC deadline timer;
    /// FXSAVE and no XSAVE, hence no AVX; nothing of leaf 7; no description of caches; no invariant
    /// TSC; 39 bits of physical address. Family, model and stepping are fixed (Intel 6/26/0, AMD
    /// 23/1/2), the brand string too. Of KVM's own features: its clock, and no delays at ports.
    /// The vendor is the host's: kernels choose instructions by it (a hypercall, for one).
    Portable,
}

/// Whether a guest may have so many vCPUs.
pub(crate) fn check_count(count: u8) -> Result<(), CpuError> {
    if (1..=VCPUS_MAX).contains(&count) { Ok(()) } else { Err(CpuError::Count { count }) }
}

/// What each vCPU says of itself. It depends on the host, not on the guest, so that one serves all
/// launches.
#[derive(Debug)]
pub(crate) struct Identity {
    of_vcpus: Vec<CpuId>,
    /// The model-specific registers that make up a vCPU's state.
    msrs: Vec<u32>,
    emulated: bool,
}

impl Identity {
    /// Asks KVM what it supports, and makes of it what `count` vCPUs say.
    pub(crate) fn new(kvm: &Kvm, count: u8, profile: CpuProfile) -> Result<Identity, Error> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::request("KVM_GET_SUPPORTED_CPUID"))?;
        let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        let mut entries = supported.as_slice().to_vec();
        if profile == CpuProfile::Portable {
            if !deadline_timer {
                return Err(CpuError::Missing { feature: "tsc_deadline_timer" }.into());
            }
            entries = portable::reduce(&entries)?;
        }
        let emulated = saved::is_emulated();
        let of_vcpus = (0..count).map(|index| {
            cpuid::of_vcpu(&entries, deadline_timer, index, count).ok_or_else(too_many_entries)
        });
        let of_vcpus = of_vcpus.collect::<Result<_, _>>()?;
        Ok(Identity { of_vcpus, msrs: saved::msr_indices(kvm)?, emulated })
    }

    /// What a vCPU says.
    pub(crate) fn entries(&self, index: usize) -> &[kvm_cpuid_entry2] {
        self.of_vcpus.get(index).map_or(&[], CpuId::as_slice)
    }

    /// Whether the host's processor is software.
    pub(crate) fn is_emulated(&self) -> bool {
        self.emulated
    }

    /// The registers that a snapshot has of each vCPU.
    pub(crate) fn msrs(&self) -> &[u32] {
        &self.msrs
    }
}

fn too_many_entries() -> KvmError {
    let error = std::io::Error::from_raw_os_error(libc::E2BIG);
    KvmError::Request { request: "KVM_SET_CPUID2", error }
}

/// Creates a vCPU and gives it its identity. With KVM's own local APIC, vCPU 0 is ready to run and
/// every other waits until the guest starts it.
pub(crate) fn create(vm: &VmFd, index: u8, identity: &Identity) -> Result<VcpuFd, KvmError> {
    let vcpu = vm.create_vcpu(index.into()).map_err(KvmError::request("KVM_CREATE_VCPU"))?;
    let cpuid = identity.of_vcpus.get(usize::from(index)).ok_or_else(too_many_entries)?;
    vcpu.set_cpuid2(cpuid).map_err(KvmError::request("KVM_SET_CPUID2"))?;
    state::enable_extended_state(&vcpu, cpuid.as_slice())?;
    if index > 0 {
        // As firmware leaves them: a reset by the boot vCPU keeps these registers, and Linux stops
        // all processors to correct those that differ.
        state::set_msrs(&vcpu)?;
    }
    Ok(vcpu)
}

/// Puts the vCPU at the kernel's first instruction, in the state that the 64-bit boot protocol
/// asks for.
pub(crate) fn start_at(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    state::set_msrs(vcpu)?;
    state::set_local_apic(vcpu)?;
    state::set_registers(vcpu, entry)
}
