//! The file `memory`: guest RAM at its own offsets, with holes where it is zero.
//!
//! Which pages the guest or the VMM ever touched, the host's page tables tell (see `pagemap`); all
//! others are zero, or as in the snapshot that the guest came from. A differential snapshot has the
//! pages that differ from that one's, be they zero or not.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::SnapshotError;
use super::pagemap::{Pagemap, Which};
use crate::memory::GuestRam;

const PAGE_BYTES: usize = 4096;
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

    /// Whether a checksum is the right one for what was read of the file at `path`.
    pub(super) fn check(&self, checksum: u32, path: &Path) -> Result<(), SnapshotError> {
        if checksum == self.checksum {
            return Ok(());
        }
        let reason = "its checksum is wrong: it was damaged or written to".to_owned();
        Err(SnapshotError::Bad { path: path.to_owned(), reason })
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

    /// Copies what `from` has there to the same places of `to`; the checksum of that.
    pub(crate) fn copy(&self, from: &File, to: &File) -> io::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        self.read(from, |offset, bytes| {
            hasher.update(bytes);
            to.write_all_at(bytes, offset)
        })?;
        Ok(hasher.finalize())
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

/// Guest RAM that is to be written, which nobody uses meanwhile.
pub(super) struct Source<'a> {
    pub(super) ram: &'a GuestRam,
    /// This process's.
    pub(super) pagemap: &'a Pagemap,
}

