//! The file `memory`: guest RAM at its own offsets, with holes where it is zero.
//!
//! Which pages the guest or the VMM ever touched, /proc/self/pagemap tells
//! (Documentation/admin-guide/mm/pagemap.rst); all others are zero, or as in the snapshot that the
//! guest came from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::GuestRam;

const PAGE_BYTES: usize = 4096;
/// Pages that are asked for at once.
const BATCH: usize = 4096;
/// Present, or swapped out.
const TOUCHED: u64 = 0b11 << 62;
/// Written at once.
const RUN_BYTES: usize = 1 << 20;

/// Bytes of guest RAM that are in the file, page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Extent {
    /// Where they begin, in guest RAM without its hole and in the file.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) bytes: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// What a file `memory` has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// In ascending order, none touching the next.
    pub(crate) extents: Vec<Extent>,
    /// CRC-32 of their contents.
    pub(crate) checksum: u32,
}

impl Pages {
    /// How many bytes that is.
    pub(crate) fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// Whether each lies within guest RAM of so many bytes, and behind the one before.
    pub(crate) fn fits(&self, ram_bytes: u64) -> bool {
        fit(&self.extents, ram_bytes)
    }

    /// The checksum of what `file` has there now.
    pub(crate) fn checksum_of(&self, file: &File) -> io::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        self.read(file, |_, bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(hasher.finalize())
    }

    /// Copies what `from` has there to the same places of `to`.
    pub(crate) fn copy(&self, from: &File, to: &File) -> io::Result<()> {
        self.read(from, |offset, bytes| to.write_all_at(bytes, offset))
    }

    fn read(
        &self,
        file: &File,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; RUN_BYTES];
        for extent in &self.extents {
            let mut at = extent.offset;
            while at < extent.end() {
                let bytes = (extent.end() - at).min(RUN_BYTES as u64) as usize;
                file.read_exact_at(&mut buffer[..bytes], at)?;
                take(at, &buffer[..bytes])?;
                at += bytes as u64;
            }
        }
        Ok(())
    }

    /// The numbers of the regions of so many bytes in which there is anything, in ascending order.
    pub(crate) fn regions(&self, bytes: u64) -> Vec<usize> {
        let spans = self.extents.iter();
        let mut regions: Vec<_> = spans
            .flat_map(|extent| extent.offset / bytes..=(extent.end() - 1) / bytes)
            .map(|region| region as usize)
            .collect();
        regions.dedup();
        regions
    }
}

/// Whether each lies within guest RAM of so many bytes, and behind the one before.
pub(super) fn fit(extents: &[Extent], ram_bytes: u64) -> bool {
    let page = PAGE_BYTES as u64;
    let mut from = 0;
    extents.iter().all(|extent| {
        let whole = extent.offset.is_multiple_of(page) && extent.bytes.is_multiple_of(page);
        let end = extent.offset.checked_add(extent.bytes).filter(|&end| end <= ram_bytes);
        let good = whole && extent.bytes > 0 && extent.offset >= from && end.is_some();
        from = end.unwrap_or(u64::MAX);
        good
    })
}

/// Writes what is not zero of `ram`, which nobody uses meanwhile, to `file`, which is empty.
/// `pagemap` is this process's; `base` says what the RAM had from the start.
pub(crate) fn write(
    ram: &GuestRam,
    pagemap: &File,
    base: &[Extent],
    file: &File,
) -> io::Result<Pages> {
    file.set_len(ram.bytes())?;
    let mut output = Output { ram, file, pages: Pages::default(), hasher: Default::default() };
    let first = ram.host_range().start / PAGE_BYTES;
    let total = ram.host_range().len() / PAGE_BYTES;
    let mut entries = vec![0_u8; BATCH * 8];
    let mut base = base.iter().peekable();
    let mut run = 0..0;
    for start in (0..total).step_by(BATCH) {
        let count = BATCH.min(total - start);
        let batch = &mut entries[..count * 8];
        pagemap.read_exact_at(batch, ((first + start) * 8) as u64)?;
        let (entries, _) = batch.as_chunks::<8>();
        for (page, entry) in (start..).zip(entries) {
            let offset = page * PAGE_BYTES;
            while base.next_if(|extent| extent.end() <= offset as u64).is_some() {}
            let based = base.peek().is_some_and(|extent| extent.offset <= offset as u64);
            let touched = u64::from_ne_bytes(*entry) & TOUCHED != 0;
            if !(touched || based) || output.is_zero(offset) {
                continue;
            }
            if offset != run.end || run.len() >= RUN_BYTES {
                output.push(run)?;
                run = offset..offset;
            }
            run.end += PAGE_BYTES;
        }
    }
    output.push(run)?;
    output.pages.checksum = output.hasher.finalize();
    Ok(output.pages)
}

