//! Bytes as they come, kept and hashed on their way.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// How much is read at once.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// A reader that hashes and counts what passes through it, and may write a copy. What it knows is
/// asked through a reference, for a decoder above owns the reader itself.
pub(crate) struct Intake<'a> {
    source: &'a mut dyn Read,
    copy: Option<&'a File>,
    tally: &'a Tally,
    on_bytes: &'a dyn Fn(u64),
}

/// What an [`Intake`] has seen.
#[derive(Default)]
pub(crate) struct Tally {
    hasher: RefCell<Sha256>,
    bytes: Cell<u64>,
    limit: Cell<Option<u64>>,
}

impl Tally {
    /// For a source that must not have more bytes than `limit`: what lies behind is left unread.
    pub(crate) fn up_to(limit: Option<u64>) -> Tally {
        Tally { limit: Cell::new(limit), ..Tally::default() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::finish(self.hasher.borrow().clone())
    }
}

impl<'a> Intake<'a> {
    pub(crate) fn new(
        source: &'a mut dyn Read,
        copy: Option<&'a File>,
        tally: &'a Tally,
        on_bytes: &'a dyn Fn(u64),
    ) -> Intake<'a> {
        Intake { source, copy, tally, on_bytes }
    }

    /// Reads what is left, to its end, in a buffer of the caller's.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Intake<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than announced is enough to know.
        if self.tally.limit.get().is_some_and(|limit| self.tally.bytes.get() > limit) {
            return Ok(0);
        }
        let count = self.source.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        self.tally.hasher.borrow_mut().update(bytes);
        self.tally.bytes.set(self.tally.bytes.get() + bytes.len() as u64);
        if let Some(mut copy) = self.copy {
            copy.write_all(bytes)?;
            begin_write_back(copy, self.tally.bytes.get() - bytes.len() as u64, bytes.len() as u64);
        }
        (self.on_bytes)(bytes.len() as u64);
        Ok(count)
    }
}

/// Has the disk begin to write, so that there is little to wait for in the end. Only a hint: what
/// comes of it is seen when the file is synced.
fn begin_write_back(file: &File, offset: u64, bytes: u64) {
    let (offset, bytes) = (offset.cast_signed(), bytes.cast_signed());
    // SAFETY: plain numbers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_drain_of_more_than_announced_stops_soon() {
        let tally = Tally::up_to(Some(10));
        let mut endless = io::repeat(7);
        let mut intake = Intake::new(&mut endless, None, &tally, &|_| {});
        intake.drain(&mut [0; 64]).unwrap();
        assert_eq!(tally.bytes(), 64);
    }
}