impl Source<'_> {
    /// Writes what is not zero to `file`, which is empty.
    pub(super) fn write(&self, file: &File) -> io::Result<Pages> {
        let touched = self.pagemap.find(self.ram.host_range(), Which::Touched)?;
        let spans = union(self.extents(touched), self.ram.base());
        self.put(file, &spans, |_, page| Ok(!is_zero(page)))
    }

    /// Writes what differs from what the RAM was mapped from, `parent`, to `file`, which is empty.
    pub(super) fn write_difference(&self, file: &File, parent: &File) -> io::Result<Pages> {
        let written = self.pagemap.find(self.ram.host_range(), Which::Written)?;
        let replaced = self.pagemap.replaced(self.ram.host_range())?;
        let spans = union(self.extents(written), &self.extents(replaced));
        let mut before = [0; PAGE_BYTES];
        self.put(file, &spans, |offset, page| {
            parent.read_exact_at(&mut before, offset as u64)?;
            Ok(before != *page)
        })
    }

    /// Ranges of addresses as offsets into the RAM.
    fn extents(&self, ranges: Vec<Range<usize>>) -> Vec<Extent> {
        let start = self.ram.host_range().start;
        let extent = |range: Range<usize>| Extent {
            offset: (range.start - start) as u64,
            bytes: range.len() as u64,
        };
        ranges.into_iter().map(extent).collect()
    }

    /// Writes those pages of `spans` that are to be kept.
    fn put(
        &self,
        file: &File,
        spans: &[Extent],
        mut keep: impl FnMut(usize, &[u8; PAGE_BYTES]) -> io::Result<bool>,
    ) -> io::Result<Pages> {
        file.set_len(self.ram.bytes())?;
        let mut output =
            Output { ram: self.ram, file, pages: Pages::default(), hasher: Default::default() };
        let mut run = 0..0;
        for span in spans {
            let (start, length) = (span.offset as usize, span.bytes as usize);
            let bytes = self.ram.host_bytes(start, length).ok_or(io::ErrorKind::InvalidData)?;
            let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
            for (offset, page) in (start..).step_by(PAGE_BYTES).zip(pages) {
                if !keep(offset, page)? {
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
}

/// Looks at a page in words that the compiler makes vectors of, and leaves at the first part that
/// is not zero.
fn is_zero(page: &[u8; PAGE_BYTES]) -> bool {
    let (parts, _) = page.as_chunks::<256>();
    parts.iter().all(|part| {
        let (words, _) = part.as_chunks::<8>();
        words.iter().fold(0, |seen, word| seen | u64::from_ne_bytes(*word)) == 0
    })
}

/// All that either list has, both in ascending order.
pub(super) fn union(a: Vec<Extent>, b: &[Extent]) -> Vec<Extent> {
    if b.is_empty() {
        return a;
    }
    let mut all = a;
    all.extend_from_slice(b);
    all.sort_unstable_by_key(|extent| extent.offset);
    let mut united: Vec<Extent> = Vec::with_capacity(all.len());
    for extent in all {
        match united.last_mut() {
            Some(last) if last.end() >= extent.offset => {
                last.bytes = last.end().max(extent.end()) - last.offset;
            }
            _ => united.push(extent),
        }
    }
    united
}

struct Output<'a> {
    ram: &'a GuestRam,
    file: &'a File,
    pages: Pages,
    hasher: crc32fast::Hasher,
}

impl Output<'_> {
    fn push(&mut self, run: Range<usize>) -> io::Result<()> {
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

    fn write(ram: &GuestRam, file: &File) -> Pages {
        Source { ram, pagemap: &Pagemap::open().unwrap() }.write(file).unwrap()
    }

    #[test]
    fn test_write_has_every_page_that_is_not_zero_and_no_other() {
        for kind in [PageKind::Small, PageKind::Thp] {
            let ram = GuestRam::new(RAM_BYTES, kind, false).unwrap();
            ram.write(0x3ffc, b"across pages").unwrap();
            ram.write(0x9000, &[0; 4096]).unwrap();
            ram.write(RAM_BYTES - 1, b"x").unwrap();
            let file = tempfile::tempfile().unwrap();
            let pages = write(&ram, &file);
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
        let first = tempfile::tempfile().unwrap();
        let pages = write(&ram, &first);
        let restored = GuestRam::from_file(RAM_BYTES, &first, pages.extents.clone()).unwrap();
        restored.write(0x3000, &[0; 4096]).unwrap();
        restored.write(0x8000, &[2]).unwrap();
        let second = tempfile::tempfile().unwrap();
        let pages = write(&restored, &second);
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
    fn test_write_difference_has_what_differs_zero_or_not_and_no_other() {
        let ram = GuestRam::new(RAM_BYTES, PageKind::Small, false).unwrap();
        ram.write(0x2000, &[1; 4 * 4096]).unwrap();
        let first = tempfile::tempfile().unwrap();
        let pages = write(&ram, &first);
        let restored = GuestRam::from_file(RAM_BYTES, &first, pages.extents).unwrap();
        restored.write(0x2000, &[1; 4096]).unwrap();
        restored.write(0x3000, &[0; 4096]).unwrap();
        restored.write(0x8fff, &[2, 3]).unwrap();
        let second = tempfile::tempfile().unwrap();
        let source = Source { ram: &restored, pagemap: &Pagemap::open().unwrap() };
        let pages = source.write_difference(&second, &first).unwrap();
        assert_eq!(pages.extents, [extent(0x3000, 0x1000), extent(0x8000, 0x2000)]);
        let merged = tempfile::tempfile().unwrap();
        merged.set_len(RAM_BYTES).unwrap();
        Pages { extents: restored.base().to_vec(), checksum: 0 }.copy(&first, &merged).unwrap();
        pages.copy(&second, &merged).unwrap();
        let again = GuestRam::from_file(RAM_BYTES, &merged, Vec::new()).unwrap();
        let all = |ram: &GuestRam| ram.host_bytes(0, RAM_BYTES as usize).unwrap().to_vec();
        assert!(all(&again) == all(&restored));
    }

    #[test]
    fn test_is_zero_finds_a_single_bit_anywhere() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for at in 0..PAGE_BYTES {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }

    #[test]
    fn test_union_has_what_either_has() {
        let page = 4096;
        let a = vec![extent(0, page), extent(4 * page, 2 * page), extent(9 * page, page)];
        let b = [extent(page, page), extent(5 * page, 3 * page), extent(20 * page, page)];
        let want = [(0, 2), (4, 4), (9, 1), (20, 1)].map(|(at, n)| extent(at * page, n * page));
        assert_eq!(union(a.clone(), &b), want);
        assert_eq!(union(a.clone(), &[]), a);
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
