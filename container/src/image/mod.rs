//! Images: a content-addressed store of them, shared by all that runs them.
//!
//! [`Store`] keeps what an image consists of under the digests of the OCI image specification, and
//! its layers unpacked as overlayfs takes them. [`Bundle`] reads OCI layouts and the archives of
//! `docker save`; [`Store::import`] takes an image from any [`BlobSource`]; [`Session`] adds layers
//! that were made here. [`Store::layer_trees`] gives what [`Rootfs::Overlay`](crate::Rootfs) needs.
//!
//! # Rules
//!
//! * **What comes from outside is hostile.** Digests and sizes are checked while the bytes pass,
//!   names are checked before they are used, and what a layer unpacks to is bounded
//!   ([`UnpackLimits`]).
//! * **One pass.** A layer is stored, hashed twice, decompressed and unpacked while it is read, and
//!   several layers at once where there are processors.
//! * **Nothing half-written is visible**, whenever a process is killed.
//!
//! Layers are unpacked as root: only root may give files to others, and overlayfs's own attributes
//! are for root alone.
//!
//! ```no_run
//! use tare_container::image::{Bundle, Import, Store};
//! use tare_container::{Program, Rootfs, Spec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open(&Store::default_path()?)?;
//! let bundle = Bundle::open(&store, "busybox.tar".as_ref())?;
//! let entry = bundle.select(None)?;
//! let image = bundle.import(&store, entry, &Import::new(&bundle.reference(entry)?))?;
//!
//! let hold = store.hold()?;
//! let rootfs = Rootfs::Overlay { lower: store.layer_trees(&image)?, size_bytes: None };
//! let spec = Spec::container(rootfs, Program::command("sh"));
//! # Ok(())
//! # }
//! ```

mod archive;
mod blob;
mod bundle;
mod check;
mod collect;
mod derive;
mod digest;
mod docker;
mod error;
mod export;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hold;
mod import;
mod intake;
mod layer_error;
mod limits;
mod lower;
mod manifest;
mod name;
mod record;
mod reference;
mod session;
mod store;
mod stored;
mod stream;
mod tree;
mod unpack;

pub(crate) use archive::{Archive, Kind};
#[cfg(test)]
pub(crate) use fixture::may_unpack;
#[cfg(all(test, feature = "pull"))]
pub(crate) use fixture::{Layer, Layout, Packing};
pub(crate) use intake::{Intake, Tally};
pub(crate) use lower::{Lower, open_directory};
#[cfg(feature = "pull")]
pub(crate) use manifest::DOCUMENT_MAX_BYTES;
pub(crate) use name::Name;
#[cfg(feature = "pull")]
pub(crate) use stored::descriptor;
pub(crate) use stream::Stream;

pub use blob::Blob;
pub use bundle::{Bundle, Entry};
pub use collect::Collected;
pub use digest::Digest;
pub use error::Error;
pub use export::Form;
pub use hold::Hold;
pub use import::{BlobSource, Import};
pub use layer_error::LayerError;
pub use limits::UnpackLimits;
pub use reference::Reference;
pub use session::{AddedLayer, NewLayer, Session};
pub use store::Store;
pub use stored::{Image, ImageLayer};
