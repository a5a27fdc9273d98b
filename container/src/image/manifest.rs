//! The documents of an image: manifest, list of manifests, configuration.
//!
//! They come from outside: their size is bounded before they are read, and everything that is used
//! of them is checked.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::blob::Blob;
use super::digest::Digest;
use super::error::Error;

/// The distribution specification asks registries for 4 MiB of a manifest at least; none has more.
pub(crate) const DOCUMENT_MAX_BYTES: u64 = 4 << 20;
/// overlayfs takes no more (fs/overlayfs/params.h, OVL_MAX_STACK).
const LAYERS_MAX: usize = 500;
/// What this machine runs.
pub(crate) const PLATFORM: &str = "linux/amd64";
/// Docker's names of the same documents (docker image manifest, version 2, schema 2).
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest, or a list of them.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// What tells the two apart.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

/// Understands a manifest or a list of them.
pub(crate) fn document(bytes: &[u8], what: &str) -> Result<Document, Error> {
    let malformed = |why: String| Error::Malformed { what: what.to_owned(), why };
    let json = |error: serde_json::Error| malformed(error.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(json)?;
    if head.schema_version != 2 {
        return Err(malformed(format!(
            "it is of schema version {}, and 2 is known here",
            head.schema_version
        )));
    }
    let is_index = match head.media_type.as_deref() {
        Some(OCI_INDEX | DOCKER_LIST) => true,
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
        None => head.manifests.is_some(),
        Some(other) => return Err(malformed(format!("it is a `{}`", cut(other)))),
    };
    if is_index {
        return Ok(Document::Index(Box::new(serde_json::from_slice(bytes).map_err(json)?)));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(json)?;
    if manifest.layers().len() > LAYERS_MAX {
        return Err(malformed(format!("it has more than {LAYERS_MAX} layers")));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type().to_string();
        if !is_layer(&media_type) {
            return Err(malformed(format!("it has a layer of the kind `{}`", cut(&media_type))));
        }
    }
    Ok(Document::Manifest(Box::new(manifest)))
}

/// The digest and size that a descriptor announces.
pub(crate) fn announced(descriptor: &Descriptor) -> Result<Blob, Error> {
    Ok(Blob { digest: descriptor.digest().try_into()?, size_bytes: descriptor.size() })
}

/// Understands a configuration, and returns it with the digests of its uncompressed layers.
pub(crate) fn configuration(
    bytes: &[u8],
    what: &str,
    layers: usize,
) -> Result<(ImageConfiguration, Vec<Digest>), Error> {
    let malformed = |why: String| Error::Malformed { what: what.to_owned(), why };
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let found = format!("{}/{}", config.os(), config.architecture());
    if found != PLATFORM {
        let found = cut(&found).to_owned();
        return Err(Error::OtherPlatform { what: what.to_owned(), found, wanted: PLATFORM });
    }
    let diff_ids: Vec<Digest> =
        config.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        let count = diff_ids.len();
        return Err(malformed(format!("it has {count} layers, and its manifest {layers}")));
    }
    Ok((config, diff_ids))
}

/// The one of a list that this machine runs.
pub(crate) fn choose<'a>(index: &'a ImageIndex, what: &str) -> Result<&'a Descriptor, Error> {
    let platform = |entry: &Descriptor| {
        entry.platform().as_ref().map(|found| format!("{}/{}", found.os(), found.architecture()))
    };
    let entries = index.manifests();
    let ours = entries.iter().find(|entry| platform(entry).as_deref() == Some(PLATFORM));
    // A list of one without a platform leaves no choice; its configuration is looked at later.
    let only = match &entries[..] {
        [only] if only.platform().is_none() => Some(only),
        _ => None,
    };
    ours.or(only).ok_or_else(|| {
        let mut offered: Vec<String> = entries.iter().filter_map(platform).collect();
        offered.sort();
        offered.dedup();
        offered.truncate(20);
        Error::NoPlatform { what: what.to_owned(), wanted: PLATFORM, offered }
    })
}

fn is_layer(media_type: &str) -> bool {
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .iter()
    .filter_map(|known| media_type.strip_prefix(known))
    .any(|compression| matches!(compression, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> ImageIndex {
        let entries: Vec<String> = platforms
            .iter()
            .map(|platform| {
                let platform = match platform.split_once('/') {
                    Some((os, arch)) => {
                        format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#)
                    }
                    None => String::new(),
                };
                let digest = Digest::of(platform.as_bytes());
                format!(
                    r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1{platform}}}"#
                )
            })
            .collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match document(text.as_bytes(), "list").unwrap() {
            Document::Index(index) => *index,
            Document::Manifest(_) => panic!("taken for a manifest"),
        }
    }

    #[test]
    fn test_choose_takes_this_platform_or_the_only_entry() {
        let list = index(&["linux/arm64", "linux/amd64", "windows/amd64"]);
        assert_eq!(choose(&list, "list").unwrap(), &list.manifests()[1]);
        let list = index(&[""]);
        assert_eq!(choose(&list, "list").unwrap(), &list.manifests()[0]);
    }

    #[test]
    fn test_choose_without_this_platform_names_the_others() {
        let list = index(&["linux/arm64", "linux/s390x"]);
        assert_eq!(
            choose(&list, "list").unwrap_err().to_string(),
            "list has no image for linux/amd64, only for linux/arm64, linux/s390x"
        );
        assert!(choose(&index(&[]), "list").is_err());
        assert!(choose(&index(&["", ""]), "list").is_err());
    }

    #[test]
    fn test_document_of_anything_else_returns_malformed() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"mediaType":"text/plain"}"#,
            r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
            &format!("{}{}", r#"{"schemaVersion":2,"x":"#, "[".repeat(10_000)),
        ] {
            assert!(
                matches!(document(text.as_bytes(), "it"), Err(Error::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn test_is_layer_takes_archives_only() {
        assert!(is_layer("application/vnd.docker.image.rootfs.diff.tar.gzip"));
        assert!(is_layer("application/vnd.oci.image.layer.v1.tar+zstd"));
        for other in ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain", ""] {
            assert!(!is_layer(other), "{other}");
        }
    }
}
