//! Whether what is in a store is what was put there.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::blob::Blob;
use super::error::Error;
use super::intake::{CHUNK_BYTES, Intake, Tally};
use super::limits::UnpackLimits;
use super::session::Session;
use super::store::Store;
use super::stored::Image;

impl Store {
    /// Reads every blob of an image and unpacks its layers once more, beside the ones that are
    /// there, to compare them.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::WrongDigest`] and [`Error::WrongSize`] for the first
    /// difference; or something cannot be read.
    pub fn check(&self, image: &Image) -> Result<(), Error> {
        let session = self.begin()?;
        for blob in [image.blob(), image.config_blob()] {
            self.check_blob(&blob)?;
        }
        let trees = self.layer_trees(image)?;
        for (index, layer) in image.layers().iter().enumerate() {
            self.check_blob(&layer.blob)?;
            // Topmost first: those behind its own are the ones below it.
            let own = trees.len() - 1 - index;
            let below = trees.get(own + 1..).unwrap_or_default();
            if let Some(tree) = trees.get(own) {
                session.check_tree(&layer.blob, tree, below)?;
            }
        }
        Ok(())
    }

    fn check_blob(&self, blob: &Blob) -> Result<(), Error> {
        let path = self.blob_path(&blob.digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let tally = Tally::up_to(Some(blob.size_bytes));
        Intake::new(&mut file, None, &tally, &|_| {})
            .drain(&mut vec![0; CHUNK_BYTES])
            .map_err(Error::io("read", &path))?;
        super::session::check(&format!("the blob {}", blob.digest), &tally, Some(*blob)).map(drop)
    }
}

impl Session<'_> {
    fn check_tree(&self, blob: &Blob, tree: &Path, below: &[PathBuf]) -> Result<(), Error> {
        let again = self.unpack_again(blob, below, &UnpackLimits::default())?;
        let name = blob.digest.to_string();
        let damaged = |why: String| Error::Damaged { what: format!("the layer {name}"), why };
        match difference(tree, &again).map_err(Error::io("compare", tree))? {
            None => fs::remove_dir_all(&again).map_err(Error::io("remove", &again)),
            Some(path) => Err(damaged(format!("`{}` is not as it was unpacked", path.display()))),
        }
    }
}

/// The first path by which two trees differ.
fn difference(one: &Path, other: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let (one, other) = (one.join(&path), other.join(&path));
        let (left, right) = (
            fs::symlink_metadata(&one)?,
            match fs::symlink_metadata(&other) {
                Ok(metadata) => metadata,
                Err(_) => return Ok(Some(path)),
            },
        );
        let described = |m: &fs::Metadata| {
            (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev(), m.nlink())
        };
        if described(&left) != described(&right) || attributes(&one) != attributes(&other) {
            return Ok(Some(path));
        }
        let is_same = if left.is_dir() {
            let (left, right) = (names(&one)?, names(&other)?);
            pending.extend(left.iter().map(|name| path.join(name)));
            left == right
        } else if left.is_symlink() {
            fs::read_link(&one)? == fs::read_link(&other)?
        } else {
            !left.is_file() || (left.len() == right.len() && same_content(&one, &other)?)
        };
        if !is_same {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn names(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn same_content(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = one.read(&mut left)?;
        let Some(space) = right.get_mut(..count) else { return Ok(false) };
        match other.read_exact(space) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if left.get(..count) != Some(&*space) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

/// Names and values of extended attributes; none where there are none to be had.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let listed = names.get(..length).unwrap_or_default();
    let mut all: Vec<_> = listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let name_path = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name_path, &mut value).unwrap_or(0);
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_difference_finds_what_was_changed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [one.path(), other.path()] {
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/f"), "text").unwrap();
            for path in [root.join("d/f"), root.join("d"), root.to_owned()] {
                let file = File::open(path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
        let differs = || difference(one.path(), other.path()).unwrap();
        assert_eq!(differs(), None);
        let changed = other.path().join("d/f");
        fs::write(&changed, "Text").unwrap();
        File::open(&changed).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(differs(), Some("d/f".into()));
        fs::remove_file(changed).unwrap();
        File::open(other.path().join("d")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(differs().is_some());
    }
}
