//! Taking a snapshot.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::files::Parent;
use super::output::Output;
use super::pagemap::Pagemap;
use super::pages::Source;
use super::{Guest, Kind, Snapshot, SnapshotError, Writer};
use crate::memory::GuestRam;
use crate::{Error, Prepared, controllers, cpu, devices};

/// The files of a snapshot that is going to be taken, opened beforehand: a VMM that has given up
/// its root file system cannot open any. It must still be allowed to rename a file in the directory.
///
/// Make it in the VMM's own process, whose memory it will read.
#[derive(Debug)]
pub struct Capture {
    output: Output,
    pagemap: Pagemap,
    guest: Guest,
    base: Option<Base>,
}

/// What a differential snapshot differs from.
#[derive(Debug)]
struct Base {
    parent: Parent,
    place: PathBuf,
    memory: File,
}

/// What a snapshot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Bytes of guest RAM in it: pages that are not zero, or of a differential snapshot pages that
    /// differ.
    pub memory_bytes: u64,
    /// Bytes of the rest.
    pub state_bytes: u64,
}

impl Capture {
    /// Makes the directory, which must not be there yet, and the files in it. Only this user can
    /// read them: they hold all that the guest has in its memory.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`], with what cannot be made.
    pub fn create(directory: &Path, prepared: &Prepared) -> Result<Capture, SnapshotError> {
        Ok(Capture {
            output: Output::create(directory)?,
            pagemap: Pagemap::open()?,
            guest: Guest::of(prepared)?,
            base: None,
        })
    }

    /// As [`create`](Capture::create), for a guest that was restored from `parent`: the snapshot will
    /// have only the pages that differ from it, and can be restored as long as `parent` is
    /// there.
    ///
    /// # Errors
    ///
    /// As of `create`.
    pub fn difference(
        directory: &Path,
        prepared: &Prepared,
        parent: &Snapshot,
    ) -> Result<Capture, SnapshotError> {
        let place = parent.directory();
        let place = fs::canonicalize(place).map_err(SnapshotError::file("find", place))?;
        let memory = parent.memory().try_clone();
        let memory = memory.map_err(SnapshotError::file("open the memory of", &place))?;
        let base = Base { parent: parent.as_parent(), memory, place };
        Ok(Capture { base: Some(base), ..Capture::create(directory, prepared)? })
    }

    /// Has the snapshot on the disk (fsync) when it is taken. Else it is safe from the end of this
    /// process, however that comes, and not from a loss of power.
    pub fn durable(self) -> Capture {
        Capture { output: self.output.durable(), ..self }
    }

    /// Writes everything. No vCPU and no device may be running.
    pub(crate) fn write(
        &self,
        prepared: &Prepared,
        vcpus: &[cpu::Saved],
        controllers: &controllers::Saved,
        devices: &devices::Saved,
        ram: &GuestRam,
    ) -> Result<Captured, Error> {
        let failed = SnapshotError::Write;
        let source = Source { ram, pagemap: &self.pagemap };
        let mut writer = Writer::new();
        writer.section(Kind::Guest, 0, &self.guest);
        let pages = match &self.base {
            None => source.write(&self.output.memory).map_err(failed)?,
            Some(Base { parent, place, memory }) => {
                if ram.origin() != Some(parent.id) {
                    return Err(SnapshotError::Origin { path: place.clone() }.into());
                }
                writer.section(Kind::Parent, 0, parent);
                writer.section(Kind::Parent, 1, place.as_os_str().as_bytes());
                source.write_difference(&self.output.memory, memory).map_err(failed)?
            }
        };
        for (index, vcpu) in vcpus.iter().enumerate() {
            writer.section(Kind::CpuId, index, prepared.identity.entries(index));
            vcpu.write(&mut writer, index);
        }
        controllers.write(&mut writer);
        devices.write(&mut writer);
        Ok(self.output.finish(writer, &pages)?)
    }
}
