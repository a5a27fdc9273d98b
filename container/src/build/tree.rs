//! An image of a directory of the host: what other images begin with.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::builder::store_layer;
use super::config::Description;
use super::entry::Entry;
use super::error::BuildError;
use super::upper::{attributes, read_upper};
use crate::image::{Digest, Image, ImageLayer, Reference, Store};

/// A directory that becomes an image of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// The directory. Devices in it are refused.
    pub path: &'a Path,
    /// What the image says of its origin.
    pub origin: &'a str,
    /// What a container of the image runs.
    pub command: &'a [&'a str],
    /// Its environment, `NAME=value` each.
    pub env: &'a [&'a str],
    /// The time of everything in the image, in seconds since 1970.
    pub epoch_s: u64,
}

impl Tree<'_> {
    /// Stores it under that name.
    ///
    /// # Errors
    /// A file cannot be read, or the store not written.
    pub fn store(&self, store: &Store, reference: &Reference) -> Result<Image, BuildError> {
        let session = store.begin()?;
        let mut entries = read_upper(self.path)?;
        let root = std::fs::metadata(self.path).and_then(|metadata| match metadata.is_dir() {
            true => Ok(metadata),
            false => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        });
        let root = root.map_err(BuildError::io("read", self.path))?;
        let entry = Entry {
            mode: root.mode() & 0o7777,
            uid: root.uid(),
            gid: root.gid(),
            attributes: attributes(self.path)?,
            ..Entry::implied_directory()
        };
        entries.insert(".".into(), entry);
        let (blob, diff_id) = store_layer(&session, &entries, self.epoch_s)?;
        let mut description = Description::default();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        description.config.cmd = Some(owned(self.command));
        description.config.env = Some(owned(self.env));
        description.note(self.origin, true, self.epoch_s);
        let layer = ImageLayer { blob, diff_id, chain_id: Digest::chained(None, diff_id) };
        let image = session.assemble(&description.document(&[layer], self.epoch_s)?, &[blob])?;
        session.name(&image, reference)?;
        Ok(image)
    }
}
