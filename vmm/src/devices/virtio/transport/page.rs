//! Registers that the guest reads without leaving for the VMM.
//!
//! Each device has a page of memory that shows what its registers read as, in a memory slot that the
//! guest may only read (`KVM_MEM_READONLY`, Linux, Documentation/virt/kvm/api.rst): a read is a
//! plain load, and a write still leaves as MMIO. What an interrupt costs its driver is one exit
//! instead of two, and probing a device costs only its writes.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use virtio_bindings::virtio_mmio as mmio;

use crate::KvmError;
use crate::layout::{VIRTIO_MMIO, VIRTIO_MMIO_STRIDE};

const PAGE_BYTES: usize = VIRTIO_MMIO_STRIDE as usize;
/// The memory slot: those before it are RAM.
const SLOT: u32 = 8;
/// What the generation has beside its number while the configuration changes.
const CHANGING: u32 = 1 << 31;

/// The pages of all virtio devices of a VM.
#[derive(Debug)]
pub(crate) struct RegisterPages {
    start: NonNull<u8>,
    count: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for RegisterPages {}
// SAFETY: as above; only its address is handed out.
unsafe impl Sync for RegisterPages {}

impl RegisterPages {
    /// Gives a VM the pages of `count` devices; `None` if it has none, or a KVM without such slots.
    /// The VM must not run after `self` is gone.
    pub(crate) fn attach(vm: &VmFd, count: usize) -> Result<Option<RegisterPages>, KvmError> {
        if count == 0 || !vm.check_extension(Cap::ReadonlyMem) {
            return Ok(None);
        }
        let request = KvmError::request("KVM_SET_USER_MEMORY_REGION");
        let pages = RegisterPages::map(count).map_err(|error| request(error.into()))?;
        let region = kvm_userspace_memory_region {
            slot: SLOT,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: VIRTIO_MMIO,
            memory_size: (count * PAGE_BYTES) as u64,
            userspace_addr: pages.start.as_ptr() as u64,
        };
        // SAFETY: the range is the mapping, where no RAM of the guest's lies.
        unsafe { vm.set_user_memory_region(region) }.map_err(request)?;
        Ok(Some(pages))
    }

    /// The pages without a VM.
    pub(super) fn map(count: usize) -> io::Result<RegisterPages> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let bytes = count * PAGE_BYTES;
        // SAFETY: a new mapping changes no other.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        let start = match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => start,
            _ => return Err(io::Error::last_os_error()),
        };
        Ok(RegisterPages { start, count })
    }

    /// The page of one device.
    pub(crate) fn page(&self, index: usize) -> Option<RegisterPage> {
        // SAFETY: the page lies within the mapping.
        (index < self.count)
            .then(|| RegisterPage(unsafe { self.start.add(index * PAGE_BYTES).cast() }))
    }
}

impl Drop for RegisterPages {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `attach`. The VM is gone, and so are the devices.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * PAGE_BYTES) };
    }
}

/// One device's page. Whoever has one must let go of it before [`RegisterPages`] goes.
#[derive(Debug)]
pub(crate) struct RegisterPage(NonNull<AtomicU32>);

// SAFETY: as for the mapping; every access is atomic.
unsafe impl Send for RegisterPage {}

impl RegisterPage {
    /// Shows what a register reads as.
    pub(super) fn show(&self, register: u32, value: u32) {
        debug_assert!(register < mmio::VIRTIO_MMIO_CONFIG && register.is_multiple_of(4));
        // SAFETY: registers lie within the page, which is mapped and only used atomically.
        unsafe { self.0.add(register as usize / 4).as_ref() }
            .store(value.to_le(), Ordering::Release);
    }

    /// What a guest reads at `offset`.
    #[cfg(test)]
    pub(super) fn shown(&self, offset: u32) -> u32 {
        // SAFETY: as above.
        let word = unsafe { self.0.add(offset as usize / 4).as_ref() };
        u32::from_le(word.load(Ordering::Acquire))
    }

    /// Shows the configuration space. A driver that reads meanwhile sees the generation change
    /// (section 2.5.3).
    pub(super) fn show_config(&self, space: &[u8], generation: u32) {
        self.show(mmio::VIRTIO_MMIO_CONFIG_GENERATION, generation ^ CHANGING);
        let room = PAGE_BYTES - mmio::VIRTIO_MMIO_CONFIG as usize;
        for (offset, byte) in space.iter().take(room).enumerate() {
            let at = mmio::VIRTIO_MMIO_CONFIG as usize + offset;
            // SAFETY: `at` lies within the page, as above.
            unsafe { self.0.cast::<AtomicU8>().add(at).as_ref() }.store(*byte, Ordering::Release);
        }
        self.show(mmio::VIRTIO_MMIO_CONFIG_GENERATION, generation);
    }
}
