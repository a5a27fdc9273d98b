//! The image that boxes run: one tree for all of them.
//!
//! A container gets the layers as they are, a process the tree that overlayfs makes of them, and a
//! microVM a disk made of that tree, which the store keeps.

mod merged;
mod sample;

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tare_container::image::{self as store, Bundle, Hold, Image, Import, Store};
use tare_kernels::{erofs, ext4};

pub use merged::{Error as MergedError, Merged, while_merged};
pub use sample::{SAMPLE_TAG, SampleImage};

use crate::rundir::RunDir;

/// In the lab, an archive of the image that the command names.
pub(crate) const ARCHIVE_VARIABLE: &str = "TARE_IMAGE_ARCHIVE";
/// Free space on a disk beyond the image's files.
const DISK_SLACK_BYTES: u64 = 64 << 20;

/// The image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The tree of all layers.
    #[error(transparent)]
    Merged(#[from] MergedError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] ext4::Error),
    /// The read-only disk.
    #[error(transparent)]
    ReadOnlyDisk(#[from] erofs::Error),
    /// The directory of an image that came as an archive.
    #[error("cannot make a directory for the image: {0}")]
    Directory(io::Error),
}

/// An image, kept in its store while it is used.
#[derive(Debug)]
pub struct UsedImage {
    name: String,
    store: Store,
    image: Image,
    layers: Vec<PathBuf>,
    merged: OnceCell<Merged>,
    _hold: Hold,
    /// Where the store is, if it is this run's own.
    _directory: Option<RunDir>,
}

impl UsedImage {
    /// Finds the image of that name or digest.
    ///
    /// # Errors
    /// [`Error::Store`]: there is none, or it cannot be unpacked.
    pub fn open(name: &str) -> Result<UsedImage, Error> {
        let (store, directory) = match std::env::var_os(ARCHIVE_VARIABLE) {
            None => (Store::open(&Store::default_path()?)?, None),
            Some(archive) => {
                let directory = RunDir::new().map_err(Error::Directory)?;
                let store = Store::open(&directory.path().join("images"))?;
                let bundle = Bundle::open(&store, Path::new(&archive))?;
                let entry = bundle.select(None)?;
                let reference = bundle.reference(entry)?;
                bundle.import(&store, entry, &Import::new(&reference))?;
                (store, Some(directory))
            }
        };
        let hold = store.hold()?;
        let image = store.find(name)?;
        let layers = store.layer_trees(&image)?;
        Ok(UsedImage {
            name: name.to_owned(),
            store,
            image,
            layers,
            merged: OnceCell::new(),
            _hold: hold,
            _directory: directory,
        })
    }

    /// What it was found by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the store has of it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The trees of its layers, topmost first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// The path of its whole tree, for this process and its children. What is written there is in
    /// memory and goes with this value.
    ///
    /// # Errors
    /// [`Error::Merged`].
    pub fn tree(&self) -> Result<PathBuf, Error> {
        if let Some(merged) = self.merged.get() {
            return Ok(merged.path());
        }
        let merged = Merged::new(&self.layers)?;
        Ok(self.merged.get_or_init(|| merged).path())
    }

    /// An ext4 disk with its tree, made once and kept in the store: not to be written to.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn disk(&self) -> Result<PathBuf, Error> {
        self.store.derive(&self.image, "ext4", |path| {
            // A tree of its own: nobody has written to it.
            while_merged(&self.layers, |tree| {
                let size_bytes = ext4::size_for(tree)? + DISK_SLACK_BYTES;
                ext4::build(&ext4::Image { path, size_bytes, label: "root", tree: Some(tree) })
            })?
            .map_err(Error::from)
        })
    }

    /// The same as an erofs disk.
    ///
    /// # Errors
    /// [`Error::ReadOnlyDisk`].
    pub fn read_only_disk(&self) -> Result<PathBuf, Error> {
        self.store.derive(&self.image, "erofs", |path| {
            while_merged(&self.layers, |tree| erofs::build(path, tree))?.map_err(Error::from)
        })
    }
}

/// Copies a file with the holes it has.
///
/// # Errors
/// What the file system says.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    use std::os::fd::AsRawFd;
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let seek = |offset: u64, whence| -> io::Result<Option<u64>> {
        // SAFETY: plain numbers.
        let found = unsafe { libc::lseek(from.as_raw_fd(), offset.cast_signed(), whence) };
        match u64::try_from(found) {
            Ok(found) => Ok(Some(found)),
            Err(_) => match io::Error::last_os_error() {
                // No more data.
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    };
    let mut extents = Vec::new();
    let mut end = 0;
    while let Some(start) = seek(end, libc::SEEK_DATA)? {
        end = seek(start, libc::SEEK_HOLE)?.unwrap_or(size);
        extents.push((start, end - start));
    }
    for (start, bytes) in extents {
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(&mut from, bytes), &mut to)?;
    }
    Ok(())
}

/// Writes an image's archive for the lab.
///
/// # Errors
/// [`Error::Store`].
pub(crate) fn archive_of(name: &str, to: &Path) -> Result<(), Error> {
    let store = Store::open(&Store::default_path()?)?;
    let image = store.find(name)?;
    // The lab finds it by the same name, be that a digest.
    let reference = match name.parse() {
        Ok(reference) if store.image(&reference).is_ok() => reference,
        _ => "image:latest".parse()?,
    };
    Ok(store.export(&image, &reference, store::Form::Archive, to)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn test_copy_sparse_keeps_content_and_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 33 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
