//! Guest RAM: one anonymous mapping, in large pages where the host has them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

use crate::KvmError;
use crate::layout::{HOLE_END, HOLE_START};

/// The least RAM a guest may have: 16 MiB.
pub const MEMORY_MIN_BYTES: u64 = 16 << 20;
/// The most RAM a guest may have: 64 GiB.
pub const MEMORY_MAX_BYTES: u64 = 64 << 30;
/// Guest RAM's name in /proc/PID/smaps (`[anon:tare-guest-ram]`), where the host's kernel has
/// `CONFIG_ANON_VMA_NAME`. Elsewhere guest RAM is the mapping with the flag `hg` (advised to use
/// huge pages), which the VMM sets on nothing else.
pub const GUEST_RAM_NAME: &str = "tare-guest-ram";

const NAME_WITH_NUL: &std::ffi::CStr = c"tare-guest-ram";
const PAGE_BYTES: u64 = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why guest RAM could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Too little, too much, or not whole pages.
    #[error(
        "guest memory of {bytes} bytes is not possible: give from 16 MiB ({MEMORY_MIN_BYTES}) to \
         64 GiB ({MEMORY_MAX_BYTES}), a multiple of 4096 bytes"
    )]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The host would not map so much.
    #[error(
        "cannot map {bytes} bytes of guest memory: {error}; ask for less, or raise the limit on address space (`ulimit -v`)"
    )]
    Map {
        /// What was asked for.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The mapping could not be described as guest memory.
    #[error(
        "cannot lay out {bytes} bytes of guest memory: {reason}; this is a defect, please report it"
    )]
    Layout {
        /// What was asked for.
        bytes: u64,
        /// What the memory library said.
        reason: String,
    },
}

/// RAM of one guest, laid out around the hole below 4 GiB.
#[derive(Debug)]
pub(crate) struct GuestRam {
    // Declared before `mapping`, so that nothing refers to the mapping when it goes.
    memory: GuestMemoryMmap,
    mapping: Mapping,
}

