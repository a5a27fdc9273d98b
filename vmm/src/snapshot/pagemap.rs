//! What the host's page tables say of guest RAM: which pages anybody has come to, and which of a
//! mapped file somebody has written to.
//!
//! Linux 6.7 answers with ranges (`PAGEMAP_SCAN`), older ones page by page
//! (Documentation/admin-guide/mm/pagemap.rst). Neither asks who it was: a page that a device of the
//! VMM has written is as good as one of the guest's.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SnapshotError;
use crate::mapping::HUGE_PAGE_BYTES;
use crate::memory::GuestRam;

const PAGE_BYTES: usize = 4096;
/// Pages that are asked for at once where the kernel answers page by page.
const BATCH: usize = 4096;
/// Ranges that are taken at once.
const RANGES: usize = 512;

/// `_IOWR('f', 16, struct pm_scan_arg)` (include/uapi/linux/fs.h).
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_PAGE: u64 = 1 << 5;

/// Of an entry of the file itself.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    ranges: u64,
    range_count: u64,
    pages_max: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Which pages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// That hold something of their own: not untouched, nor only read and zero as far as the kernel
    /// tells.
    Touched,
    /// Of a privately mapped file, that are not the file's any more: somebody wrote to them.
    Written,
}

/// This process's page map, and its list of mappings.
#[derive(Debug)]
pub(super) struct Pagemap {
    file: File,
    maps: File,
}

impl Pagemap {
    /// Opens it: a VMM that has given up its root file system has it from before.
    pub(super) fn open() -> Result<Pagemap, SnapshotError> {
        let open = |path: &str| {
            let path = Path::new(path);
            File::open(path).map_err(SnapshotError::file("open", path))
        };
        Ok(Pagemap { file: open("/proc/self/pagemap")?, maps: open("/proc/self/maps")? })
    }

    /// The pages of `range`, whose ends are pages', as ascending ranges of addresses.
    pub(super) fn find(&self, range: Range<usize>, which: Which) -> io::Result<Vec<Range<usize>>> {
        match self.scan(range.clone(), which) {
            // A kernel before 6.7.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
                self.read(range, which)
            }
            other => other,
        }
    }

    /// Where other memory is in the place of a mapped file, as a balloon puts it there.
    pub(super) fn replaced(&self, range: Range<usize>) -> io::Result<Vec<Range<usize>>> {
        let mut text = String::new();
        (&self.maps).rewind()?;
        (&self.maps).read_to_string(&mut text)?;
        let mut found = Vec::new();
        for line in text.lines() {
            // Start and end, permissions, offset, device, inode.
            let mut words = line.split_ascii_whitespace();
            let ends = words.next().and_then(|ends| ends.split_once('-'));
            let Some((start, end)) = ends else { continue };
            let address = |digits| usize::from_str_radix(digits, 16);
            let (Ok(start), Ok(end)) = (address(start), address(end)) else { continue };
            let (start, end) = (start.max(range.start), end.min(range.end));
            if start < end && words.nth(3) == Some("0") {
                push(&mut found, start..end);
            }
        }
        Ok(found)
    }

    fn scan(&self, range: Range<usize>, which: Which) -> io::Result<Vec<Range<usize>>> {
        let unwanted = match which {
            Which::Touched => IS_ZERO_PAGE,
            Which::Written => IS_FILE,
        };
        let mut found = Vec::new();
        let mut regions = [Region::default(); RANGES];
        let mut start = range.start as u64;
        while start < range.end as u64 {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start,
                end: range.end as u64,
                ranges: regions.as_mut_ptr() as u64,
                range_count: RANGES as u64,
                inverted: unwanted,
                all_of: unwanted,
                any_of: IS_PRESENT | IS_SWAPPED,
                returned: IS_PRESENT,
                ..Scan::default()
            };
            // SAFETY: the argument is the struct that the request names, and says where and how
            // long the list of ranges is; without flags nothing of the process is changed.
            let count =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut scan) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for region in regions.iter().take(count) {
                push(&mut found, region.start as usize..region.end as usize);
            }
            if scan.walk_end <= start {
                return Err(io::ErrorKind::InvalidData.into());
            }
            start = scan.walk_end;
        }
        Ok(found)
    }

    fn read(&self, range: Range<usize>, which: Which) -> io::Result<Vec<Range<usize>>> {
        let mut found = Vec::new();
        let mut entries = vec![0_u8; BATCH * 8];
        for start in range.clone().step_by(BATCH * PAGE_BYTES) {
            let count = BATCH.min((range.end - start) / PAGE_BYTES);
            let batch = &mut entries[..count * 8];
            self.file.read_exact_at(batch, (start / PAGE_BYTES * 8) as u64)?;
            let (entries, _) = batch.as_chunks::<8>();
            for (page, entry) in (start..).step_by(PAGE_BYTES).zip(entries) {
                let entry = u64::from_ne_bytes(*entry);
                let there = entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0;
                if there && (which == Which::Touched || entry & ENTRY_FILE == 0) {
                    push(&mut found, page..page + PAGE_BYTES);
                }
            }
        }
        Ok(found)
    }
}

fn push(found: &mut Vec<Range<usize>>, range: Range<usize>) {
    match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    }
}

