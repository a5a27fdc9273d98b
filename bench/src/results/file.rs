//! Reading and writing results files.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Inconsistency, Results, SCHEMA, SCHEMA_VERSION};

/// A longer file is not read. A thousand samples of a hundred cells need a tenth of it.
pub const FILE_MAX_BYTES: u64 = 256 << 20;

/// A results file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is larger than [`FILE_MAX_BYTES`].
    #[error("{path} is larger than {FILE_MAX_BYTES} bytes; is it a results file of tare?", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file ends in mid-sentence.
    #[error(
        "{path} is cut short: it ends at line {line}, column {column}, in the middle of a value; \
         copy it again or run `tare compare` again", path = path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Last line.
        line: usize,
        /// Last column.
        column: usize,
    },
    /// The file is not JSON at all.
    #[error(
        "{path} is not JSON: {why}; give a results file that `tare compare` wrote (not its HTML or Markdown)",
        path = path.display()
    )]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// It is JSON, but not ours.
    #[error(
        "{path} is JSON, but not a results file of tare: its field 'schema' is {found}, not \"{SCHEMA}\"",
        path = path.display()
    )]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// What the field holds.
        found: String,
    },
    /// It is of a version that this tare does not read.
    #[error(
        "{path} has schema version {found}; this tare reads version {SCHEMA_VERSION}: \
         use the tare that wrote it, or run `tare compare` again", path = path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version, as it stands there.
        found: String,
    },
    /// A field is missing or of the wrong kind.
    #[error("{path} does not follow its schema: {why}; results/SCHEMA.md describes every field", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// The fields are all there and contradict each other.
    #[error("{path} contradicts itself: {source}; it was edited or damaged", path = path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Inconsistency,
    },
}

/// What tells our files from others, read before everything else.
#[derive(Deserialize)]
struct Label {
    #[serde(default)]
    schema: serde_json::Value,
    #[serde(default)]
    schema_version: serde_json::Value,
}

impl Results {
    /// Reads a results file and checks that it is whole, ours and consistent.
    ///
    /// # Errors
    /// [`Error`], a different one for each way in which a file can be bad.
    pub fn load(path: &Path) -> Result<Results, Error> {
        let io_error = |source| Error::Io { what: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(io_error)?;
        let mut bytes = Vec::new();
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(Error::TooLarge { path: path.to_owned() });
        }
        parse(&bytes, path)
    }

    /// Computes every cell's summaries from its samples.
    pub fn summarise(&mut self) {
        for cell in &mut self.cells {
            cell.summaries = cell.summarise(self.seed);
        }
    }

    /// The document as the text of its file.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] where it could not be read back.
    pub fn to_json(&self, path: &Path) -> Result<String, Error> {
        self.check().map_err(|source| Error::Inconsistent { path: path.to_owned(), source })?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Malformed { path: path.to_owned(), why: error.to_string() })?;
        Ok(text + "\n")
    }

    /// Writes the file whole or not at all: beside its place first, then renamed.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] before anything is written, [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = self.to_json(path)?;
        write_atomically(path, text.as_bytes()).map_err(|source| Error::Io {
            what: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Results, Error> {
    let owned = || path.to_owned();
    let label: Label = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => {
            Error::CutShort { path: owned(), line: error.line(), column: error.column() }
        }
        serde_json::error::Category::Data => Error::OtherSchema {
            path: owned(),
            found: "absent: the file is not a JSON object".to_owned(),
        },
        _ => Error::NotJson { path: owned(), why: error.to_string() },
    })?;
    if label.schema != SCHEMA {
        return Err(Error::OtherSchema { path: owned(), found: shortened(&label.schema) });
    }
    if label.schema_version != SCHEMA_VERSION {
        return Err(Error::OtherVersion { path: owned(), found: shortened(&label.schema_version) });
    }
    let results: Results = serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed { path: owned(), why: error.to_string() })?;
    results.check().map_err(|source| Error::Inconsistent { path: owned(), source })?;
    Ok(results)
}

fn shortened(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "absent".to_owned(),
        value => value.to_string().chars().take(60).collect(),
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".tare-results-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    make_readable(file.as_file())?;
    file.persist(path)?;
    Ok(())
}

/// Temporary files are private; results are as readable as any new file.
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}