impl GuestRam {
    /// Maps `bytes` of zeroed memory without touching a page of it.
    pub(crate) fn new(bytes: u64) -> Result<GuestRam, MemoryError> {
        let whole = bytes.is_multiple_of(PAGE_BYTES);
        if !whole || !(MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&bytes) {
            return Err(MemoryError::Size { bytes });
        }
        let mapping =
            Mapping::new(bytes as usize).map_err(|error| MemoryError::Map { bytes, error })?;
        let layout = |reason: String| MemoryError::Layout { bytes, reason };
        let mut regions = Vec::with_capacity(2);
        for (start, offset, length) in ranges(bytes) {
            // SAFETY: the range lies within `mapping`, which `GuestRam` keeps for longer than the
            // region, and was mapped with these very flags.
            let region = unsafe {
                MmapRegion::build_raw(
                    mapping.start.as_ptr().add(offset as usize),
                    length as usize,
                    Mapping::PROTECTION,
                    Mapping::FLAGS,
                )
            };
            let region = region.map_err(|error| layout(error.to_string()))?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(start))
                    .ok_or_else(|| layout("the address space wraps".to_owned()))?,
            );
        }
        let memory =
            GuestMemoryMmap::from_regions(regions).map_err(|error| layout(error.to_string()))?;
        Ok(GuestRam { memory, mapping })
    }

    /// Gives the RAM to a VM, a slot for each range. The VM must not run after `self` is gone.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<(), KvmError> {
        for (slot, (start, offset, length)) in ranges(self.bytes()).enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start,
                memory_size: length,
                userspace_addr: self.mapping.start.as_ptr() as u64 + offset,
            };
            // SAFETY: the range lies within the mapping, and the ranges do not overlap. KVM pins
            // nothing: were the mapping gone, the guest would fault, not the host.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(KvmError::request("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// The guest's view of it, for the virtqueues.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.mapping.length as u64
    }

    /// End of the RAM that lies below the hole.
    pub(crate) fn low_end(&self) -> u64 {
        self.bytes().min(HOLE_START)
    }

    /// Where it is in this process.
    pub(crate) fn host_range(&self) -> Range<usize> {
        let start = self.mapping.start.as_ptr() as usize;
        start..start + self.mapping.length
    }

    /// Copies `bytes` to guest-physical `address`; an error if that is not all RAM.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_slice(bytes, GuestAddress(address)).map_err(io::Error::other)
    }

    /// Reads `length` bytes at `offset` of `file` straight into guest RAM: no mapping of the file
    /// to set up and tear down, and no fault can hit this process if the file shrinks meanwhile.
    pub(crate) fn read_file(
        &self,
        address: u64,
        file: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(length).map_err(too_long)?;
        let slice =
            self.memory.get_slice(GuestAddress(address), length).map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        let mut done = 0;
        while done < length {
            let at = i64::try_from(offset + done as u64).map_err(too_long)?;
            // SAFETY: `guard` covers `length` bytes that are mapped and writable; no vCPU runs yet
            // and the kernel copies, so no Rust reference to the bytes exists.
            let read = unsafe {
                libc::pread(file.as_raw_fd(), guard.as_ptr().add(done).cast(), length - done, at)
            };
            match read {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                1.. => done += read as usize,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// `(guest-physical start, offset in the mapping, length)` of each range of RAM.
pub(crate) fn ranges(bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let low = bytes.min(HOLE_START);
    [(0, 0, low), (HOLE_END, low, bytes - low)].into_iter().filter(|&(_, _, length)| length > 0)
}

/// An anonymous private mapping whose start is aligned to a large page.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; `Mapping` only ever hands out its
// address, and every access to the bytes goes through vm-memory's volatile operations or the
// kernel.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method changes the mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

    fn new(length: usize) -> io::Result<Mapping> {
        let mut mapping = Mapping::map(length)?;
        // Linux 6.7 and later align large mappings by themselves; on others map once more with
        // slack and give back what is not aligned. A large page of the host must be one of the
        // guest too, or KVM maps it in small ones.
        if !(mapping.start.as_ptr() as usize).is_multiple_of(HUGE_PAGE_BYTES) {
            drop(mapping);
            mapping = Mapping::map(length + HUGE_PAGE_BYTES)?;
            mapping.trim(length);
        }
        mapping.advise();
        Ok(mapping)
    }

    fn map(length: usize) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice changes no other.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, Mapping::PROTECTION, Mapping::FLAGS, -1, 0)
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Mapping { start, length })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Keeps `length` bytes from the first aligned address on.
    fn trim(&mut self, length: usize) {
        let address = self.start.as_ptr() as usize;
        let head = address.next_multiple_of(HUGE_PAGE_BYTES) - address;
        let tail = self.length - head - length;
        // SAFETY: both ends lie in this mapping, and nothing has been told of them. `head` is less
        // than the slack, so the start stays within it, hence not null.
        unsafe {
            let start = self.start.as_ptr();
            if head > 0 {
                libc::munmap(start.cast(), head);
            }
            if tail > 0 {
                libc::munmap(start.add(head + length).cast(), tail);
            }
            self.start = NonNull::new_unchecked(start.add(head));
        }
        self.length = length;
    }

    /// Asks for large pages and gives the mapping its name. A host that knows neither loses speed
    /// or a name, nothing else, so what it answers is ignored.
    fn advise(&self) {
        let start = self.start.as_ptr();
        // SAFETY: advice and a name for a mapping of ours; neither changes its contents.
        unsafe {
            libc::madvise(start.cast(), self.length, libc::MADV_HUGEPAGE);
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME as libc::c_ulong,
                start,
                self.length,
                NAME_WITH_NUL.as_ptr(),
            );
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever could use it borrows from its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn test_new_too_little_too_much_or_odd_returns_size_error() {
        for bytes in
            [0, MEMORY_MIN_BYTES - 4096, MEMORY_MIN_BYTES + 1, MEMORY_MAX_BYTES + 4096, u64::MAX]
        {
            let error = GuestRam::new(bytes).unwrap_err();
            assert!(matches!(error, MemoryError::Size { bytes: b } if b == bytes), "{error}");
            assert!(error.to_string().contains("16 MiB"), "{error}");
        }
    }

    #[test]
    fn test_new_is_aligned_and_zero() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES).unwrap();
        assert_eq!(ram.host_range().start % HUGE_PAGE_BYTES, 0);
        assert_eq!(ram.host_range().len() as u64, MEMORY_MIN_BYTES);
        let byte: u8 = ram.memory().read_obj(GuestAddress(MEMORY_MIN_BYTES - 1)).unwrap();
        assert_eq!(byte, 0);
    }

    #[test]
    fn test_new_is_found_in_smaps_by_name_or_flag() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let head = format!("{:x}-{:x}", ram.host_range().start, ram.host_range().end);
        let block = smaps.split_once(&head).expect("the mapping is one VMA").1;
        let block = &block[..block.find("VmFlags").map(|at| at + 200).unwrap().min(block.len())];
        assert!(block.contains(GUEST_RAM_NAME) || block.contains(" hg"), "{block}");
    }

    #[test]
    fn test_ranges_around_the_hole() {
        let all = |bytes| ranges(bytes).collect::<Vec<_>>();
        assert_eq!(all(16 << 20), [(0, 0, 16 << 20)]);
        assert_eq!(all(HOLE_START), [(0, 0, HOLE_START)]);
        assert_eq!(all(HOLE_START + 4096), [(0, 0, HOLE_START), (HOLE_END, HOLE_START, 4096)]);
    }

    #[test]
    fn test_large_ram_has_nothing_in_the_hole() {
        let ram = GuestRam::new(MEMORY_MAX_BYTES).unwrap();
        assert!(ram.write(HOLE_START - 1, &[1]).is_ok());
        assert!(ram.write(HOLE_START, &[1]).is_err());
        assert!(ram.write(HOLE_END - 1, &[1]).is_err());
        assert!(ram.write(HOLE_END, &[1]).is_ok());
        assert!(ram.write(MEMORY_MAX_BYTES + (1 << 30) - 1, &[1]).is_ok());
        assert!(ram.write(MEMORY_MAX_BYTES + (1 << 30), &[1]).is_err());
    }

    #[test]
    fn test_read_file_shorter_than_asked_returns_unexpected_eof() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abcdef").unwrap();
        ram.read_file(0x1000, &file, 2, 4).unwrap();
        let mut bytes = [0; 4];
        ram.memory().read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
        assert_eq!(&bytes, b"cdef");
        let error = ram.read_file(0x1000, &file, 2, 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ram.read_file(MEMORY_MIN_BYTES - 2, &file, 0, 4).is_err());
        assert!(ram.read_file(u64::MAX - 2, &file, 0, 4).is_err());
    }
}
