//! The files that an instruction adds to a stage, put where its paths lead in the stage's own tree.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::entry::{Entries, Entry, EntryKind};
use super::error::BuildError;
use super::merged::{Merged, resolve};
use crate::image::Digest;

/// A layer in the making.
pub(super) struct Staging<'a> {
    below: &'a Merged,
    entries: Entries,
    /// Of directories that are made on the way.
    owner: (u32, u32),
}

impl<'a> Staging<'a> {
    /// Begins a layer upon `below`.
    pub(super) fn new(below: &'a Merged, owner: (u32, u32)) -> Staging<'a> {
        Staging { below, entries: Entries::new(), owner }
    }

    pub(super) fn finish(self) -> Entries {
        self.entries
    }

    /// Follows the links of a path, both new ones and those of the layers below.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, BuildError> {
        resolve(path, &|path| {
            let found;
            let entry = match self.entries.get(path) {
                Some(entry) => Some(entry),
                None => {
                    found = self.link_below(path)?;
                    found.as_ref()
                }
            };
            Ok(match entry.map(|entry| &entry.kind) {
                Some(EntryKind::Symlink(target)) => {
                    use std::os::unix::ffi::OsStrExt;
                    Some(std::ffi::OsStr::from_bytes(target).into())
                }
                _ => None,
            })
        })
    }

    fn link_below(&self, path: &Path) -> Result<Option<Entry>, BuildError> {
        match self.below.find(path)? {
            Some(found) if found.is_link() => found.entry().map(Some),
            _ => Ok(None),
        }
    }

    /// Whether a resolved path is a directory, if there is something.
    pub(super) fn is_directory(&self, path: &Path) -> Result<Option<bool>, BuildError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(true));
        }
        match self.entries.get(path) {
            Some(entry) => Ok(Some(entry.is_directory())),
            None => Ok(self.below.find(path)?.map(|found| found.is_directory())),
        }
    }

    /// Makes a directory if it is not there, and returns where it is when links are followed.
    pub(super) fn put_directory(
        &mut self,
        path: &Path,
        entry: Entry,
    ) -> Result<PathBuf, BuildError> {
        let path = self.resolve(path)?;
        match self.is_directory(&path)? {
            Some(true) => self.mention(&path)?,
            Some(false) => return Err(in_the_way(&path, "a file", "a directory")),
            None => {
                self.make_parents(&path)?;
                self.entries.insert(path.clone(), entry);
            }
        }
        Ok(path)
    }

    /// Puts anything but a directory at `path`, the directory of which is found by its links.
    pub(super) fn put_file(&mut self, path: &Path, entry: Entry) -> Result<PathBuf, BuildError> {
        let name = path.file_name().ok_or_else(|| in_the_way(path, "a directory", "a file"))?;
        let path = self.resolve(path.parent().unwrap_or(Path::new("")))?.join(name);
        if self.is_directory(&path)? == Some(true) {
            return Err(in_the_way(&path, "a directory", "a file"));
        }
        self.make_parents(&path)?;
        self.entries.insert(path.clone(), entry);
        Ok(path)
    }

    pub(super) fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Makes the directories above a resolved path.
    fn make_parents(&mut self, path: &Path) -> Result<(), BuildError> {
        let above: Vec<_> = path.ancestors().skip(1).collect();
        for directory in above.into_iter().rev() {
            match self.is_directory(directory)? {
                Some(true) => self.mention(directory)?,
                Some(false) => return Err(in_the_way(directory, "a file", "a directory")),
                None => {
                    let (uid, gid) = self.owner;
                    let entry = Entry { uid, gid, ..Entry::implied_directory() };
                    self.entries.insert(directory.to_owned(), entry);
                }
            }
        }
        Ok(())
    }

    /// A directory of the layers below is part of this layer as it is, so that the layer means the
    /// same upon others.
    fn mention(&mut self, directory: &Path) -> Result<(), BuildError> {
        if directory.as_os_str().is_empty() || self.entries.contains_key(directory) {
            return Ok(());
        }
        if let Some(found) = self.below.find(directory)? {
            self.entries.insert(directory.to_owned(), found.entry()?);
        }
        Ok(())
    }
}

fn in_the_way(path: &Path, is: &str, wanted: &str) -> BuildError {
    let path = Path::new("/").join(path);
    BuildError::invalid(
        format!("{} is {is} in the image, and {wanted} is to be put there", path.display()),
        "remove it by a RUN before, or choose another target",
    )
}

/// An absolute path without empty and dot parts, each `..` taken with what is before it.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// By what a layer of these files is found again.
pub(super) fn digest(entries: &Entries) -> Digest {
    let mut hasher = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (path, entry) in entries {
        field(path.as_os_str().as_encoded_bytes());
        for number in [entry.mode, entry.uid, entry.gid] {
            field(&number.to_le_bytes());
        }
        for (name, value) in &entry.attributes {
            field(name);
            field(value);
        }
        match &entry.kind {
            EntryKind::Directory { opaque } => field(&[b'd', u8::from(*opaque)]),
            EntryKind::File(content) => {
                field(b"f");
                field(&content.sha256);
            }
            EntryKind::Symlink(target) => {
                field(b"l");
                field(target);
            }
            EntryKind::Hardlink(target) => {
                field(b"h");
                field(target.as_os_str().as_encoded_bytes());
            }
            EntryKind::Fifo => field(b"p"),
            EntryKind::Whiteout => field(b"w"),
        }
    }
    Digest::finish(hasher)
}
