//! Mappings whose start is aligned to a large page.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};

use crate::Pages;
use crate::copy::copy;

/// A large page of x86-64.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// `MADV_COLLAPSE` of Linux 6.1 (include/uapi/asm-generic/mman-common.h), which libc lacks for
/// musl.
const MADV_COLLAPSE: i32 = 25;
/// See [`GUEST_RAM_NAME`](crate::GUEST_RAM_NAME).
pub(crate) const NAME: &std::ffi::CStr = c"tare-guest-ram";

/// A private mapping whose start is aligned to a large page.
#[derive(Debug)]
pub(crate) struct Mapping {
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
    pub(crate) const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
    pub(crate) const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

    /// Maps `length` bytes of zeros, to be guest RAM.
    pub(crate) fn new(length: usize, pages: Pages) -> io::Result<Mapping> {
        if pages == Pages::Huge2M {
            // Aligned by its nature, and reserved: a guest must not die of an empty pool.
            let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
            let mapping = Mapping::map_with(length, Mapping::FLAGS & !libc::MAP_NORESERVE | flags)?;
            mapping.advise(None);
            return Ok(mapping);
        }
        let mapping = Mapping::aligned(length)?;
        mapping.advise(Some(match pages {
            Pages::Small => libc::MADV_NOHUGEPAGE,
            _ => libc::MADV_HUGEPAGE,
        }));
        Ok(mapping)
    }

    /// Maps `length` bytes of `file` copy-on-write, to be guest RAM.
    pub(crate) fn of_file(file: &File, length: usize) -> io::Result<Mapping> {
        let mapping = Mapping::aligned(length)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        mapping.replace(file, 0..length, Mapping::PROTECTION, flags)?;
        mapping.advise(None);
        Ok(mapping)
    }

    /// Puts a range of `file` in the place of the same range of a mapping that nobody has seen yet,
    /// to be shared with whoever else has that file.
    pub(crate) fn share(&self, file: &File, range: Range<usize>) -> io::Result<()> {
        let range = range.start..range.end.min(self.length);
        self.replace(file, range.clone(), Mapping::PROTECTION, libc::MAP_SHARED)?;
        // SAFETY: `replace` has found the range within the mapping; the advice changes no contents.
        unsafe {
            let start = self.start.as_ptr().add(range.start);
            libc::madvise(start.cast(), range.len(), libc::MADV_DONTDUMP);
        }
        Ok(())
    }

    /// Puts a range of a file in the place of that of a mapping that nobody has seen yet.
    fn replace(
        &self,
        file: &File,
        range: Range<usize>,
        protection: i32,
        flags: i32,
    ) -> io::Result<()> {
        if range.end > self.length || range.start >= range.end {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: replaces a part of a mapping that is ours, and nothing refers into it.
        let at = unsafe {
            let start = self.start.as_ptr().add(range.start).cast();
            let offset = range.start as libc::off_t;
            libc::mmap(start, range.len(), protection, flags, file.as_raw_fd(), offset)
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Allocates every page (Linux 5.14 and later).
    pub(crate) fn populate(&self) -> io::Result<()> {
        // SAFETY: allocates pages of a mapping of ours; it does not change its contents.
        let done = unsafe {
            libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_POPULATE_WRITE)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Maps `length` bytes of zeros from a large page's boundary on: a large page of the host must be
    /// one of the guest too, or KVM maps it in small ones.
    fn aligned(length: usize) -> io::Result<Mapping> {
        let mut mapping = Mapping::map(length)?;
        // Linux 6.7 and later align large mappings by themselves; on others map once more with
        // slack and give back what is not aligned.
        if !(mapping.start.as_ptr() as usize).is_multiple_of(HUGE_PAGE_BYTES) {
            drop(mapping);
            mapping = Mapping::map(length + HUGE_PAGE_BYTES)?;
            mapping.trim(length);
        }
        Ok(mapping)
    }

    fn map(length: usize) -> io::Result<Mapping> {
        Mapping::map_with(length, Mapping::FLAGS)
    }

    fn map_with(length: usize, flags: i32) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice changes no other.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, Mapping::PROTECTION, flags, -1, 0) };
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

    /// Has the first `bytes` in small pages, whatever was advised for all.
    pub(crate) fn begin_small(&self, bytes: usize) {
        // SAFETY: within the mapping, of which it changes no contents.
        unsafe {
            let bytes = bytes.min(self.length);
            libc::madvise(self.start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE);
        }
    }

    /// Copies `bytes` to `offset`; false if that is not all in it.
    pub(crate) fn fill(&self, offset: usize, bytes: &[u8]) -> bool {
        let end = offset.checked_add(bytes.len());
        let fits = end.is_some_and(|end| end <= self.length);
        if fits {
            // SAFETY: within the mapping, to whose bytes nobody has a reference.
            unsafe { copy(bytes, self.start.as_ptr().add(offset)) };
        }
        fits
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.length
    }

    /// Says which pages are wanted, keeps the mapping out of core dumps and gives it its name. A host that
    /// knows none of it loses speed, disk space or a name, nothing else, so what it answers is
    /// ignored.
    fn advise(&self, pages: Option<i32>) {
        let start = self.start.as_ptr();
        // SAFETY: advice and a name for a mapping of ours; neither changes its contents.
        unsafe {
            if let Some(advice) = pages {
                libc::madvise(start.cast(), self.length, advice);
            }
            libc::madvise(start.cast(), self.length, libc::MADV_DONTDUMP);
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME as libc::c_ulong,
                start,
                self.length,
                NAME.as_ptr(),
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

/// A file in memory, mapped to be read.
#[derive(Debug)]
pub(crate) struct View {
    mapping: Mapping,
}

impl View {
    /// Maps the first `bytes` of `file`, rounded up to large pages.
    pub(crate) fn new(file: &File, bytes: usize) -> io::Result<View> {
        let length = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let mapping = Mapping::aligned(length)?;
        mapping.replace(file, 0..length, libc::PROT_READ, libc::MAP_SHARED)?;
        Ok(View { mapping })
    }

    /// Gathers a large page's worth of the file, by its number, into one (Linux 6.1 and later,
    /// whatever the system's setting for files in memory). Where that cannot be, each page of 4 KiB
    /// is a page of the file as before.
    pub(crate) fn collapse(&self, region: usize) {
        let offset = region * HUGE_PAGE_BYTES;
        if offset < self.mapping.bytes() {
            // SAFETY: within the mapping, which is whole large pages; it does not change contents.
            unsafe {
                let start = self.mapping.start().add(offset);
                libc::madvise(start.cast(), HUGE_PAGE_BYTES, MADV_COLLAPSE);
            }
        }
    }

    /// The contents.
    ///
    /// # Safety
    ///
    /// The file must be sealed against writing and shrinking, and as long as the view.
    pub(crate) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable for as long as `self` lives; the caller warrants that
        // its contents exist and do not change.
        unsafe { std::slice::from_raw_parts(self.mapping.start(), self.mapping.bytes()) }
    }
}

/// A new file in memory, which is gone when nothing has it open.
pub(crate) fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name is a C string, and the new descriptor belongs to nobody else.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(fd))
    }
}
