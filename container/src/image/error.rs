use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::layer_error::LayerError;

/// Why an image could not be stored, found, read or written. Nothing half-written is left in any
/// case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Neither an argument nor the environment says where the store is.
    #[error("there is no place for images: set TARE_STORE, XDG_DATA_HOME or HOME, or name one")]
    NoPlace,
    /// The store was made by a later version.
    #[error(
        "the image store {} is of version {found}, and this tare knows version {known}: use a \
         newer tare, or another store (TARE_STORE)", path.display()
    )]
    Version {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("`{0}` is no digest: `sha256:` and 64 lower-case hexadecimal digits are")]
    NoDigest(String),
    /// Not a name of an image.
    #[error("`{text}` is no name of an image: {why}")]
    NoReference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No image has that name.
    #[error("there is no image {name} in {}; `tare image ls` shows those there are", store.display())]
    NoImage {
        /// What was looked for.
        name: String,
        /// Where.
        store: PathBuf,
    },
    /// The bytes are not those that were announced.
    #[error(
        "{what} is {found}, but {expected} was announced: get it again from where it came from"
    )]
    WrongDigest {
        /// Whose digest.
        what: String,
        /// The digest announced.
        expected: Digest,
        /// That of the bytes.
        found: Digest,
    },
    /// There are not as many bytes as were announced.
    #[error(
        "{what} has {found} bytes, but {expected} were announced: get it again from where it came \
         from"
    )]
    WrongSize {
        /// Of what.
        what: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes there; where there are too many, those that were read until that was seen.
        found: u64,
    },
    /// A document is larger than any sensible one.
    #[error("{what} has more than {limit_bytes} bytes")]
    TooLarge {
        /// Which.
        what: String,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// A document is not what it should be.
    #[error("{what} cannot be understood: {why}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Something that is referred to is not there.
    #[error("{what} is missing in {}", place.display())]
    Missing {
        /// What.
        what: String,
        /// Where it should be.
        place: PathBuf,
    },
    /// A list of manifests has none for this machine.
    #[error("{what} has no image for {wanted}, only for {}", join(offered))]
    NoPlatform {
        /// Which list.
        what: String,
        /// The platform looked for.
        wanted: &'static str,
        /// Those that there are.
        offered: Vec<String>,
    },
    /// An image for another machine.
    #[error("{what} is for {found}, and this is {wanted}")]
    OtherPlatform {
        /// Which image.
        what: String,
        /// What it is for.
        found: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// Lists of manifests within each other.
    #[error("{what}: lists of manifests lie more than {limit} deep in each other")]
    TooDeep {
        /// Where that was seen.
        what: String,
        /// How deep they may lie.
        limit: usize,
    },
    /// Several images, and none was chosen.
    #[error("{} holds several images: name one of {}", place.display(), join(names))]
    Several {
        /// Where.
        place: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Neither an OCI layout nor an archive of `docker save`.
    #[error(
        "{} is no image: an OCI layout has a file oci-layout, an archive of `docker save` one \
         manifest.json", .0.display()
    )]
    NotAnImage(PathBuf),
    /// A layer cannot be unpacked.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Its digest, or what it is called where it came from.
        layer: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// What is in the store is not what was put there.
    #[error("{what} in the store is damaged: {why}; remove the image and import it again")]
    Damaged {
        /// What.
        what: String,
        /// How that was seen.
        why: String,
    },
}

fn join(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    /// For `map_err` of `rustix`.
    pub(crate) fn os(action: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Error {
        move |errno| Error::Io { action, path: path.to_owned(), source: errno.into() }
    }
}
