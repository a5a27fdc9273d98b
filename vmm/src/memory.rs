//! Guest RAM: one anonymous mapping, in large pages where the host has them.

use std::fs::File;
use std::io;
use std::ops::Range;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::boot::{Image, Piece};
use crate::filled::Run;
use crate::layout::{HOLE_END, HOLE_START, LOW_END};
use crate::mapping::{HUGE_PAGE_BYTES, Mapping};
use crate::snapshot::{Extent, Id};
use crate::{KvmError, Pages};

/// The least RAM a guest may have: 16 MiB.
pub const MEMORY_MIN_BYTES: u64 = 16 << 20;
/// The most RAM a guest may have: 64 GiB.
pub const MEMORY_MAX_BYTES: u64 = 64 << 30;
/// Guest RAM's name in /proc/PID/smaps (`[anon:tare-guest-ram]`), where the host's kernel has
/// `CONFIG_ANON_VMA_NAME`. Elsewhere guest RAM is the mapping with the flag `hg` (advised to use
/// huge pages), which the VMM sets on nothing else, and the one before it of 2 MiB with the flag `nh`,
/// where boot data are alone in that.
pub const GUEST_RAM_NAME: &str = "tare-guest-ram";

const PAGE_BYTES: u64 = 4096;

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
    /// Not a multiple of 2 MiB.
    #[error(
        "guest memory of {bytes} bytes cannot be made of pages of 2 MiB: give a multiple of 2097152"
    )]
    HugeSize {
        /// What was asked for.
        bytes: u64,
    },
    /// The host's pool of huge pages does not suffice.
    #[error(
        "the host has no {needed} free huge pages of 2 MiB for guest memory: {error}; add them (`echo N > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`), or use transparent huge pages",
        needed = bytes >> 21
    )]
    Huge {
        /// What was asked for.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The memory could not be allocated at once.
    #[error(
        "cannot allocate {bytes} bytes of guest memory at once: {error}; ask for less, free memory on the host, or leave out the prefault (it needs Linux 5.14)"
    )]
    Prefault {
        /// What was asked for.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        error: io::Error,
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
    /// Memory could not be filled before a launch.
    #[error(
        "cannot fill guest memory of {bytes} bytes before its launch: {error}; free memory on the host, or launch without that"
    )]
    Ahead {
        /// Size of the guest's memory.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// Memory that was filled for other guests.
    #[error(
        "this memory was filled for a guest of another configuration: launch with what filled it"
    )]
    Foreign,
    /// An image could not be copied into it.
    #[error(
        "cannot copy the guest's image into its memory: {0}; see whether the host has run out of memory"
    )]
    Fill(#[source] io::Error),
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
    /// What it had from the start, of the file that it, or a part of it, was mapped from.
    base: Vec<Extent>,
    /// Which snapshot that file is of.
    origin: Option<Id>,
}

impl GuestRam {
    /// Maps `bytes` of zeroed memory, without touching a page of it unless it is to be there at once.
    pub(crate) fn new(bytes: u64, pages: Pages, prefault: bool) -> Result<GuestRam, MemoryError> {
        let mapping = anonymous(bytes, pages)?;
        populate(&mapping, prefault)?;
        GuestRam::lay_out(mapping, bytes, Mapping::FLAGS, Vec::new())
    }

    /// As [`new`](GuestRam::new), with `runs` of `file`, which was filled before, in their places.
    pub(crate) fn filled(
        bytes: u64,
        pages: Pages,
        prefault: bool,
        file: &File,
        runs: &[Run],
    ) -> Result<GuestRam, MemoryError> {
        let mapping = anonymous(bytes, pages)?;
        let mut base = Vec::with_capacity(runs.len());
        for Run { first, count } in runs {
            let start = first * HUGE_PAGE_BYTES;
            let end = (start + count * HUGE_PAGE_BYTES).min(mapping.bytes());
            mapping.share(file, start..end).map_err(|error| MemoryError::Map { bytes, error })?;
            base.push(Extent { offset: start as u64, bytes: (end - start) as u64 });
        }
        populate(&mapping, prefault)?;
        // Whoever gives pages back must know that parts are of a file that is the guest's own.
        GuestRam::lay_out(mapping, bytes, Mapping::FLAGS | libc::MAP_SHARED, base)
    }

    /// Maps `bytes` of `file` so that what is written stays with this guest: pages come as they are
    /// used, and all guests of one file share those that none of them has changed. `base` says where the file is not zero.
    pub(crate) fn from_file(
        bytes: u64,
        file: &File,
        base: Vec<Extent>,
    ) -> Result<GuestRam, MemoryError> {
        check_size(bytes, Pages::Small)?;
        let mapping = Mapping::of_file(file, bytes as usize)
            .map_err(|error| MemoryError::Map { bytes, error })?;
        // Whoever gives pages back must know that the file is behind them.
        GuestRam::lay_out(mapping, bytes, Mapping::FLAGS & !libc::MAP_ANONYMOUS, base)
    }

