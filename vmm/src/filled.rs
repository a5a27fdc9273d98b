//! Guest memory that is allocated and filled before the launch that uses it.
//!
//! Of a boot's time in the VMM most goes into large pages, which the host clears, and into the copy of
//! the kernel: see the table in `prepared.rs`. Neither depends on when the guest is launched.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::boot::Image;
use crate::mapping::{HUGE_PAGE_BYTES, View, memory_file};
use crate::{MemoryError, Pages, Prepared};

/// So many consecutive large pages of guest RAM, from the given one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// Which large pages (2 MiB) of its RAM a guest has come to
/// ([`Vmm::touched`](crate::Vmm::touched)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Their numbers, ascending.
    pub(crate) regions: Vec<usize>,
}

impl Touched {
    /// How many bytes they have.
    pub fn bytes(&self) -> u64 {
        (self.regions.len() * HUGE_PAGE_BYTES) as u64
    }
}

/// The memory of one guest to come, in part allocated and filled
/// ([`Prepared::fill`]); [`Vmm::launch_in`](crate::Vmm::launch_in) consumes it.
///
/// Nothing in this process has it mapped, and what is closed before the launch is given back. A
/// process that closes what it does not need must keep the descriptor that [`AsFd`] shows.
#[derive(Debug)]
pub struct Filled {
    image: Arc<Image>,
    /// As long as guest RAM in large pages, with holes.
    file: File,
    runs: Vec<Run>,
}

impl Prepared {
    /// Allocates memory for one guest and puts the kernel, the initramfs and the boot data there, in
    /// large pages where the host can and the configuration lets it. So are the pages of `touched`,
    /// which are zero.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Ahead`].
    pub fn fill(&self, touched: &Touched) -> Result<Filled, MemoryError> {
        let bytes = (self.config.memory_bytes as usize).next_multiple_of(HUGE_PAGE_BYTES);
        let mut regions = self.image.regions(HUGE_PAGE_BYTES as u64);
        regions.extend_from_slice(&touched.regions);
        regions.retain(|region| region * HUGE_PAGE_BYTES < bytes);
        regions.sort_unstable();
        regions.dedup();
        let gathered = self.config.pages != Pages::Small;
        let file = fill(&self.image, bytes, &regions, gathered);
        let file = file.map_err(|error| MemoryError::Ahead { bytes: bytes as u64, error })?;
        Ok(Filled { image: Arc::clone(&self.image), file, runs: runs_of(&regions) })
    }
}

impl Filled {
    /// Whether it was made for guests of `prepared`.
    pub(crate) fn is_of(&self, prepared: &Prepared) -> bool {
        Arc::ptr_eq(&self.image, &prepared.image)
    }

    /// The file, to be mapped at the start of guest RAM.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where there is anything in it, ascending.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many bytes of guest RAM are there.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| (run.count * HUGE_PAGE_BYTES) as u64).sum()
    }
}

impl AsFd for Filled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn fill(image: &Image, bytes: usize, regions: &[usize], gathered: bool) -> io::Result<File> {
    let file = memory_file(crate::mapping::NAME)?;
    file.set_len(bytes as u64)?;
    // A large page is gathered only from what has a page at all.
    for region in regions {
        file.write_all_at(&[0], (region * HUGE_PAGE_BYTES) as u64)?;
    }
    let view = image.view()?;
    for piece in image.pieces() {
        let found = view.bytes().get(piece.offset..piece.offset + piece.bytes);
        let found = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        file.write_all_at(found, piece.address)?;
    }
    if gathered {
        let view = View::new(&file, bytes)?;
        regions.iter().for_each(|&region| view.collapse(region));
    }
    // A guest whose memory were cut would be killed.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a descriptor of ours and plain numbers.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn runs_of(regions: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &region in regions {
        match runs.last_mut() {
            Some(last) if last.first + last.count == region => last.count += 1,
            _ => runs.push(Run { first: region, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_runs_of_joins_neighbours() {
        let run = |first, count| Run { first, count };
        assert_eq!(runs_of(&[]), []);
        assert_eq!(runs_of(&[0, 1, 2, 7, 9, 10]), [run(0, 3), run(7, 1), run(9, 2)]);
    }
}
