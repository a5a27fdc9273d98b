//! Memory taken directly from the kernel.

use core::ptr::{self, NonNull};
use core::slice;

use super::{File, PAGE_BYTES, check};
use crate::Errno;

/// Memory that is page-aligned, fresh from the kernel, and unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Zeroed private memory of this size; no page exists before it is touched.
    pub(crate) fn anonymous(bytes: usize) -> Result<Mapping, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Mapping::new(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// Zeroed memory of this size that children share.
    pub(crate) fn shared(bytes: usize) -> Result<Mapping, Errno> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        Mapping::new(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// How many of the first `bytes` of `file` are in this kernel's page cache.
    pub(crate) fn cached_bytes(file: &File, bytes: usize) -> Result<usize, Errno> {
        let mapping = Mapping::new(bytes, libc::PROT_READ, libc::MAP_SHARED, file.fd())?;
        let mut pages = alloc::vec![0u8; bytes.div_ceil(PAGE_BYTES)];
        // SAFETY: the range is mapped, and `pages` has one byte for each of its pages.
        check(unsafe { libc::mincore(mapping.start.as_ptr().cast(), bytes, pages.as_mut_ptr()) })?;
        Ok(pages.iter().filter(|page| *page & 1 == 1).count() * PAGE_BYTES)
    }

    fn new(
        bytes: usize,
        protection: libc::c_int,
        flags: libc::c_int,
        fd: libc::c_int,
    ) -> Result<Mapping, Errno> {
        // SAFETY: without MAP_FIXED the kernel picks a free range, so nothing is overwritten.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Mapping { start, bytes })
            }
            _ => Err(Errno::last()),
        }
    }

    /// Tells the kernel how the memory will be used: an `MADV_` constant.
    pub(crate) fn advise(&self, advice: libc::c_int) -> Result<(), Errno> {
        // SAFETY: the range is mapped and private. The advices used here (huge pages or not)
        // change no content.
        check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) }).map(drop)
    }

    /// The memory; only of an anonymous mapping.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: `start` is mapped for reading and writing for `bytes`, initialised by the kernel
        // to zero, and borrowed through `self` alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as words.
    pub(crate) fn as_words_mut(&mut self) -> &mut [u64] {
        let words = self.bytes / size_of::<u64>();
        // SAFETY: as in `as_mut`; pages are aligned for u64, of which any bits are a value.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
