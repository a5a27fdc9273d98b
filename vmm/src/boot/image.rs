//! A guest laid out before it is launched.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::Entry;
use crate::layout::{KERNEL_MIN, LOW_END};
use crate::mapping::{HUGE_PAGE_BYTES, View, memory_file};
use crate::memory::low_end;

/// Copied and tested for zeros at once.
const PAGE_BYTES: usize = 4096;
/// Read at once; a multiple of pages.
const CHUNK_BYTES: usize = 1 << 20;

/// Kernel, initramfs and boot data in one file in memory, packed, with the place of each piece in
/// guest-physical memory.
///
/// Everything that can be refused was refused when it was made; what is left to a launch is to map
/// the file and copy the pieces. Pages of zeros are left out: fresh guest memory is zero.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    /// Length of the file.
    bytes: usize,
    pieces: Vec<Piece>,
    entry: Entry,
}

/// The mapped file of an image.
pub(crate) struct SealedView(View);

impl SealedView {
    /// The contents of the whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: only `Image::view` makes this, of a file that `Draft::finish` sealed, with the
        // length that it has.
        unsafe { self.0.bytes() }
    }
}

/// So many bytes of the file that belong at an address.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Guest-physical.
    pub(crate) address: u64,
    /// In the file.
    pub(crate) offset: usize,
    /// Length.
    pub(crate) bytes: usize,
}

impl Image {
    /// The descriptor of the file, which whoever launches must keep open.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Maps the file, for as long as it takes to copy the pieces.
    pub(crate) fn view(&self) -> io::Result<SealedView> {
        Ok(SealedView(View::new(&self.file, self.bytes)?))
    }

    /// What is in the file, in its order and without gaps.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// One of these contents, for tests.
    #[cfg(test)]
    pub(crate) fn of(contents: &[(u64, &[u8])]) -> Image {
        let mut draft = Draft::new(crate::MEMORY_MIN_BYTES).unwrap();
        contents.iter().for_each(|(address, bytes)| draft.write(*address, bytes).unwrap());
        let entry = Entry { address: 0, protocol: crate::BootProtocol::Linux64 };
        draft.finish(entry).unwrap()
    }

    /// Whether there is nothing but boot data in the first large page.
    pub(crate) fn is_apart(&self) -> bool {
        let is_apart = |piece: &Piece| {
            piece.address >= LOW_END || piece.address + piece.bytes as u64 <= KERNEL_MIN
        };
        self.pieces.iter().all(is_apart)
    }

    /// The numbers of the regions of so many bytes in which there is anything, in any order.
    pub(crate) fn regions(&self, bytes: u64) -> Vec<usize> {
        let region = |address: u64| (address / bytes) as usize;
        let spans = self.pieces.iter();
        let spans = spans.flat_map(|Piece { address, bytes: length, .. }| {
            region(*address)..=region(address + *length as u64 - 1)
        });
        spans.collect()
    }

    /// Where the guest begins.
    pub(crate) fn entry(&self) -> Entry {
        self.entry
    }
}

/// An image that is being filled.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    limit: u64,
    pieces: Vec<Piece>,
    end: usize,
}

impl Draft {
    /// An empty image for a guest with `ram_bytes`.
    pub(super) fn new(ram_bytes: u64) -> io::Result<Draft> {
        let file = memory_file(c"tare-image")?;
        let limit = low_end(ram_bytes);
        Ok(Draft { file, limit, pieces: Vec::new(), end: 0 })
    }

