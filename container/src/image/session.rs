//! Adding to a store.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::blob::Blob;
use super::digest::Digest;
use super::error::Error;
use super::hold::Hold;
use super::intake::{CHUNK_BYTES, Intake, Tally};
use super::layer_error::LayerError;
use super::limits::UnpackLimits;
use super::lower::Lower;
use super::record::Record;
use super::store::{STAGING, Store, sync_directory, write_durable};
use super::stream::Stream;
use super::unpack::{Outcome, Unpacked, unpack};
use crate::cgroup::{Name, Owner};

/// Something is being added. What is in the store meanwhile stays there; what was added and is not
/// referred to by a name afterwards is removed with the next image.
#[derive(Debug)]
pub struct Session<'s> {
    store: &'s Store,
    staging: PathBuf,
    next: AtomicU64,
    /// Blobs that are whole, but not known to be on the disk yet.
    pending: Mutex<Vec<Pending>>,
    _hold: Hold,
}

#[derive(Debug)]
struct Pending {
    file: File,
    staged: PathBuf,
    digest: Digest,
}

/// A layer to be added, and what is known of it.
pub struct NewLayer<'a> {
    /// Its archive, compressed or not.
    pub archive: &'a mut dyn Read,
    /// What it is called in messages.
    pub name: &'a str,
    /// The archive's digest and size, where they were announced.
    pub announced: Option<Blob>,
    /// The digest of the uncompressed archive, where it was announced.
    pub diff_id: Option<Digest>,
    /// How much it may unpack to.
    pub limits: UnpackLimits,
    /// Told of the bytes of the archive that were read.
    pub on_bytes: &'a dyn Fn(u64),
}

/// A layer that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedLayer {
    /// Its archive as it came.
    pub blob: Blob,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Whether it could be unpacked without the layers below it.
    pub unpacked: bool,
}