    fn lay_out(
        mapping: Mapping,
        bytes: u64,
        flags: i32,
        base: Vec<Extent>,
    ) -> Result<GuestRam, MemoryError> {
        let layout = |reason: String| MemoryError::Layout { bytes, reason };
        let mut regions = Vec::with_capacity(2);
        for (start, offset, length) in ranges(bytes) {
            // SAFETY: the range lies within `mapping`, which `GuestRam` keeps for longer than the
            // region, and was mapped with these very flags.
            let region = unsafe {
                MmapRegion::build_raw(
                    mapping.start().add(offset as usize),
                    length as usize,
                    Mapping::PROTECTION,
                    flags,
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
        Ok(GuestRam { memory, mapping, base, origin: None })
    }

    /// Says which snapshot the file is of that it was mapped from.
    pub(crate) fn with_origin(self, id: Id) -> GuestRam {
        GuestRam { origin: Some(id), ..self }
    }

    /// Which snapshot it was mapped from.
    pub(crate) fn origin(&self) -> Option<Id> {
        self.origin
    }

    /// Gives the RAM to a VM, a slot for each range. The VM must not run after `self` is gone.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<(), KvmError> {
        for (slot, (start, offset, length)) in ranges(self.bytes()).enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start,
                memory_size: length,
                userspace_addr: self.mapping.start() as u64 + offset,
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
        self.mapping.bytes() as u64
    }

    /// Where it is in this process.
    pub(crate) fn host_range(&self) -> Range<usize> {
        let start = self.mapping.start() as usize;
        start..start + self.mapping.bytes()
    }

    /// What it had from the start.
    pub(crate) fn base(&self) -> &[Extent] {
        &self.base
    }

    /// Tells the host that pages will be needed, by an advice that does not change contents
    /// (`MADV_POPULATE_WRITE`, `MADV_WILLNEED`). The host may be unable to.
    pub(crate) fn advise(&self, offset: u64, bytes: u64, advice: i32) {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.bytes());
        if end.is_some() {
            // SAFETY: the range lies within the mapping, and neither advice changes contents.
            unsafe {
                let start = self.mapping.start().add(offset as usize);
                libc::madvise(start.cast(), bytes as usize, advice);
            }
        }
    }

    /// Whether the page at `offset` needs no reading from a disk.
    pub(crate) fn is_resident(&self, offset: u64) -> bool {
        let mut state = 0;
        let page = usize::try_from(offset).ok().filter(|&page| page < self.mapping.bytes());
        page.is_some_and(|page| {
            // SAFETY: the page lies within the mapping, which is whole pages; the answer is one
            // byte, which `state` is.
            let asked = unsafe {
                let start = self.mapping.start().add(page & !(PAGE_BYTES as usize - 1));
                libc::mincore(start.cast(), PAGE_BYTES as usize, &raw mut state)
            };
            asked == 0 && state & 1 != 0
        })
    }

    /// What is at `offset` of the RAM without its hole, while no guest runs.
    pub(crate) fn host_bytes(&self, offset: usize, bytes: usize) -> Option<&[u8]> {
        offset.checked_add(bytes).filter(|&end| end <= self.mapping.bytes())?;
        // SAFETY: the range lies within the mapping. No vCPU and no device runs, so nobody writes;
        // this crate's only writers beside them take `&self` on this very thread.
        Some(unsafe { std::slice::from_raw_parts(self.mapping.start().add(offset), bytes) })
    }

    /// Copies `bytes` to guest-physical `address`; an error if that is not all RAM.
    #[cfg(test)]
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        vm_memory::Bytes::write_slice(&self.memory, bytes, GuestAddress(address))
            .map_err(io::Error::other)
    }

    /// Puts the pieces of an image at their places. Boot data that are alone in their large page are
    /// given no transparent one: it would be cleared for a few pages. What the host's own thread
    /// gathered into one later would cost the same.
    pub(crate) fn fill(&self, image: &Image, pages: Pages) -> Result<(), MemoryError> {
        if pages == Pages::Thp && image.is_apart() {
            self.mapping.begin_small(LOW_END as usize);
        }
        let view = image.view().map_err(MemoryError::Fill)?;
        let short = || MemoryError::Fill(io::ErrorKind::UnexpectedEof.into());
        for Piece { address, offset, bytes } in image.pieces() {
            let found = offset.checked_add(*bytes).and_then(|end| view.bytes().get(*offset..end));
            // An image lies below the hole, where an address is an offset too.
            if !self.mapping.fill(*address as usize, found.ok_or_else(short)?) {
                return Err(short());
            }
        }
        Ok(())
    }
}

fn anonymous(bytes: u64, pages: Pages) -> Result<Mapping, MemoryError> {
    check_size(bytes, pages)?;
    Mapping::new(bytes as usize, pages).map_err(|error| match pages {
        Pages::Huge2M => MemoryError::Huge { bytes, error },
        _ => MemoryError::Map { bytes, error },
    })
}

fn populate(mapping: &Mapping, prefault: bool) -> Result<(), MemoryError> {
    let bytes = mapping.bytes() as u64;
    let done = if prefault { mapping.populate() } else { Ok(()) };
    done.map_err(|error| MemoryError::Prefault { bytes, error })
}

