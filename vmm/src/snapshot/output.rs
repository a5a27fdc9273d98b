//! The files of a snapshot that is being made.
//!
//! `state` gets its name last, when everything is written: whatever ends the writer before, be it
//! `kill -9`, leaves a directory that is refused as unfinished. What the host's kernel has taken it
//! writes to the disk when it sees fit, so after a loss of power a `state` may be there whose
//! `memory` is not: its checksum tells ([`SnapshotFiles::verify`](super::SnapshotFiles::verify)).
//! A durable snapshot is on the disk before `state` gets its name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::pages::Pages;
use super::{Captured, Id, Kind, MEMORY, PARTIAL, SnapshotError, Writer, fresh_id};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Output {
    /// Open: whoever has given up the root file system still reaches it.
    directory: File,
    state: File,
    pub(super) memory: File,
    id: Id,
    durable: bool,
}

impl Output {
    /// Makes the directory, which must not be there yet, and the files in it. Only this user can
    /// read them: they hold all that the guest has in its memory.
    pub(super) fn create(directory: &Path) -> Result<Output, SnapshotError> {
        fs::create_dir(directory).map_err(SnapshotError::file("make the directory", directory))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(directory, private)
            .map_err(SnapshotError::file("protect", directory))?;
        let new = |name: &str| {
            let path = directory.join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            file.map_err(SnapshotError::file("make", &path))
        };
        Ok(Output {
            state: new(PARTIAL)?,
            memory: new(MEMORY)?,
            directory: File::open(directory).map_err(SnapshotError::file("open", directory))?,
            id: fresh_id().map_err(SnapshotError::Write)?,
            durable: false,
        })
    }

    /// Has it on the disk when it is finished.
    pub(super) fn durable(self) -> Output {
        Output { durable: true, ..self }
    }

    /// Adds what is known of the memory to a state, writes it, and gives it its name.
    pub(super) fn finish(&self, writer: Writer, pages: &Pages) -> Result<Captured, SnapshotError> {
        self.end(writer, pages).map_err(SnapshotError::Write)
    }

    fn end(&self, mut writer: Writer, pages: &Pages) -> io::Result<Captured> {
        writer.section(Kind::Id, 0, &self.id);
        writer.section(Kind::Memory, 0, &pages.checksum);
        writer.section(Kind::Memory, 1, pages.extents.as_slice());
        let state = writer.finish();
        (&self.state).write_all(&state)?;
        if self.durable {
            self.memory.sync_all()?;
            self.state.sync_all()?;
        }
        self.name()?;
        if self.durable {
            self.directory.sync_all()?;
        }
        Ok(Captured { memory_bytes: pages.bytes(), state_bytes: state.len() as u64 })
    }

    fn name(&self) -> io::Result<()> {
        let at = self.directory.as_raw_fd();
        // SAFETY: both names are C strings.
        let result =
            unsafe { libc::renameat(at, c"state.partial".as_ptr(), at, c"state".as_ptr()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
