//! Giving pages of guest memory back to the host.

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use super::PAGE_BYTES;
use crate::mapping::HUGE_PAGE_BYTES;

/// What guest memory is made of, as far as giving it back is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backing {
    /// Anonymous memory: a page that is given up is zero when it is touched again.
    Anonymous,
    /// Anonymous memory and, a large page at least at a time, a file that nothing else has mapped:
    /// there, what the file has is given up too.
    Filled,
    /// A file, mapped copy-on-write: a page that were just given up would have the file's contents
    /// again, a past that the guest may have erased. Anonymous memory takes its place.
    File,
}

impl Backing {
    pub(super) fn of(memory: &GuestMemoryMmap) -> Backing {
        let has = |flag| memory.iter().all(|region| region.flags() & flag != 0);
        match (has(libc::MAP_SHARED), has(libc::MAP_ANONYMOUS)) {
            (true, _) => Backing::Filled,
            (false, true) => Backing::Anonymous,
            (false, false) => Backing::File,
        }
    }

    /// Gives back the whole pages within a range; how many bytes that was. The host may refuse, for
    /// want of mappings or because its pages are larger: then the guest's memory stays.
    ///
    /// # Safety
    ///
    /// The range must be guest memory of this backing, which stays mapped meanwhile. The guest has
    /// given up its contents.
    pub(super) unsafe fn give_back(self, range: libc::iovec) -> u64 {
        let page = PAGE_BYTES as usize;
        let address = range.iov_base as usize;
        let Some(from) = address.checked_next_multiple_of(page) else { return 0 };
        let to = (address + range.iov_len) / page * page;
        let Some(length) = to.checked_sub(from).filter(|&length| length > 0) else { return 0 };
        let start = (from as *mut u8).cast();
        let done = match self {
            // SAFETY: the range is guest memory, of which nothing in this process holds
            // references: all accesses are by pointer, and find zeros from now on.
            Backing::Anonymous => unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) == 0 },
            // SAFETY: as above.
            Backing::Filled => unsafe { give_back_each(from, to) },
            // SAFETY: as above; the new mapping is in the old one's place at once and may be
            // accessed in the same ways.
            Backing::File => unsafe {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags =
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
                let mapped = libc::mmap(start, length, protection, flags, -1, 0);
                // As all guest memory, it is nothing for a core dump.
                mapped != libc::MAP_FAILED && libc::madvise(start, length, libc::MADV_DONTDUMP) == 0
            },
        };
        if done { length as u64 } else { 0 }
    }
}

/// Gives back a range of which some large pages are of a file and others are anonymous.
///
/// # Safety
///
/// As of [`Backing::give_back`].
unsafe fn give_back_each(from: usize, to: usize) -> bool {
    let mut start = from;
    while start < to {
        let end = (start + 1).next_multiple_of(HUGE_PAGE_BYTES).min(to);
        let give = |advice| {
            // SAFETY: as the caller warrants; the advice for a file fails where there is none.
            unsafe { libc::madvise((start as *mut u8).cast(), end - start, advice) == 0 }
        };
        if !give(libc::MADV_REMOVE) && !give(libc::MADV_DONTNEED) {
            return false;
        }
        start = end;
    }
    true
}