/// Whether a guest may have so much.
pub(crate) fn check_size(bytes: u64, pages: Pages) -> Result<(), MemoryError> {
    if pages == Pages::Huge2M && !bytes.is_multiple_of(HUGE_PAGE_BYTES as u64) {
        return Err(MemoryError::HugeSize { bytes });
    }
    let whole = bytes.is_multiple_of(PAGE_BYTES);
    if whole && (MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&bytes) {
        return Ok(());
    }
    Err(MemoryError::Size { bytes })
}

/// End of the RAM below the hole, of a guest with so many bytes.
pub(crate) fn low_end(bytes: u64) -> u64 {
    bytes.min(HOLE_START)
}

/// `(guest-physical start, offset in the mapping, length)` of each range of RAM.
pub(crate) fn ranges(bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let low = bytes.min(HOLE_START);
    [(0, 0, low), (HOLE_END, low, bytes - low)].into_iter().filter(|&(_, _, length)| length > 0)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn test_new_too_little_too_much_or_odd_returns_size_error() {
        for bytes in
            [0, MEMORY_MIN_BYTES - 4096, MEMORY_MIN_BYTES + 1, MEMORY_MAX_BYTES + 4096, u64::MAX]
        {
            let error = GuestRam::new(bytes, Pages::Thp, false).unwrap_err();
            assert!(matches!(error, MemoryError::Size { bytes: b } if b == bytes), "{error}");
            assert!(error.to_string().contains("16 MiB"), "{error}");
        }
    }

    #[test]
    fn test_new_is_aligned_and_zero() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES, Pages::Thp, false).unwrap();
        assert_eq!(ram.host_range().start % HUGE_PAGE_BYTES, 0);
        assert_eq!(ram.host_range().len() as u64, MEMORY_MIN_BYTES);
        let byte: u8 = ram.memory().read_obj(GuestAddress(MEMORY_MIN_BYTES - 1)).unwrap();
        assert_eq!(byte, 0);
    }

    #[test]
    fn test_new_is_found_in_smaps_by_name_or_flag() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES, Pages::Thp, false).unwrap();
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
        let ram = GuestRam::new(MEMORY_MAX_BYTES, Pages::Thp, false).unwrap();
        assert!(ram.write(HOLE_START - 1, &[1]).is_ok());
        assert!(ram.write(HOLE_START, &[1]).is_err());
        assert!(ram.write(HOLE_END - 1, &[1]).is_err());
        assert!(ram.write(HOLE_END, &[1]).is_ok());
        assert!(ram.write(MEMORY_MAX_BYTES + (1 << 30) - 1, &[1]).is_ok());
        assert!(ram.write(MEMORY_MAX_BYTES + (1 << 30), &[1]).is_err());
    }

    #[test]
    fn test_fill_gives_boot_data_that_are_alone_small_pages() {
        let advised = |kernel_start: u64| {
            let draft = Image::of(&[(0x7000, b"boot data"), (kernel_start, b"kernel")]);
            let ram = GuestRam::new(MEMORY_MIN_BYTES, Pages::Thp, false).unwrap();
            ram.fill(&draft, Pages::Thp).unwrap();
            let byte: u8 = ram.memory().read_obj(GuestAddress(0x7000)).unwrap();
            assert_eq!(byte, b'b');
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let head = format!("{:x}-", ram.host_range().start);
            let block = smaps.split_once(&head).expect("RAM is mapped").1;
            let flags = block.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
            (flags.contains(" hg"), flags.contains(" nh"))
        };
        assert_eq!(advised(LOW_END), (false, true));
        assert_eq!(advised(LOW_END - 4096), (true, false));
    }

    #[test]
    fn test_new_huge_pages_or_names_the_remedy() {
        let error = GuestRam::new(MEMORY_MIN_BYTES + 4096, Pages::Huge2M, false).unwrap_err();
        assert!(error.to_string().contains("multiple of 2097152"), "{error}");
        match GuestRam::new(MEMORY_MIN_BYTES, Pages::Huge2M, true) {
            Ok(ram) => assert!(ram.write(MEMORY_MIN_BYTES - 1, &[1]).is_ok()),
            Err(error) => assert!(error.to_string().contains("nr_hugepages"), "{error}"),
        }
    }

    #[test]
    fn test_new_prefault_makes_all_of_it_resident_in_small_pages() {
        let ram = GuestRam::new(MEMORY_MIN_BYTES, Pages::Small, true).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let head = format!("{:x}-{:x}", ram.host_range().start, ram.host_range().end);
        let block = smaps.split_once(&head).expect("the mapping is one VMA").1;
        let value = |field: &str| {
            let line = block.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((value("Rss:"), value("AnonHugePages:")), (MEMORY_MIN_BYTES >> 10, 0));
        let flags = block.lines().find(|line| line.starts_with("VmFlags:"));
        assert!(flags.unwrap().contains(" dd"), "kept out of core dumps: {flags:?}");
    }
}
