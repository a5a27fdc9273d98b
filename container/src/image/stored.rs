//! Images of a store, and their names.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageManifest, ImageManifestBuilder, MediaType,
};

use super::blob::Blob;
use super::digest::Digest;
use super::error::Error;
use super::limits::UnpackLimits;
use super::manifest::{self, DOCUMENT_MAX_BYTES, Document};
use super::reference::Reference;
use super::session::Session;
use super::store::Store;

/// Enough digits of a digest to name an image by.
const PREFIX_MIN_DIGITS: usize = 6;

/// An image that is in a store.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) descriptor: Descriptor,
    pub(crate) manifest: ImageManifest,
    pub(crate) config: ImageConfiguration,
    blob: Blob,
    config_blob: Blob,
    layers: Vec<ImageLayer>,
}

/// One of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ImageLayer {
    /// Its archive, as it came.
    pub blob: Blob,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// That of this layer and those below it.
    pub chain_id: Digest,
}

impl Image {
    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.blob.digest
    }

    /// Its manifest.
    #[must_use]
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// The blob of its configuration, whose digest Docker calls the image's id.
    #[must_use]
    pub fn config_blob(&self) -> Blob {
        self.config_blob
    }

    /// Its configuration: command, environment, history.
    #[must_use]
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// Its layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[ImageLayer] {
        &self.layers
    }

    /// The digest of all its layers together: that of its tree, whatever else differs.
    #[must_use]
    pub fn chain_id(&self) -> Digest {
        self.layers.last().map_or_else(|| Digest::of(b""), |layer| layer.chain_id)
    }

    /// Bytes of its manifest, configuration and layers, as they came.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.blob.size_bytes).sum();
        self.blob.size_bytes + self.config_blob.size_bytes + layers
    }
}

impl Store {
    /// The image that has a name.
    ///
    /// # Errors
    /// [`Error::NoImage`]; or what is stored of it cannot be read or is damaged.
    pub fn image(&self, reference: &Reference) -> Result<Image, Error> {
        let path = self.refs_path().join(reference.file_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let store = self.path().to_owned();
                return Err(Error::NoImage { name: reference.to_string(), store });
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let descriptor = serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
            what: format!("the name {reference}"),
            why: error.to_string(),
        })?;
        self.image_of(&descriptor)
    }

    /// The image that a user names: by its name, its digest, or the first digits of that.
    ///
    /// # Errors
    /// As of [`Store::image`].
    pub fn find(&self, text: &str) -> Result<Image, Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix = digits.len() >= PREFIX_MIN_DIGITS
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let by_name = text.parse::<Reference>().and_then(|reference| self.image(&reference));
        match by_name {
            Err(Error::NoImage { .. } | Error::NoReference { .. }) if is_prefix => {}
            found => return found,
        }
        let mut found = self.images()?.into_iter().map(|(_, image)| image).filter(|image| {
            let ids = [image.digest(), image.config_blob().digest];
            ids.iter().any(|digest| digest.hex().starts_with(digits))
        });
        let store = self.path().to_owned();
        let image = found.next().ok_or(Error::NoImage { name: text.to_owned(), store })?;
        match found.find(|other| other.digest() != image.digest()) {
            None => Ok(image),
            Some(other) => Err(Error::Several {
                place: self.path().to_owned(),
                names: vec![image.digest().to_string(), other.digest().to_string()],
            }),
        }
    }

    /// All names, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn references(&self) -> Result<Vec<Reference>, Error> {
        let path = self.refs_path();
        let mut references = Vec::new();
        for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let entry = entry.map_err(Error::io("list", &path))?;
            let name = entry.file_name();
            references.extend(name.to_str().and_then(Reference::from_file_name));
        }
        references.sort();
        Ok(references)
    }

    /// All names with their images.
    ///
    /// # Errors
    /// As of [`Store::image`].
    pub fn images(&self) -> Result<Vec<(Reference, Image)>, Error> {
        let named = |reference: Reference| match self.image(&reference) {
            Ok(image) => Some(Ok((reference, image))),
            // Removed since it was listed.
            Err(Error::NoImage { .. }) => None,
            Err(error) => Some(Err(error)),
        };
        self.references()?.into_iter().filter_map(named).collect()
    }

    /// The bytes of a document that is stored, checked against their digest.
    pub(crate) fn document(&self, blob: &Blob, what: &str) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(&blob.digest);
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(DOCUMENT_MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(Error::io("read", &path))?;
        if Digest::of(&bytes) != blob.digest {
            let why = "its digest is another".to_owned();
            return Err(Error::Damaged { what: what.to_owned(), why });
        }
        Ok(bytes)
    }

    pub(crate) fn image_of(&self, descriptor: &Descriptor) -> Result<Image, Error> {
        let blob = manifest::announced(descriptor)?;
        let what = format!("the manifest {}", blob.digest);
        let bytes = self.document(&blob, &what)?;
        let Document::Manifest(manifest) = manifest::document(&bytes, &what)? else {
            return Err(Error::Damaged { what, why: "it is a list of manifests".to_owned() });
        };
        let config_blob = manifest::announced(manifest.config())?;
        let what = format!("the configuration {}", config_blob.digest);
        let bytes = self.document(&config_blob, &what)?;
        let (config, diff_ids) = manifest::configuration(&bytes, &what, manifest.layers().len())?;
        let mut chain = None;
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let chain_id = Digest::chained(chain, diff_id);
            chain = Some(chain_id);
            layers.push(ImageLayer { blob: manifest::announced(layer)?, diff_id, chain_id });
        }
        let descriptor = descriptor.clone();
        Ok(Image { descriptor, manifest: *manifest, config, blob, config_blob, layers })
    }

    /// The unpacked trees of an image's layers, topmost first, as an overlay takes them; those that
    /// are not unpacked are, first. Keep a [`Store::hold`] while they are used.
    ///
    /// # Errors
    /// A layer is missing or damaged, or cannot be unpacked.
    pub fn layer_trees(&self, image: &Image) -> Result<Vec<PathBuf>, Error> {
        self.trees_of(&image.layers)
    }

    /// As [`Store::layer_trees`], of these layers, the lowest first.
    pub(crate) fn trees_of(&self, layers: &[ImageLayer]) -> Result<Vec<PathBuf>, Error> {
        let mut session = None;
        let mut trees: Vec<PathBuf> = Vec::new();
        for layer in layers {
            let tree = match self.layer_tree(layer.diff_id, layer.chain_id)? {
                Some((tree, _)) => tree,
                None => {
                    let session = match &session {
                        Some(session) => session,
                        None => session.insert(self.begin()?),
                    };
                    let ImageLayer { blob, diff_id, chain_id } = *layer;
                    let limits = UnpackLimits::default();
                    session.unpack_stored(&blob, diff_id, chain_id, &trees, &limits)?
                }
            };
            trees.insert(0, tree);
        }
        if trees.is_empty() {
            trees.push(self.empty_path());
        }
        Ok(trees)
    }
}