/// The numbers of the large pages of guest RAM that hold something of their own, ascending.
pub(crate) fn touched_regions(ram: &GuestRam) -> Result<Vec<usize>, SnapshotError> {
    let range = ram.host_range();
    let found = Pagemap::open()?.find(range.clone(), Which::Touched);
    let found = found.map_err(SnapshotError::file("read", Path::new("/proc/self/pagemap")))?;
    let region = |address: usize| (address - range.start) / HUGE_PAGE_BYTES;
    let found = found.into_iter().filter(|found| !found.is_empty());
    let mut regions: Vec<_> =
        found.flat_map(|found| region(found.start)..=region(found.end - 1)).collect();
    regions.dedup();
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Pages;

    const RAM_BYTES: u64 = 16 << 20;

    /// Both ways of asking, relative to the start.
    fn both(ram: &GuestRam, which: Which) -> Vec<Range<usize>> {
        let pagemap = Pagemap::open().unwrap();
        let start = ram.host_range().start;
        let relative = |found: Vec<Range<usize>>| {
            found.into_iter().map(|range| range.start - start..range.end - start).collect()
        };
        let read: Vec<_> = relative(pagemap.read(ram.host_range(), which).unwrap());
        let scanned = pagemap.scan(ram.host_range(), which);
        if let Ok(scanned) = scanned {
            assert_eq!(relative(scanned), read, "the kernel's two answers");
        }
        read
    }

    #[test]
    fn test_find_touched_has_what_was_written() {
        let ram = GuestRam::new(RAM_BYTES, Pages::Small, false).unwrap();
        for page in (1..1500).step_by(2) {
            ram.write(page * 4096, b"x").unwrap();
        }
        ram.write(RAM_BYTES - 1, b"x").unwrap();
        let found = both(&ram, Which::Touched);
        assert_eq!(found.len(), 751);
        assert_eq!(found[0], 4096..8192);
        assert_eq!(found[750], RAM_BYTES as usize - 4096..RAM_BYTES as usize);
    }

    #[test]
    fn test_find_written_has_no_page_that_was_only_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; RAM_BYTES as usize]).unwrap();
        let ram = GuestRam::from_file(RAM_BYTES, &file, Vec::new()).unwrap();
        assert!(ram.host_bytes(0, RAM_BYTES as usize).unwrap().iter().all(|byte| *byte == 7));
        assert_eq!(both(&ram, Which::Written), []);
        ram.write(0x3fff, b"xy").unwrap();
        ram.write(0x9000, &[7]).unwrap();
        assert_eq!(both(&ram, Which::Written), [0x3000..0x5000, 0x9000..0xa000]);
    }

    #[test]
    fn test_replaced_has_what_was_put_in_the_place_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; RAM_BYTES as usize]).unwrap();
        let ram = GuestRam::from_file(RAM_BYTES, &file, Vec::new()).unwrap();
        let start = ram.host_range().start;
        // SAFETY: within the mapping of `ram`, which nothing else refers to.
        let mapped = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap((start + 0x4000) as *mut _, 0x2000, protection, flags, -1, 0)
        };
        assert_ne!(mapped, libc::MAP_FAILED);
        let found = Pagemap::open().unwrap().replaced(ram.host_range()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0], start + 0x4000..start + 0x6000);
    }

    /// The kernel's own log of what a guest writes, as a second opinion.
    #[test]
    fn test_find_written_has_all_of_kvms_dirty_log_and_what_the_vmm_wrote() {
        if !crate::kvm::available("test_find_written_has_all_of_kvms_dirty_log") {
            return;
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM_BYTES).unwrap();
        // mov byte [0x3000], 1; mov byte [0x5fff], 1; mov al, [0x7000]; hlt
        let code = [0xc6, 0x06, 0x00, 0x30, 1, 0xc6, 0x06, 0xff, 0x5f, 1, 0xa0, 0x00, 0x70, 0xf4];
        file.write_all_at(&code, 0x1000).unwrap();
        let ram = GuestRam::from_file(RAM_BYTES, &file, Vec::new()).unwrap();
        let kvm = crate::kvm::open().unwrap();
        let vm = crate::kvm::create_vm(&kvm).unwrap();
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: 0,
            flags: kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: 0,
            memory_size: RAM_BYTES,
            userspace_addr: ram.host_range().start as u64,
        };
        // SAFETY: the region is all of `ram`, which outlives the VM.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let mut system = vcpu.get_sregs().unwrap();
        (system.cs.base, system.cs.selector) = (0, 0);
        vcpu.set_sregs(&system).unwrap();
        let registers = kvm_bindings::kvm_regs { rip: 0x1000, rflags: 2, ..Default::default() };
        vcpu.set_regs(&registers).unwrap();
        assert!(matches!(vcpu.run().unwrap(), kvm_ioctls::VcpuExit::Hlt));
        // What a device writes, KVM does not see.
        ram.write(0x9000, b"from a device").unwrap();
        let log = vm.get_dirty_log(0, RAM_BYTES as usize).unwrap();
        let pages = |page: usize| log[page / 64] & 1 << (page % 64) != 0;
        let logged: Vec<_> = (0..RAM_BYTES as usize / 4096).filter(|page| pages(*page)).collect();
        assert_eq!(logged, [3, 5]);
        assert_eq!(
            both(&ram, Which::Written),
            [0x3000..0x4000, 0x5000..0x6000, 0x9000..0xa000],
            "KVM's log and what the VMM wrote, nothing else"
        );
    }
}
