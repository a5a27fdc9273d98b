//! The file `working-set`: pages that a guest is known to need at once.
//!
//! Without it a restored guest leaves for the host's kernel at each page that it comes to, waits for
//! the disk where the snapshot is not in the host's cache, and leaves once more where it then
//! writes. With it pages that it will write are copied before it begins, many at a time, and pages
//! that it will read are asked of the disk at once.
//!
//! To put them into the guest's page tables too (`KVM_PRE_FAULT_MEMORY`) was measured and gains
//! nothing: a page costs the kernel 8 µs of the lab's time that way, too.

use std::fs;
use std::io;
use std::path::Path;

use super::files::read_whole;
use super::format::{FormatError, Kind, Sections, Writer};
use super::pages::Extent;
use super::{SnapshotError, WORKING_SET};
use crate::memory::GuestRam;

const PAGE_BYTES: u64 = 4096;
/// How many places are looked at to know whether pages are in memory.
const SAMPLE: usize = 8;
/// Far more than a recording keeps.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Which pages to bring in before a guest begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Pages that the guest writes.
    written: Vec<Extent>,
    /// Others that it reads.
    read: Vec<Extent>,
}

impl WorkingSet {
    /// Adds a page, in ascending order.
    pub(super) fn push(&mut self, offset: u64, written: bool) {
        let list = if written { &mut self.written } else { &mut self.read };
        match list.last_mut() {
            Some(last) if last.offset + last.bytes == offset => last.bytes += PAGE_BYTES,
            _ => list.push(Extent { offset, bytes: PAGE_BYTES }),
        }
    }

    /// How many bytes the guest writes and how many it only reads.
    pub fn bytes(&self) -> (u64, u64) {
        let sum = |list: &[Extent]| list.iter().map(|extent| extent.bytes).sum();
        (sum(&self.written), sum(&self.read))
    }

    /// Puts it beside the snapshot in `directory`, where it is found from then on.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), SnapshotError> {
        let mut writer = Writer::new();
        writer.section(Kind::Memory, 0, self.written.as_slice());
        writer.section(Kind::Memory, 1, self.read.as_slice());
        let path = directory.join(WORKING_SET);
        fs::write(&path, writer.finish()).map_err(SnapshotError::file("write", &path))
    }

    /// That of a snapshot, if it has one.
    pub(super) fn load(
        directory: &Path,
        memory_bytes: u64,
    ) -> Result<Option<WorkingSet>, SnapshotError> {
        let path = directory.join(WORKING_SET);
        let bad = |error: FormatError| SnapshotError::Bad {
            path: path.clone(),
            reason: format!("{error}; remove it: a snapshot is good without it"),
        };
        let bytes = match read_whole(&path, FILE_MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(SnapshotError::file("read", &path))?,
        };
        let bytes = bytes.ok_or_else(|| bad(FormatError::Length))?;
        let sections = Sections::parse(bytes).map_err(bad)?;
        let written = sections.values::<Extent>(Kind::Memory, 0).map_err(bad)?;
        let read = sections.values::<Extent>(Kind::Memory, 1).map_err(bad)?;
        for list in [&written, &read] {
            if !super::pages::fit(list, memory_bytes) {
                return Err(bad(FormatError::Length));
            }
        }
        Ok(Some(WorkingSet { written, read }))
    }

    /// Whether a sample of the pages that are only read is in the host's memory already, as all of
    /// them are where the snapshot was used a moment ago. To ask for each costs 0.3 ms in the lab.
    fn is_at_hand(&self, ram: &GuestRam) -> bool {
        let step = self.read.len().div_ceil(SAMPLE).max(1);
        self.read.iter().step_by(step).all(|extent| ram.is_resident(extent.offset))
    }

    /// Brings the pages in, as far as the host can: what it cannot, the guest will. `held` says
    /// that they are in memory anyway.
    pub(crate) fn fetch(&self, ram: &GuestRam, held: bool) {
        if !held && !self.is_at_hand(ram) {
            for Extent { offset, bytes } in &self.read {
                ram.advise(*offset, *bytes, libc::MADV_WILLNEED);
            }
        }
        for Extent { offset, bytes } in &self.written {
            ram.advise(*offset, *bytes, libc::MADV_POPULATE_WRITE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_save_and_load_round_trip_and_damage_is_refused() {
        let mut set = WorkingSet::default();
        for (page, written) in [(1, true), (2, true), (3, false), (9, true), (11, false)] {
            set.push(page * PAGE_BYTES, written);
        }
        assert_eq!((set.written.len(), set.read.len()), (2, 2));
        assert_eq!(set.bytes(), (3 * PAGE_BYTES, 2 * PAGE_BYTES));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(WorkingSet::load(directory.path(), 1 << 20).unwrap(), None);
        set.save(directory.path()).unwrap();
        assert_eq!(WorkingSet::load(directory.path(), 1 << 20).unwrap(), Some(set));
        // A page beyond the guest's memory.
        let error = WorkingSet::load(directory.path(), 8 * PAGE_BYTES).unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
        let path = directory.path().join(WORKING_SET);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(WorkingSet::load(directory.path(), 1 << 20).is_err());
    }
}
