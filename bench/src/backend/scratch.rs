//! The scratch directory of a box that is a process of this host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Assignment;
use crate::kit::{Error, Kit, file_system_of};

/// A directory for one cell's boxes; each finds it empty.
pub(super) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(super) fn new(kit: &Kit, assignment: &Assignment) -> Result<ScratchDir, Error> {
        Ok(ScratchDir(kit.new_scratch_dir_for(assignment)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// For a cell's declared state.
    pub(super) fn state(&self) -> String {
        format!("scratch: an empty directory on {}", file_system_of(&self.0))
    }

    /// Removes what the last box left.
    pub(super) fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