impl<'s> Session<'s> {
    pub(crate) fn begin(store: &'s Store) -> Result<Session<'s>, Error> {
        let hold = store.hold()?;
        let proc = Path::new("/proc/self/stat");
        let owner = Owner::own().map_err(Error::io("read", proc))?;
        let staging = store.path().join(STAGING).join(Name::next(&owner).as_str());
        DirBuilder::new()
            .mode(0o700)
            .create(&staging)
            .map_err(Error::io("make the directory", &staging))?;
        Ok(Session {
            store,
            staging,
            next: AtomicU64::new(0),
            pending: Mutex::default(),
            _hold: hold,
        })
    }

    /// The store that is added to.
    #[must_use]
    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// A path that nobody else uses, on the store's file system; what is there is removed with the
    /// session.
    #[must_use]
    pub fn staging_path(&self) -> PathBuf {
        self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Stores some bytes.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn add_bytes(&self, bytes: &[u8]) -> Result<Blob, Error> {
        let blob = Blob { digest: Digest::of(bytes), size_bytes: bytes.len() as u64 };
        let path = self.store.blob_path(&blob.digest);
        if !path.exists() {
            self.publish_file(bytes, &path)?;
        }
        Ok(blob)
    }

    /// Stores what a reader has, if it is what was announced.
    ///
    /// # Errors
    /// It cannot be read or written, or is something else.
    pub fn add_blob(
        &self,
        source: &mut dyn Read,
        name: &str,
        announced: Option<Blob>,
    ) -> Result<Blob, Error> {
        let path = self.staging_path();
        let copy = File::create_new(&path).map_err(Error::io("make", &path))?;
        let tally = Tally::up_to(announced.map(|blob| blob.size_bytes));
        let mut intake = Intake::new(source, Some(&copy), &tally, &|_| {});
        intake.drain(&mut vec![0; CHUNK_BYTES]).map_err(Error::io("read", Path::new(name)))?;
        let blob = check(name, &tally, announced)?;
        self.defer(copy, path, &blob);
        Ok(blob)
    }

    /// Stores a layer and unpacks it, in one pass over its archive. One whose tree depends on the
    /// layers below it is unpacked when an image with it is stored.
    ///
    /// # Errors
    /// The archive cannot be read, is not what was announced, or is hostile; or the store cannot be
    /// written.
    pub fn add_layer(&self, new: NewLayer<'_>) -> Result<AddedLayer, Error> {
        let NewLayer { archive, name, announced, diff_id, limits, on_bytes } = new;
        let path = self.staging_path();
        let copy = File::create_new(&path).map_err(Error::io("make", &path))?;
        let tally = Tally::up_to(announced.map(|blob| blob.size_bytes));
        let intake = Intake::new(archive, Some(&copy), &tally, on_bytes);
        let staged = self.unpack_staged(intake, &tally, &limits, None);
        let staged = staged.map_err(|error| explain(error, name, &tally, announced))?;
        let blob = check(name, &tally, announced)?;
        check_diff_id(name, diff_id, staged.diff_id)?;
        self.defer(copy, path, &blob);
        let unpacked = match &staged.outcome {
            Outcome::NeedsBelow => false,
            Outcome::Done(unpacked) => {
                self.publish_layer(&staged.path, &staged.diff_id, staged.diff_id, unpacked)?;
                true
            }
        };
        Ok(AddedLayer { blob, diff_id: staged.diff_id, unpacked })
    }

    /// Unpacks a layer that is in the store upon those below it, topmost first. Returns its tree.
    ///
    /// # Errors
    /// As of [`Session::add_layer`].
    pub(crate) fn unpack_stored(
        &self,
        blob: &Blob,
        diff_id: Digest,
        chain_id: Digest,
        below: &[PathBuf],
        limits: &UnpackLimits,
    ) -> Result<PathBuf, Error> {
        let name = blob.digest.to_string();
        let staged = self.unpack_blob(blob, below, limits)?;
        check_diff_id(&name, Some(diff_id), staged.diff_id)?;
        let Outcome::Done(unpacked) = staged.outcome else {
            let why = "it needs layers below it, and there are none".to_owned();
            return Err(Error::Damaged { what: format!("layer {name}"), why });
        };
        let key = if unpacked.depends { dependent_key(chain_id) } else { diff_id };
        self.publish_layer(&staged.path, &key, diff_id, &unpacked)
    }

    /// Unpacks a layer that is in the store once more, for this session alone. Returns the tree.
    pub(crate) fn unpack_again(
        &self,
        blob: &Blob,
        below: &[PathBuf],
        limits: &UnpackLimits,
    ) -> Result<PathBuf, Error> {
        Ok(self.unpack_blob(blob, below, limits)?.path.join("tree"))
    }

    fn unpack_blob(
        &self,
        blob: &Blob,
        below: &[PathBuf],
        limits: &UnpackLimits,
    ) -> Result<Staged, Error> {
        let name = blob.digest.to_string();
        let path = self.store.blob_path(&blob.digest);
        let mut archive = File::open(&path).map_err(Error::io("open", &path))?;
        let tally = Tally::up_to(Some(blob.size_bytes));
        let intake = Intake::new(&mut archive, None, &tally, &|_| {});
        let staged = self.unpack_staged(intake, &tally, limits, Some(below));
        let staged = staged.map_err(|error| explain(error, &name, &tally, Some(*blob)))?;
        check(&name, &tally, Some(*blob))?;
        Ok(staged)
    }

    fn unpack_staged<'a>(
        &self,
        intake: Intake<'a>,
        tally: &'a Tally,
        limits: &UnpackLimits,
        below: Option<&[PathBuf]>,
    ) -> Result<Staged, Failed> {
        let path = self.staging_path();
        let tree = path.join("tree");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&tree)
            .map_err(Error::io("make the directory", &tree))?;
        let root = File::open(&tree).map_err(Error::io("open", &tree))?;
        let lower = below.map(Lower::open).transpose()?;
        let mut stream = Stream::new(intake, tally, *limits)?;
        let outcome = unpack(&mut stream, limits, root.as_fd(), lower.as_ref())?;
        Ok(Staged { path, outcome, diff_id: stream.finish()? })
    }

