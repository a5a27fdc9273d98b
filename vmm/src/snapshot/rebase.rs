//! Making a whole snapshot of a differential one.

use std::path::Path;

use super::output::Output;
use super::pages::Pages;
use super::{Captured, Kind, SnapshotError, SnapshotFiles, Writer};

impl SnapshotFiles {
    /// Makes a snapshot in `directory`, which must not be there yet, that has all which a guest of
    /// this one has: it needs no parent. Everything is read and checked on the way.
    ///
    /// # Errors
    ///
    /// As of [`verify`](SnapshotFiles::verify), and [`SnapshotError::File`] and
    /// [`SnapshotError::Write`] for what cannot be made.
    pub fn rebase(&self, directory: &Path) -> Result<Captured, SnapshotError> {
        let output = Output::create(directory)?.durable();
        output.memory.set_len(self.guest.memory_bytes).map_err(SnapshotError::Write)?;
        let mut pages = Pages { extents: self.merge(&output.memory)?, checksum: 0 };
        pages.checksum = pages.checksum_of(&output.memory).map_err(SnapshotError::Write)?;
        let mut writer = Writer::new();
        writer.copy(&self.sections, &[Kind::Parent, Kind::Memory, Kind::Id]);
        output.finish(writer, &pages)
    }
}
