//! Nothing that was measured is lost because its place cannot be written to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::print_text;
use crate::results::Results;

/// A tmpfs: it takes files where every disk is full.
const SHARED_MEMORY: &str = "/dev/shm";

/// Makes the directory, and sees that files can be made there, before hours are spent on what could
/// not be saved.
pub(super) fn prepare(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let probe = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tare-probe-").tempfile_in(directory)?;
        io::Write::write_all(&mut file, b"results")
    };
    probe().with_context(|| {
        format!(
            "cannot write in {}, where the results would go; give another directory with --out",
            directory.display()
        )
    })
}

/// What became of results that could not be saved in their place.
pub(super) enum Rescued {
    /// They are in this file.
    File(PathBuf),
    /// They were printed on standard output.
    Printed,
}

/// Saves results in another place, or prints them.
pub(super) fn rescue(results: &Results, file_name: &str) -> anyhow::Result<Rescued> {
    for directory in [std::env::temp_dir(), PathBuf::from(SHARED_MEMORY)] {
        let path = directory.join(file_name);
        if results.save(&path).is_ok() {
            return Ok(Rescued::File(path));
        }
    }
    print_text(&(serde_json::to_string_pretty(results)? + "\n"))?;
    Ok(Rescued::Printed)
}