    /// A blob gets its name when it is on the disk, which takes time that other work can fill.
    fn defer(&self, file: File, staged: PathBuf, blob: &Blob) {
        let pending = Pending { file, staged, digest: blob.digest };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pending);
    }

    /// Sees to it that all blobs that were added are on the disk and have their names. An image can
    /// refer to them then; [`Session::image`] and [`Session::assemble`] begin with it.
    ///
    /// # Errors
    /// The disk does not take them.
    pub fn settle(&self) -> Result<(), Error> {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Ok(());
        }
        for Pending { file, staged, digest } in all.drain(..) {
            file.sync_data().map_err(Error::io("sync", &staged))?;
            let to = self.store.blob_path(&digest);
            fs::rename(&staged, to).map_err(Error::io("rename", &staged))?;
        }
        sync_directory(&self.store.blobs_path())
    }

    /// Gives a layer its place. Another process may have been faster.
    fn publish_layer(
        &self,
        staged: &Path,
        key: &Digest,
        diff_id: Digest,
        unpacked: &Unpacked,
    ) -> Result<PathBuf, Error> {
        let record = Record::new(diff_id, unpacked)?;
        record.write(staged)?;
        let place = self.store.layer_path(key);
        while Record::valid(&place)?.is_none() {
            match fs::rename(staged, &place) {
                Ok(()) => break,
                Err(error) if is_taken(&error) => {
                    // One of an earlier boot, or damaged: it makes room.
                    match fs::rename(&place, self.staging_path()) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(Error::io("replace", &place)(error));
                        }
                        _ => {}
                    }
                }
                Err(error) => return Err(Error::io("rename", staged)(error)),
            }
        }
        Ok(place.join("tree"))
    }

    /// Writes a file in one step.
    pub(crate) fn publish_file(&self, bytes: &[u8], to: &Path) -> Result<(), Error> {
        let staged = self.staging_path();
        write_durable(&staged, bytes)?;
        self.publish(&staged, to)
    }

    pub(crate) fn publish(&self, staged: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(staged, to).map_err(Error::io("rename", staged))?;
        to.parent().map_or(Ok(()), sync_directory)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// By what a layer's tree is kept that is so only upon those below it.
pub(crate) fn dependent_key(chain_id: Digest) -> Digest {
    Digest::of(format!("upon others: {chain_id}").as_bytes())
}

struct Staged {
    path: PathBuf,
    outcome: Outcome,
    diff_id: Digest,
}

enum Failed {
    Store(Error),
    Layer(LayerError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Store(error)
    }
}

impl From<LayerError> for Failed {
    fn from(error: LayerError) -> Failed {
        Failed::Layer(error)
    }
}

/// An archive that is not the one announced is malformed at best: that is what to say of it.
fn explain(failed: Failed, name: &str, tally: &Tally, announced: Option<Blob>) -> Error {
    match failed {
        Failed::Store(error) => error,
        Failed::Layer(source @ LayerError::Read(_)) => {
            let is_larger = announced.is_some_and(|blob| tally.bytes() > blob.size_bytes);
            match check(name, tally, announced) {
                Err(error) if is_larger => error,
                _ => Error::Layer { layer: name.to_owned(), source },
            }
        }
        Failed::Layer(source) => Error::Layer { layer: name.to_owned(), source },
    }
}

pub(crate) fn check(name: &str, tally: &Tally, announced: Option<Blob>) -> Result<Blob, Error> {
    let found = Blob { digest: tally.digest(), size_bytes: tally.bytes() };
    let Some(announced) = announced else { return Ok(found) };
    let what = name.to_owned();
    if found.size_bytes != announced.size_bytes {
        let (expected, found) = (announced.size_bytes, found.size_bytes);
        return Err(Error::WrongSize { what, expected, found });
    }
    if found.digest != announced.digest {
        let (expected, found) = (announced.digest, found.digest);
        return Err(Error::WrongDigest { what: format!("the digest of {what}"), expected, found });
    }
    Ok(found)
}

fn check_diff_id(name: &str, announced: Option<Digest>, found: Digest) -> Result<(), Error> {
    match announced {
        Some(expected) if expected != found => {
            let what = format!("the digest of the uncompressed {name}");
            Err(Error::WrongDigest { what, expected, found })
        }
        _ => Ok(()),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST))
}
