//! A repository of a registry, as the store takes images from it (OCI distribution specification,
//! "Pull").

use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Mutex;

use oci_spec::image::{Descriptor, MediaType};
use ureq::http::header;

use super::address::Address;
use super::client::{Asked, Client, bounded};
use super::download::Download;
use super::error::PullError;
use crate::image::{Blob, BlobSource, DOCUMENT_MAX_BYTES, Digest, Error, descriptor};

/// What a manifest may be.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// See the module's text.
pub(super) struct Registry {
    pub(super) client: Client,
    repository: String,
    /// What went wrong first: on its way through the store an error becomes one of reading.
    failure: Mutex<Option<PullError>>,
    /// The manifest that the name stands for.
    root: Mutex<Option<(Digest, Vec<u8>)>>,
}

impl Registry {
    pub(super) fn new(client: Client, repository: &str) -> Registry {
        let (failure, root) = (Mutex::default(), Mutex::default());
        Registry { client, repository: repository.to_owned(), failure, root }
    }

    /// Gets the manifest, or the list of them, that an address stands for.
    pub(super) fn resolve(&self, address: &Address) -> Result<Descriptor, PullError> {
        let what = address.to_string();
        let (bytes, media_type, said) = self.manifest(&address.selector(), &what)?;
        let digest = Digest::of(&bytes);
        for (wanted, why) in [
            (address.digest, "its digest is another"),
            (said, "it is not of the digest that the registry itself says"),
        ] {
            if wanted.is_some_and(|wanted| wanted != digest) {
                return Err(self.client.lie(&what, format!("{why}: {digest}")));
            }
        }
        let blob = Blob { digest, size_bytes: bytes.len() as u64 };
        let descriptor = descriptor(MediaType::from(&*media_type), blob)?;
        *self.root.lock().unwrap_or_else(|held| held.into_inner()) = Some((digest, bytes));
        Ok(descriptor)
    }

    /// The bytes of a manifest, its kind, and its digest as the registry has it.
    fn manifest(
        &self,
        selector: &str,
        what: &str,
    ) -> Result<(Vec<u8>, String, Option<Digest>), PullError> {
        let asked = Asked {
            what,
            path: &format!("{}/manifests/{selector}", self.repository),
            accept: Some(&MANIFESTS.join(", ")),
            from_byte: 0,
        };
        let lie = |why: String| self.client.lie(what, why);
        let mut attempt = 1;
        loop {
            let response = self.client.get(&asked)?;
            let text =
                |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_owned());
            let media_type = text(header::CONTENT_TYPE.as_str()).unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            if !MANIFESTS.contains(&media_type.as_str()) {
                let media_type: String = media_type.chars().take(100).collect();
                return Err(lie(format!("it is of the kind `{media_type}`")));
            }
            let said = text("docker-content-digest").and_then(|digest| digest.parse().ok());
            match bounded(response, DOCUMENT_MAX_BYTES) {
                Ok(Some(bytes)) => {
                    self.check_kind(&bytes, &media_type, what)?;
                    return Ok((bytes, media_type, said));
                }
                Ok(None) => {
                    return Err(lie(format!("it has more than {DOCUMENT_MAX_BYTES} bytes")));
                }
                Err(source) if attempt >= self.client.patience.attempts => {
                    return Err(self.client.unreachable(what, source));
                }
                Err(_) => self.client.pause(attempt),
            }
            attempt += 1;
        }
    }

    /// The document must be what the header says.
    fn check_kind(&self, bytes: &[u8], media_type: &str, what: &str) -> Result<(), PullError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: Option<String>,
        }
        let head: Head = serde_json::from_slice(bytes)
            .map_err(|error| self.client.lie(what, format!("it is no manifest: {error}")))?;
        match head.media_type {
            Some(own) if own != media_type => {
                let own: String = own.chars().take(100).collect();
                let why = format!("it calls itself `{own}`, and the registry `{media_type}`");
                Err(self.client.lie(what, why))
            }
            _ => Ok(()),
        }
    }

    /// Keeps what went wrong, and makes an error of reading of it.
    pub(super) fn keep(&self, error: PullError) -> io::Error {
        let text = error.to_string();
        self.failure.lock().unwrap_or_else(|held| held.into_inner()).get_or_insert(error);
        io::Error::other(text)
    }

    /// What went wrong first, if it was here.
    pub(super) fn into_failure(self) -> Option<PullError> {
        self.failure.into_inner().unwrap_or_else(|held| held.into_inner())
    }
}

impl BlobSource for Registry {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
        let digest: Digest = descriptor.digest().try_into()?;
        let root = self.root.lock().unwrap_or_else(|held| held.into_inner());
        if let Some((_, bytes)) = root.as_ref().filter(|(root, _)| *root == digest) {
            return Ok(Box::new(Cursor::new(bytes.clone())));
        }
        drop(root);
        let media_type = descriptor.media_type().to_string();
        if MANIFESTS.contains(&media_type.as_str()) {
            let what = format!("the manifest {digest}");
            let (bytes, _, _) = self
                .manifest(&digest.to_string(), &what)
                .map_err(|error| Error::io("get", Path::new(&what))(self.keep(error)))?;
            return Ok(Box::new(Cursor::new(bytes)));
        }
        let path = format!("{}/blobs/{digest}", self.repository);
        let download = Download::new(self, path, format!("blob {digest}"), descriptor.size());
        Ok(Box::new(download))
    }
}