struct Output<'a> {
    ram: &'a GuestRam,
    file: &'a File,
    pages: Pages,
    hasher: crc32fast::Hasher,
}

impl Output<'_> {
    fn is_zero(&self, offset: usize) -> bool {
        let page = self.ram.host_bytes(offset, PAGE_BYTES);
        page.is_none_or(|page| page.iter().all(|&byte| byte == 0))
    }

    fn push(&mut self, run: std::ops::Range<usize>) -> io::Result<()> {
        let Some(bytes) = self.ram.host_bytes(run.start, run.len()) else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(bytes, run.start as u64)?;
        self.hasher.update(bytes);
        let (offset, bytes) = (run.start as u64, run.len() as u64);
        match self.pages.extents.last_mut() {
            Some(last) if last.end() == offset => last.bytes += bytes,
            _ => self.pages.extents.push(Extent { offset, bytes }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pages as PageKind;

    const RAM_BYTES: u64 = 16 << 20;

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    #[test]
    fn test_write_has_every_page_that_is_not_zero_and_no_other() {
        for kind in [PageKind::Small, PageKind::Thp] {
            let ram = GuestRam::new(RAM_BYTES, kind, false).unwrap();
            ram.write(0x3ffc, b"across pages").unwrap();
            ram.write(0x9000, &[0; 4096]).unwrap();
            ram.write(RAM_BYTES - 1, b"x").unwrap();
            let pagemap = File::open("/proc/self/pagemap").unwrap();
            let file = tempfile::tempfile().unwrap();
            let pages = write(&ram, &pagemap, &[], &file).unwrap();
            let last = extent(RAM_BYTES - 4096, 4096);
            assert_eq!(pages.extents, [extent(0x3000, 0x2000), last]);
            assert!(pages.fits(RAM_BYTES) && !pages.fits(RAM_BYTES - 4096));
            assert_eq!(pages.checksum_of(&file).unwrap(), pages.checksum);
            file.write_all_at(b"y", RAM_BYTES - 1).unwrap();
            assert_ne!(pages.checksum_of(&file).unwrap(), pages.checksum);
        }
    }

    #[test]
    fn test_write_of_a_restored_guest_has_what_it_had_and_what_it_changed() {
        let ram = GuestRam::new(RAM_BYTES, PageKind::Thp, false).unwrap();
        ram.write(0x2000, &[1; 3 * 4096]).unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let first = tempfile::tempfile().unwrap();
        let pages = write(&ram, &pagemap, &[], &first).unwrap();
        let restored = GuestRam::from_file(RAM_BYTES, &first, pages.extents.clone()).unwrap();
        restored.write(0x3000, &[0; 4096]).unwrap();
        restored.write(0x8000, &[2]).unwrap();
        let second = tempfile::tempfile().unwrap();
        let pages = write(&restored, &pagemap, restored.base(), &second).unwrap();
        let want = [extent(0x2000, 0x1000), extent(0x4000, 0x1000), extent(0x8000, 0x1000)];
        assert_eq!(pages.extents, want);
        let again = GuestRam::from_file(RAM_BYTES, &second, pages.extents).unwrap();
        assert_eq!(
            again.host_bytes(0, RAM_BYTES as usize),
            restored.host_bytes(0, RAM_BYTES as usize)
        );
        // The first snapshot is as it was.
        let mut byte = [0];
        first.read_exact_at(&mut byte, 0x3000).unwrap();
        assert_eq!(byte, [1]);
    }

    #[test]
    fn test_fits_refuses_what_cannot_be() {
        let fits =
            |extents: &[Extent]| Pages { extents: extents.to_vec(), checksum: 0 }.fits(RAM_BYTES);
        assert!(fits(&[extent(0, 4096), extent(4096, 4096)]));
        assert!(!fits(&[extent(4096, 4096), extent(0, 4096)]));
        assert!(!fits(&[extent(0, 8192), extent(4096, 4096)]));
        assert!(!fits(&[extent(0, 0)]));
        assert!(!fits(&[extent(1, 4096)]));
        assert!(!fits(&[extent(u64::MAX - 4095, 4096)]));
        assert!(!fits(&[extent(0, RAM_BYTES + 4096)]));
    }
}
