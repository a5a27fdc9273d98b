//! The store of images: a directory.
//!
//! ```text
//! store.json            the version of this layout
//! lock                  held shared by who adds or uses, alone by who removes
//! blobs/sha256/HEX      manifests, configurations and layers as they came
//! layers/HEX/tree       a layer unpacked, as overlayfs takes it
//! layers/HEX/layer.json what was unpacked, and since which boot it is there
//! refs/NAME             the descriptor of the manifest that a name stands for
//! derived/KIND/HEX      what was made of an image's tree, such as a disk
//! staging/OWNER/        what a living process is about to add
//! empty/                a tree with nothing in it
//! ```
//!
//! # Rules
//!
//! * Whatever has its final name is whole: it was written in `staging` and renamed. What a process
//!   leaves there when it is killed is removed by the next that opens the store; staging directories
//!   are named after their owner as cgroups are.
//! * Blobs reach the disk before a name refers to them. Unpacked layers do not: they can be made
//!   again, so one of an earlier boot, which may have lost what was not written yet, does not count,
//!   and is unpacked again from its blob when it is needed.
//! * A layer is kept under its own digest (its diff id) and so shared between images whatever is
//!   below it. Only where its tree depends on what is below it is it kept under a digest of both.
//! * Nothing is removed while another process adds to the store or uses an image.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::Error;
use super::hold::Hold;
use super::record::Record;
use super::session::{Session, dependent_key};
use crate::cgroup::{Name, Owner};

/// Of the layout above.
const VERSION: u64 = 1;
const VERSION_FILE: &str = "store.json";
pub(crate) const STAGING: &str = "staging";
const DIRECTORIES: [&str; 6] = ["blobs/sha256", "layers", "refs", "derived", STAGING, "empty"];

#[derive(serde::Serialize, serde::Deserialize)]
struct Version {
    version: u64,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Where images are kept unless the caller says otherwise: `$TARE_STORE`, or `tare/images` in
    /// `$XDG_DATA_HOME` or `~/.local/share`.
    ///
    /// # Errors
    /// [`Error::NoPlace`].
    pub fn default_path() -> Result<PathBuf, Error> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(store) = variable("TARE_STORE") {
            return Ok(store.into());
        }
        let data = variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let in_home = || Some(PathBuf::from(variable("HOME")?).join(".local/share"));
        let data = data.or_else(in_home).ok_or(Error::NoPlace)?;
        Ok(data.join("tare/images"))
    }

    /// Opens the store in a directory, which is made if it is not there, and removes what dead
    /// processes left.
    ///
    /// # Errors
    /// The directory cannot be used, or is of a later version.
    pub fn open(path: &Path) -> Result<Store, Error> {
        let path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
        // What is in it may be set-user-ID, and as old as the image: none but the owner gets there.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for directory in DIRECTORIES {
            let directory = path.join(directory);
            builder.create(&directory).map_err(Error::io("make the directory", &directory))?;
        }
        // As it is the base of every box's root.
        let empty = path.join("empty");
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&empty, readable).map_err(Error::io("set the mode of", &empty))?;
        let store = Store { path };
        store.check_version()?;
        store.sweep()?;
        Ok(store)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps everything in the store where it is until the result is dropped, in whatever process.
    ///
    /// # Errors
    /// The lock cannot be had.
    pub fn hold(&self) -> Result<Hold, Error> {
        Hold::shared(&self.path)
    }

    /// Begins to add to the store.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn begin(&self) -> Result<Session<'_>, Error> {
        Session::begin(self)
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_path().join(digest.hex())
    }

    pub(crate) fn blobs_path(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    pub(crate) fn layer_path(&self, key: &Digest) -> PathBuf {
        self.path.join("layers").join(key.hex())
    }

    /// The tree of a layer that is unpacked.
    pub(crate) fn layer_tree(
        &self,
        diff_id: Digest,
        chain_id: Digest,
    ) -> Result<Option<(PathBuf, Record)>, Error> {
        for key in [diff_id, dependent_key(chain_id)] {
            let layer = self.layer_path(&key);
            if let Some(record) = Record::valid(&layer)? {
                return Ok(Some((layer.join("tree"), record)));
            }
        }
        Ok(None)
    }

    pub(crate) fn refs_path(&self) -> PathBuf {
        self.path.join("refs")
    }

    /// A tree with nothing in it, for images without layers.
    pub(crate) fn empty_path(&self) -> PathBuf {
        self.path.join("empty")
    }

    fn check_version(&self) -> Result<(), Error> {
        let file = self.path.join(VERSION_FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = serde_json::to_vec(&Version { version: VERSION }).unwrap_or_default();
                return self.begin()?.publish_file(&bytes, &file);
            }
            Err(error) => return Err(Error::io("read", &file)(error)),
        };
        match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version: VERSION }) => Ok(()),
            Ok(Version { version }) => {
                Err(Error::Version { path: self.path.clone(), found: version, known: VERSION })
            }
            Err(error) => {
                Err(Error::Malformed { what: file.display().to_string(), why: error.to_string() })
            }
        }
    }

    /// Removes what dead processes were about to add.
    fn sweep(&self) -> Result<(), Error> {
        let staging = self.path.join(STAGING);
        for entry in fs::read_dir(&staging).map_err(Error::io("list", &staging))? {
            let entry = entry.map_err(Error::io("list", &staging))?;
            let owner = entry.file_name().to_str().and_then(Name::owner);
            let lives = owner.map_or(Ok(Some(true)), |owner: Owner| owner.lives());
            if matches!(lives, Ok(Some(false))) {
                // Another process may be doing the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

/// Writes a file and sees to it that it is on the disk.
pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    written.map_err(Error::io("write", path))
}

/// Sees to it that the names in a directory are on the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io("sync", path))
}

#[cfg(test)]
mod tests;
