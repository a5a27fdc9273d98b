//! An image from anywhere into a store.

use std::collections::BTreeSet;
use std::io::Read;

use oci_spec::image::Descriptor;

use super::blob::Blob;
use super::digest::Digest;
use super::error::Error;
use super::limits::UnpackLimits;
use super::manifest::{self, DOCUMENT_MAX_BYTES, Document};
use super::reference::Reference;
use super::session::{NewLayer, Session};
use super::store::Store;
use super::stored::{Image, for_each};

/// How deep lists of manifests may lie in each other: a list of lists is known, no more.
const NESTED_MAX: usize = 3;

/// Where an image comes from: a layout, an archive, a registry.
pub trait BlobSource: Sync {
    /// Opens the bytes that a descriptor stands for. They need not be checked.
    ///
    /// # Errors
    /// They cannot be had.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, Error>;
}

/// How an image is imported.
#[derive(Clone, Copy)]
pub struct Import<'a> {
    /// The name it gets.
    pub reference: &'a Reference,
    /// How much each layer may unpack to.
    pub limits: UnpackLimits,
    /// Told of bytes of layers that were read, and of how many there will be, as far as is known.
    pub on_bytes: &'a (dyn Fn(u64, u64) + Sync),
}

impl<'a> Import<'a> {
    /// Under that name, with the usual limits, in silence.
    #[must_use]
    pub fn new(reference: &'a Reference) -> Import<'a> {
        Import { reference, limits: UnpackLimits::default(), on_bytes: &|_, _| {} }
    }
}

impl Store {
    /// Stores an image with everything it consists of, and unpacks its layers. `root` is its
    /// manifest or a list in which there is one for this machine. Layers that are there already are
    /// not read again.
    ///
    /// # Errors
    /// The image cannot be had, is not what was announced, is for another machine, or is hostile.
    /// The name then stands for what it stood for before.
    pub fn import(
        &self,
        source: &dyn BlobSource,
        root: &Descriptor,
        import: &Import<'_>,
    ) -> Result<Image, Error> {
        let imported = self.take(source, root, import);
        if imported.is_err() {
            // What of it had come already; the error to tell is the first.
            let _ = self.collect();
        }
        imported
    }

    fn take(
        &self,
        source: &dyn BlobSource,
        root: &Descriptor,
        import: &Import<'_>,
    ) -> Result<Image, Error> {
        let session = self.begin()?;
        let (descriptor, document) = find_manifest(source, root, NESTED_MAX)?;
        let Document::Manifest(manifest) =
            manifest::document(&document, &format!("the manifest {}", descriptor.digest()))?
        else {
            return Err(Error::TooDeep { what: root.digest().to_string(), limit: NESTED_MAX });
        };
        let what = format!("the configuration {}", manifest.config().digest());
        let config = fetch(source, manifest.config(), &what)?;
        let (_, diff_ids) = manifest::configuration(&config, &what, manifest.layers().len())?;
        let mut wanted = Vec::new();
        let mut seen = BTreeSet::new();
        let mut chain = None;
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let blob = manifest::announced(layer)?;
            let chain_id = Digest::chained(chain, diff_id);
            chain = Some(chain_id);
            let is_stored = self.blob_path(&blob.digest).exists();
            let is_unpacked = is_stored && self.layer_tree(diff_id, chain_id)?.is_some();
            // The same layer twice in one image is stored once.
            if !is_unpacked && seen.insert(blob.digest) {
                wanted.push(Wanted { layer, blob, diff_id, is_stored });
            }
        }
        // The largest first: the others fill the time beside it.
        wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.blob.size_bytes));
        let total_bytes = wanted.iter().map(|wanted| wanted.blob.size_bytes).sum();
        let on_bytes = |bytes| (import.on_bytes)(bytes, total_bytes);
        for_each(&wanted, |wanted| add(&session, source, wanted, &import.limits, &on_bytes))?;
        session.add_bytes(&config)?;
        let blob = session.add_bytes(&document)?;
        let image = session.image(blob, descriptor.media_type().as_ref())?;
        let replaced = self.image(import.reference).ok().filter(|old| old.digest() != blob.digest);
        session.name(&image, import.reference)?;
        drop(session);
        if replaced.is_some() {
            self.collect()?;
        }
        Ok(image)
    }
}

struct Wanted<'a> {
    layer: &'a Descriptor,
    blob: Blob,
    diff_id: Digest,
    is_stored: bool,
}

fn add(
    session: &Session<'_>,
    source: &dyn BlobSource,
    wanted: &Wanted<'_>,
    limits: &UnpackLimits,
    on_bytes: &dyn Fn(u64),
) -> Result<(), Error> {
    let name = wanted.blob.digest.to_string();
    let mut archive = if wanted.is_stored {
        let path = session.store().blob_path(&wanted.blob.digest);
        Box::new(std::fs::File::open(&path).map_err(Error::io("open", &path))?)
    } else {
        source.open(wanted.layer)?
    };
    session.add_layer(NewLayer {
        archive: &mut *archive,
        name: &name,
        announced: Some(wanted.blob),
        diff_id: Some(wanted.diff_id),
        limits: *limits,
        on_bytes,
    })?;
    Ok(())
}

/// Follows lists of manifests to the manifest for this machine.
fn find_manifest(
    source: &dyn BlobSource,
    root: &Descriptor,
    deep: usize,
) -> Result<(Descriptor, Vec<u8>), Error> {
    let mut descriptor = root.clone();
    for _ in 0..=deep {
        let what = format!("the manifest {}", descriptor.digest());
        let bytes = fetch(source, &descriptor, &what)?;
        match manifest::document(&bytes, &what)? {
            Document::Manifest(_) => return Ok((descriptor, bytes)),
            Document::Index(index) => descriptor = manifest::choose(&index, &what)?.clone(),
        }
    }
    Err(Error::TooDeep { what: root.digest().to_string(), limit: deep })
}

/// The whole of a document, if it is what was announced.
fn fetch(source: &dyn BlobSource, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
    let announced = manifest::announced(descriptor)?;
    if announced.size_bytes > DOCUMENT_MAX_BYTES {
        return Err(Error::TooLarge { what: what.to_owned(), limit_bytes: DOCUMENT_MAX_BYTES });
    }
    let mut bytes = Vec::new();
    source
        .open(descriptor)?
        .take(announced.size_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", std::path::Path::new(what)))?;
    let (what, found) = (what.to_owned(), bytes.len() as u64);
    if found != announced.size_bytes {
        return Err(Error::WrongSize { what, expected: announced.size_bytes, found });
    }
    let found = Digest::of(&bytes);
    if found != announced.digest {
        let (what, expected) = (format!("the digest of {what}"), announced.digest);
        return Err(Error::WrongDigest { what, expected, found });
    }
    Ok(bytes)
}
