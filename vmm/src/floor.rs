//! The physical floor of virtualization: a KVM guest of one instruction.
//!
//! Nothing that boots a guest can be faster on the same host. The guest is one page of memory and
//! a vCPU in its reset state, moved to that page, which executes `hlt`.

use std::ptr::{self, NonNull};

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VcpuExit;

use crate::clock::now_ns;
use crate::vcpu::VcpuError;
use crate::{Error, KvmError, MemoryError, kvm};

const PAGE_BYTES: usize = 4096;
/// Where the page is for the guest.
const CODE: u64 = 0x1000;
const HLT: u8 = 0xf4;
const RFLAGS: u64 = 2;

/// When the steps of a guest of one instruction were done, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Before /dev/kvm was opened.
    pub start_ns: u64,
    /// VM, memory and vCPU were there.
    pub created_ns: u64,
    /// Just before `KVM_RUN`.
    pub enter_ns: u64,
    /// Right after it.
    pub exit_ns: u64,
    /// All descriptors were closed and the memory unmapped.
    pub clean_ns: u64,
}

/// Makes the guest, runs its instruction, and takes everything down again.
///
/// # Errors
///
/// [`Error::Kvm`] or [`Error::Memory`] if the host cannot make it, [`Error::Vcpu`] if it ended
/// otherwise than by its `hlt`.
pub fn run() -> Result<Floor, Error> {
    let start_ns = now_ns();
    let (created_ns, enter_ns, exit_ns) = guest()?;
    Ok(Floor { start_ns, created_ns, enter_ns, exit_ns, clean_ns: now_ns() })
}

fn guest() -> Result<(u64, u64, u64), Error> {
    // First made, hence last to go.
    let page = Page::new()?;
    let host = kvm::open()?;
    let vm = kvm::create_vm(&host)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE,
        memory_size: PAGE_BYTES as u64,
        userspace_addr: page.0.as_ptr() as u64,
    };
    // SAFETY: the page is mapped until after the VM is gone, and is the VM's only memory.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(KvmError::request("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(KvmError::request("KVM_CREATE_VCPU"))?;
    let created_ns = now_ns();
    let mut system = vcpu.get_sregs().map_err(KvmError::request("KVM_GET_SREGS"))?;
    system.cs.base = 0;
    system.cs.selector = 0;
    vcpu.set_sregs(&system).map_err(KvmError::request("KVM_SET_SREGS"))?;
    let general = kvm_regs { rip: CODE, rflags: RFLAGS, ..Default::default() };
    vcpu.set_regs(&general).map_err(KvmError::request("KVM_SET_REGS"))?;
    let enter_ns = now_ns();
    let exit = loop {
        match vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => break other,
        }
    };
    let exit_ns = now_ns();
    let wrong = match exit {
        Ok(VcpuExit::Hlt) => return Ok((created_ns, enter_ns, exit_ns)),
        Ok(other) => VcpuError::Unexpected { exit: format!("{other:?}"), rip: CODE },
        Err(error) => VcpuError::Run { error: error.into(), rip: CODE },
    };
    Err(wrong.into())
}

/// A page that holds the guest's code.
struct Page(NonNull<u8>);

impl Page {
    fn new() -> Result<Page, MemoryError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice changes no other.
        let start = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                // SAFETY: the page is mapped, writable, and nobody else's.
                unsafe { start.as_ptr().write(HLT) };
                Ok(Page(start))
            }
            _ => Err(MemoryError::Map {
                bytes: PAGE_BYTES as u64,
                error: std::io::Error::last_os_error(),
            }),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once; the VM that used it is gone.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_run_stamps_ascend() {
        if !kvm::available("test_run_stamps_ascend") {
            return;
        }
        let floor = run().unwrap();
        let stamps =
            [floor.start_ns, floor.created_ns, floor.enter_ns, floor.exit_ns, floor.clean_ns];
        assert!(stamps.is_sorted(), "{floor:?}");
        assert!(floor.clean_ns > floor.start_ns);
    }
}
