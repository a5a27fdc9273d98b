//! Images from a registry, by the OCI distribution specification.
//!
//! # Rules
//!
//! * **A registry is hostile.** Everything has a bound before it is read; digests and sizes are
//!   checked by the store while the bytes pass; a manifest must be of the kind that its header says.
//! * **Credentials go to the registry** and to the token server that it names, by TLS unless plain
//!   HTTP was asked for; never to where a request is redirected.
//! * **Networks fail.** A request is tried a bounded number of times ([`Patience`]), a transfer that
//!   breaks off goes on where it was, and a server that says nothing is given up.
//! * **Nothing of a failed pull is seen**: the name stands for what it stood for before.
//!
//! ```no_run
//! use tare_container::image::Store;
//! use tare_container::pull::Pull;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open(&Store::default_path()?)?;
//! let image = Pull::new(&"busybox:1.36".parse()?).run(&store)?;
//! println!("{}", image.digest());
//! # Ok(())
//! # }
//! ```

mod address;
mod challenge;
mod client;
mod credentials;
mod download;
mod error;
mod registry;

pub use address::Address;
pub use client::Patience;
pub use error::PullError;

use client::Client;
use credentials::Credentials;
use registry::Registry;

use crate::image::{Image, Import, Store, UnpackLimits};

/// An image to be pulled.
#[derive(Clone, Copy)]
pub struct Pull<'a> {
    /// Where it is.
    pub address: &'a Address,
    /// Whether the registry is asked without TLS.
    pub plain_http: bool,
    /// How often and how long it is asked.
    pub patience: Patience,
    /// How much each layer may unpack to.
    pub limits: UnpackLimits,
    /// Told of bytes of layers that came, and of how many there will be, as far as is known.
    pub on_bytes: &'a (dyn Fn(u64, u64) + Sync),
}

impl<'a> Pull<'a> {
    /// By TLS, with the usual patience, in silence.
    #[must_use]
    pub fn new(address: &'a Address) -> Pull<'a> {
        Pull {
            address,
            plain_http: false,
            patience: Patience::default(),
            limits: UnpackLimits::default(),
            on_bytes: &|_, _| {},
        }
    }

    /// Pulls it into a store, where it gets its address for a name.
    ///
    /// # Errors
    /// The registry cannot be reached, does not have the image or does not give it, or sends
    /// something else; or the image is none that can be stored.
    pub fn run(&self, store: &Store) -> Result<Image, PullError> {
        self.run_as(store, Credentials::find(&self.address.registry)?)
    }

    fn run_as(&self, store: &Store, credentials: Option<Credentials>) -> Result<Image, PullError> {
        let Address { repository, .. } = self.address;
        let (host, patience) = (self.address.host(), self.patience);
        let client = Client::new(host, repository, self.plain_http, credentials, patience);
        let registry = Registry::new(client, repository);
        let root = registry.resolve(self.address)?;
        let import = Import {
            reference: self.address.reference(),
            limits: self.limits,
            on_bytes: self.on_bytes,
        };
        let imported = store.import(&registry, &root, &import);
        imported.map_err(|error| registry.into_failure().unwrap_or(PullError::Store(error)))
    }
}

#[cfg(test)]
mod tests;