impl Session<'_> {
    /// Gives an image a name, which another may have had so far.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn name(&self, image: &Image, reference: &Reference) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&image.descriptor).unwrap_or_default();
        self.publish_file(&bytes, &self.store().refs_path().join(reference.file_name()))
    }

    /// Makes an image of a configuration and of layers that were added, the lowest first, and
    /// unpacks what of them is not yet.
    ///
    /// # Errors
    /// The configuration is not one of these layers, or the store cannot be read or written.
    pub fn assemble(&self, config: &[u8], layers: &[Blob]) -> Result<Image, Error> {
        manifest::configuration(config, "the configuration", layers.len())?;
        self.settle()?;
        let config = descriptor(MediaType::ImageConfig, self.add_bytes(config)?)?;
        let layers = layers.iter().map(|layer| layer_descriptor(self.store(), *layer));
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers.collect::<Result<Vec<_>, _>>()?)
            .build()
            .map_err(|error| malformed("a manifest", &error))?;
        let bytes =
            serde_json::to_vec(&manifest).map_err(|error| malformed("a manifest", &error))?;
        self.image(self.add_bytes(&bytes)?, MediaType::ImageManifest.as_ref())
    }

    /// The image of a manifest that was added, with its configuration and layers, to this session.
    /// What of its layers is not unpacked is now.
    ///
    /// # Errors
    /// Something of it is missing, or does not fit together.
    pub fn image(&self, manifest: Blob, media_type: &str) -> Result<Image, Error> {
        self.settle()?;
        let descriptor = descriptor(MediaType::from(media_type), manifest)?;
        let image = self.store().image_of(&descriptor)?;
        self.store().layer_trees(&image)?;
        Ok(image)
    }
}

fn malformed(what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Malformed { what: what.to_owned(), why: why.to_string() }
}

/// What stands for a blob in other documents.
pub(crate) fn descriptor(media_type: MediaType, blob: Blob) -> Result<Descriptor, Error> {
    let digest: oci_spec::image::Digest =
        blob.digest.to_string().parse().map_err(|error| malformed("a digest", &error))?;
    Ok(Descriptor::new(media_type, blob.size_bytes, digest))
}

/// The same for a stored layer, whose kind its first bytes tell.
fn layer_descriptor(store: &Store, blob: Blob) -> Result<Descriptor, Error> {
    let path = store.blob_path(&blob.digest);
    let mut first = Vec::new();
    fs::File::open(&path)
        .and_then(|file| file.take(4).read_to_end(&mut first))
        .map_err(Error::io("read", &path))?;
    let media_type = match first[..] {
        [0x1f, 0x8b, ..] => MediaType::ImageLayerGzip,
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::ImageLayerZstd,
        _ => MediaType::ImageLayer,
    };
    descriptor(media_type, blob)
}

/// Runs `work` for each of `items`, on as many threads as there are processors. The first failure
/// ends it; what has begun is finished.
pub(crate) fn for_each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if threads <= 1 {
        return items.iter().try_for_each(work);
    }
    let next = AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(|held| held.into_inner());
                        failed.get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(|held| held.into_inner()).map_or(Ok(()), Err)
}
