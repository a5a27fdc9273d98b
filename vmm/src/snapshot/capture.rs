//! Taking a snapshot.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Guest, Kind, MEMORY, STATE, SnapshotError, Writer, pages};
use crate::{Error, Prepared, controllers, cpu, devices};

/// The files of a snapshot that is going to be taken, opened beforehand: a VMM that has given up
/// its root file system cannot open any.
///
/// Make it in the VMM's own process, whose memory it will read.
#[derive(Debug)]
pub struct Capture {
    state: File,
    memory: File,
    pagemap: File,
    guest: Guest,
}

/// What a snapshot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Bytes of guest RAM in it: pages that are not zero.
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
        fs::create_dir(directory).map_err(SnapshotError::file("make the directory", directory))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(directory, private)
            .map_err(SnapshotError::file("protect", directory))?;
        let new = |name: &str| {
            let path = directory.join(name);
            let file = File::options().write(true).create_new(true).open(&path);
            file.map_err(SnapshotError::file("make", &path))
        };
        let pagemap = Path::new("/proc/self/pagemap");
        Ok(Capture {
            state: new(STATE)?,
            memory: new(MEMORY)?,
            pagemap: File::open(pagemap).map_err(SnapshotError::file("open", pagemap))?,
            guest: Guest::of(prepared)?,
        })
    }

    /// Writes everything. No vCPU and no device may be running.
    pub(crate) fn write(
        &self,
        prepared: &Prepared,
        vcpus: &[cpu::Saved],
        controllers: &controllers::Saved,
        devices: &devices::Saved,
        ram: &crate::memory::GuestRam,
    ) -> Result<Captured, Error> {
        let failed = SnapshotError::Write;
        let pages = pages::write(ram, &self.pagemap, ram.base(), &self.memory).map_err(failed)?;
        let mut writer = Writer::new();
        writer.section(Kind::Guest, 0, &self.guest);
        for (index, vcpu) in vcpus.iter().enumerate() {
            writer.section(Kind::CpuId, index, prepared.identity.entries(index));
            vcpu.write(&mut writer, index);
        }
        controllers.write(&mut writer);
        devices.write(&mut writer);
        writer.section(Kind::Memory, 0, &pages.checksum);
        writer.section(Kind::Memory, 1, pages.extents.as_slice());
        let state = writer.finish();
        // Last: a snapshot without it is refused.
        (&self.state).write_all(&state).map_err(failed)?;
        Ok(Captured { memory_bytes: pages.bytes(), state_bytes: state.len() as u64 })
    }
}
