//! Where facts about the machine come from: files of `/proc` and `/sys`, and uname(2).

use std::fs;
use std::path::{Path, PathBuf};

/// The root below which facts are read: `/`, or a directory with the files of another machine.
#[derive(Debug, Clone)]
pub struct Source {
    root: PathBuf,
}

impl Source {
    /// This machine.
    pub fn live() -> Source {
        Source { root: PathBuf::from("/") }
    }

    /// The files of another machine, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Source {
        Source { root: root.into() }
    }

    /// The trimmed text of a file; `None` where there is none or it cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The value of the first line `key : value` of a file.
    pub fn field(&self, path: &str, key: &str) -> Option<String> {
        self.text(path)?.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    }

    /// The marked choice of a file like `always [madvise] never`.
    pub fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// Whether a file exists.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names of what a directory holds; none where it cannot be read.
    pub fn entries(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path.trim_start_matches('/')))
    }
}
