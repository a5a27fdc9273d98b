//! Removal of what no name refers to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::Error;
use super::hold::Hold;
use super::reference::Reference;
use super::session::dependent_key;
use super::store::{Store, sync_directory};

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Collected {
    /// Blobs, layers and disks that are gone.
    pub removed: u64,
    /// Space on the disk that they had.
    pub freed_bytes: u64,
    /// Nothing was removed, for another process uses the store; the next removal does it.
    pub is_deferred: bool,
}

impl Store {
    /// Removes a name, and all that no other name refers to.
    ///
    /// # Errors
    /// [`Error::NoImage`]; or the store cannot be written.
    pub fn remove(&self, reference: &Reference) -> Result<Collected, Error> {
        let path = self.refs_path().join(reference.file_name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let store = self.path().to_owned();
                return Err(Error::NoImage { name: reference.to_string(), store });
            }
            removed => removed.map_err(Error::io("remove", &path))?,
        }
        sync_directory(&self.refs_path())?;
        self.collect()
    }

    /// Removes all that no name refers to, unless another process uses the store.
    ///
    /// # Errors
    /// The store cannot be read or written; or an image is damaged, so that what belongs to it is
    /// not known.
    pub fn collect(&self) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        let Some(_alone) = Hold::alone(self.path())? else {
            return Ok(Collected { is_deferred: true, ..collected });
        };
        let live = self.live()?;
        self.remove_others("blobs/sha256", &live.blobs, &mut collected)?;
        self.remove_others("layers", &live.layers, &mut collected)?;
        let derived = self.path().join("derived");
        for kind in names(&derived)? {
            let kind = Path::new("derived").join(kind);
            self.remove_others(&kind.to_string_lossy(), &live.chains, &mut collected)?;
        }
        Ok(collected)
    }

    fn live(&self) -> Result<Live, Error> {
        let mut live = Live::default();
        for (_, image) in self.images()? {
            live.blobs.extend([image.digest(), image.config_blob().digest]);
            live.chains.insert(image.chain_id());
            for layer in image.layers() {
                live.blobs.insert(layer.blob.digest);
                live.layers.extend([layer.diff_id, dependent_key(layer.chain_id)]);
            }
        }
        Ok(live)
    }

    fn remove_others(
        &self,
        directory: &str,
        live: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        let directory = self.path().join(directory);
        let session_path = self.path().join(super::store::STAGING);
        for name in names(&directory)? {
            if Digest::from_hex(&name).is_some_and(|digest| live.contains(&digest)) {
                continue;
            }
            let path = directory.join(&name);
            let bytes = disk_bytes(&path);
            remove(&path, &session_path)?;
            collected.removed += 1;
            collected.freed_bytes += bytes;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Live {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    chains: BTreeSet<Digest>,
}

/// A directory that is half removed must not be there under its name.
fn remove(path: &Path, staging: &Path) -> Result<(), Error> {
    if !path.is_dir() {
        return fs::remove_file(path).map_err(Error::io("remove", path));
    }
    let owner = crate::cgroup::Owner::own().map_err(Error::io("read", Path::new("/proc")))?;
    let aside = staging.join(crate::cgroup::Name::next(&owner).as_str());
    fs::rename(path, &aside).map_err(Error::io("remove", path))?;
    fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    list().map_err(Error::io("list", directory))
}

/// Space that a file or a tree has on the disk; what cannot be read counts nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut pending: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        // st_blocks counts 512 bytes each (stat(2)); each of a file's names has its share.
        let names = if metadata.is_dir() { 1 } else { metadata.nlink().max(1) };
        bytes += metadata.blocks() * 512 / names;
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            pending.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}