    /// End of the RAM below the hole, in which all contents must be.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Puts `bytes` at guest-physical `address`; an error if that is not all RAM.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(address, bytes.len() as u64)?;
        for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                self.push(address + (index * PAGE_BYTES) as u64, page)?;
            }
        }
        Ok(())
    }

    /// Puts `length` bytes at `offset` of `source` there.
    pub(super) fn copy(
        &mut self,
        address: u64,
        source: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.check(address, length)?;
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(length).unwrap_or(CHUNK_BYTES))];
        let mut done = 0;
        while done < length {
            let bytes = (length - done).min(CHUNK_BYTES as u64) as usize;
            let chunk = &mut buffer[..bytes];
            let from = offset.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
            source.read_exact_at(chunk, from)?;
            self.write(address + done, chunk)?;
            done += bytes as u64;
        }
        Ok(())
    }

    fn check(&self, address: u64, length: u64) -> io::Result<()> {
        let end = address.checked_add(length).filter(|&end| end <= self.limit);
        end.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Appends to the file, and to the last piece where it follows on it in the guest too.
    fn push(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end as u64)?;
        match self.pieces.last_mut() {
            Some(last) if last.address + last.bytes as u64 == address => last.bytes += bytes.len(),
            _ => self.pieces.push(Piece { address, offset: self.end, bytes: bytes.len() }),
        }
        self.end += bytes.len();
        Ok(())
    }

    /// Reads back.
    #[cfg(test)]
    pub(super) fn byte(&self, address: u64) -> u8 {
        let mut byte = [0];
        for piece in &self.pieces {
            if (piece.address..piece.address + piece.bytes as u64).contains(&address) {
                let at = piece.offset as u64 + address - piece.address;
                self.file.read_exact_at(&mut byte, at).unwrap();
            }
        }
        byte[0]
    }

    /// Closes the image: nothing changes it from here on. Its file is gathered into large pages
    /// where the host can, so that mapping it takes a fault for each of those and no more.
    pub(super) fn finish(self, entry: Entry) -> io::Result<Image> {
        let whole = self.end.next_multiple_of(HUGE_PAGE_BYTES);
        self.file.set_len(whole as u64)?;
        let view = View::new(&self.file, whole)?;
        (0..whole / HUGE_PAGE_BYTES).for_each(|region| view.collapse(region));
        // A file that is mapped to be shared cannot be sealed.
        drop(view);
        let seals =
            libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a descriptor of ours and plain numbers.
        if unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Image { file: self.file, bytes: whole, pieces: self.pieces, entry })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::GuestRam;
    use crate::{BootProtocol, Pages};
    use vm_memory::{Bytes, GuestAddress};

    const RAM_BYTES: u64 = 16 << 20;

    #[test]
    fn test_finish_places_every_piece_and_leaves_out_zeros() {
        let mut source = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 3 << 20];
        bytes[..5].copy_from_slice(b"first");
        bytes[(2 << 20) + 7..][..4].copy_from_slice(b"last");
        source.write_all(&bytes).unwrap();
        let mut draft = Draft::new(RAM_BYTES).unwrap();
        draft.copy(0x10_0000, &source, 0, 3 << 20).unwrap();
        draft.write(0x500, b"low").unwrap();
        let image =
            draft.finish(Entry { address: 0x10_0000, protocol: BootProtocol::Linux64 }).unwrap();
        assert_eq!(image.pieces().iter().map(|piece| piece.bytes).sum::<usize>(), 4096 * 2 + 3);
        let ram = GuestRam::new(RAM_BYTES, Pages::Thp, false).unwrap();
        ram.fill(&image, Pages::Thp).unwrap();
        let mut found = vec![0; 3 << 20];
        ram.memory().read_slice(&mut found, GuestAddress(0x10_0000)).unwrap();
        assert!(found == bytes);
        ram.memory().read_slice(&mut found[..3], GuestAddress(0x500)).unwrap();
        assert_eq!(&found[..3], b"low");
    }

    #[test]
    fn test_write_beyond_ram_or_source_returns_error() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"abcdef").unwrap();
        let mut draft = Draft::new(RAM_BYTES).unwrap();
        assert!(draft.write(RAM_BYTES - 2, b"ab").is_ok());
        for address in [RAM_BYTES - 1, RAM_BYTES, u64::MAX] {
            assert!(draft.write(address, b"ab").is_err());
            assert!(draft.copy(address, &source, 0, 2).is_err());
        }
        let error = draft.copy(0x1000, &source, 2, 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn test_finish_seals_the_file() {
        let mut draft = Draft::new(RAM_BYTES).unwrap();
        draft.write(0x500, b"x").unwrap();
        let image =
            draft.finish(Entry { address: 0x500, protocol: BootProtocol::Linux64 }).unwrap();
        assert!(image.file.write_all_at(b"x", 0).is_err());
        assert!(image.file.set_len(0).is_err());
    }
}
