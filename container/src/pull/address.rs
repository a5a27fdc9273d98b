//! Where an image is: registry, repository, tag or digest.

use std::fmt;
use std::str::FromStr;

use super::error::PullError;
use crate::image::{Digest, Reference};

/// What names without a registry stand for.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry answers.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Repositories of one part are kept there under this.
const DEFAULT_NAMESPACE: &str = "library";

/// The address of an image: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As it is written in names and files of credentials.
    pub(super) registry: String,
    pub(super) repository: String,
    tag: String,
    pub(super) digest: Option<Digest>,
    reference: Reference,
}

impl Address {
    /// Whom requests go to.
    pub(super) fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_HOST } else { &self.registry }
    }

    /// What the manifest is asked for by.
    pub(super) fn selector(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone(), |digest| digest.to_string())
    }

    /// The name that the image has in the store: as it was written. By digest alone it is the tag
    /// `sha256-HEX`.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.digest {
            Some(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
            None => write!(f, "{}/{}:{}", self.registry, self.repository, self.tag),
        }
    }
}

impl FromStr for Address {
    type Err = PullError;

    fn from_str(text: &str) -> Result<Address, PullError> {
        let wrong = |error: crate::image::Error| PullError::Name {
            text: text.chars().take(200).collect(),
            why: error.to_string(),
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(wrong)?)),
            None => (text, None),
        };
        let last = name.rsplit('/').next().unwrap_or_default();
        let reference: Reference = match digest {
            Some(digest) if !last.contains(':') => {
                format!("{name}:sha256-{}", digest.hex()).parse().map_err(wrong)?
            }
            _ => name.parse().map_err(wrong)?,
        };
        let (registry, repository) = match reference.name().split_once('/') {
            Some((first, rest)) if is_host(first) => (first.to_owned(), rest.to_owned()),
            _ => (DEFAULT_REGISTRY.to_owned(), reference.name().to_owned()),
        };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{repository}")
        } else {
            repository
        };
        let tag = reference.tag().to_owned();
        Ok(Address { registry, repository, tag, digest, reference })
    }
}

/// The first part of a name is a registry if it looks like a host.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_fills_in_docker_hub() {
        let digest = Digest::of(b"");
        for (text, host, repository, selector) in [
            ("busybox", "registry-1.docker.io", "library/busybox", "latest"),
            ("a/b:1", "registry-1.docker.io", "a/b", "1"),
            ("docker.io/a", "registry-1.docker.io", "library/a", "latest"),
            ("quay.io/x/y:z", "quay.io", "x/y", "z"),
            ("localhost:5000/a", "localhost:5000", "a", "latest"),
            (&format!("quay.io/a:1@{digest}"), "quay.io", "a", &digest.to_string()),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.host(), address.repository.as_str(), address.selector().as_str()),
                (host, repository, selector)
            );
        }
        let address: Address = format!("quay.io/a@{digest}").parse().unwrap();
        assert_eq!(address.reference().tag(), format!("sha256-{}", digest.hex()));
        for text in ["", "a@", "a@sha256:1", "A", "http://a/b", "a b", "x/../y"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
