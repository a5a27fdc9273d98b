//! Layers that were built before, found by what they were built from.
//!
//! A layer of the cache is a blob of the store like any other: when no image has it, the next
//! removal of an image takes it, and the cache forgets it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::BuildError;
use crate::image::{Blob, Digest, ImageLayer, Session, Store};

/// Part of every key: what a build makes of the same input may change with it.
const VERSION: &str = "tare build cache 1";
const DIRECTORY: &str = "build-cache";

/// See the module's text.
pub(super) struct Cache {
    directory: PathBuf,
    is_used: bool,
}

/// What an instruction made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// No layer: nothing was changed.
    Nothing,
    Layer {
        blob: Blob,
        diff_id: Digest,
    },
}

#[derive(Serialize, Deserialize)]
struct Record {
    digest: Option<Digest>,
    size_bytes: u64,
    diff_id: Option<Digest>,
}

impl Cache {
    /// That of a store. One that is not used is still added to.
    pub(super) fn open(store: &Store, is_used: bool) -> Result<Cache, BuildError> {
        let directory = store.path().join(DIRECTORY);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(BuildError::io("make the directory", &directory)(error));
            }
            _ => {}
        }
        let cache = Cache { directory, is_used };
        cache.forget_lost(store);
        Ok(cache)
    }

    /// The key of something made upon `below` from `parts`.
    pub(super) fn key(below: &[ImageLayer], epoch_s: u64, parts: &[&[u8]]) -> Digest {
        let mut hasher = Sha256::new();
        let below = below.last().map_or("scratch".to_owned(), |layer| layer.chain_id.to_string());
        let epoch = epoch_s.to_string();
        for part in [VERSION.as_bytes(), below.as_bytes(), epoch.as_bytes()].iter().chain(parts) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Digest::finish(hasher)
    }

    /// What was made of that before, if it is there.
    pub(super) fn find(&self, store: &Store, key: &Digest) -> Option<Made> {
        if !self.is_used {
            return None;
        }
        read(&self.directory.join(key.hex())).filter(|made| made.is_in(store))
    }

    /// Remembers it.
    pub(super) fn add(
        &self,
        session: &Session<'_>,
        key: &Digest,
        made: Made,
    ) -> Result<(), BuildError> {
        let record = match made {
            Made::Nothing => Record { digest: None, size_bytes: 0, diff_id: None },
            Made::Layer { blob, diff_id } => Record {
                digest: Some(blob.digest),
                size_bytes: blob.size_bytes,
                diff_id: Some(diff_id),
            },
        };
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        Ok(session.publish_file(&bytes, &self.directory.join(key.hex()))?)
    }

    /// Drops the records of layers that are gone.
    fn forget_lost(&self, store: &Store) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok) {
            if !read(&entry.path()).is_some_and(|made| made.is_in(store)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn read(path: &Path) -> Option<Made> {
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(match (record.digest, record.diff_id) {
        (Some(digest), Some(diff_id)) => {
            Made::Layer { blob: Blob { digest, size_bytes: record.size_bytes }, diff_id }
        }
        _ => Made::Nothing,
    })
}

impl Made {
    fn is_in(&self, store: &Store) -> bool {
        match self {
            Made::Nothing => true,
            Made::Layer { blob, .. } => fs::metadata(store.blob_path(&blob.digest))
                .is_ok_and(|metadata| metadata.len() == blob.size_bytes),
        }
    }
}
