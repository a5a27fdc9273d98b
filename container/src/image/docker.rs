//! Archives of `docker save`: `manifest.json` lists images by the files of their configuration and
//! layers, without digests or sizes.

use std::sync::{Mutex, PoisonError};

use super::blob::Blob;
use super::bundle::{Bundle, Content, Entry};
use super::error::Error;
use super::import::Import;
use super::manifest;
use super::session::NewLayer;
use super::store::Store;
use super::stored::{Image, for_each};

/// An entry of `manifest.json`.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// The images that a `manifest.json` lists, once for each name.
pub(crate) fn list(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let all: Vec<Saved> = serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
        what: "manifest.json".to_owned(),
        why: error.to_string(),
    })?;
    let mut entries = Vec::new();
    for saved in all {
        let content = Content::Docker(saved.clone());
        match saved.repo_tags.as_deref() {
            None | Some([]) => entries.push(Entry { name: None, content }),
            Some(names) => entries.extend(
                names
                    .iter()
                    .map(|name| Entry { name: Some(name.clone()), content: content.clone() }),
            ),
        }
    }
    Ok(entries)
}

/// Stores such an image, with a manifest made for it.
pub(crate) fn import(
    store: &Store,
    bundle: &Bundle,
    saved: &Saved,
    import: &Import<'_>,
) -> Result<Image, Error> {
    let imported = take(store, bundle, saved, import);
    // What the name stood for before, or what of this one had come already.
    let collected = store.collect();
    let image = imported?;
    collected?;
    Ok(image)
}

fn take(
    store: &Store,
    bundle: &Bundle,
    saved: &Saved,
    import: &Import<'_>,
) -> Result<Image, Error> {
    let session = store.begin()?;
    let config = bundle.document(&saved.config)?;
    let (_, diff_ids) = manifest::configuration(&config, &saved.config, saved.layers.len())?;
    let blobs: Vec<_> = saved.layers.iter().map(|_| Mutex::new(None)).collect();
    let wanted: Vec<_> = saved.layers.iter().zip(diff_ids).zip(&blobs).collect();
    // How much there is to read is known to nobody yet.
    let on_bytes = |bytes| (import.on_bytes)(bytes, 0);
    for_each(&wanted, |((path, diff_id), blob)| {
        let mut archive = bundle.file(path.as_bytes())?;
        let added = session.add_layer(NewLayer {
            archive: &mut *archive,
            name: path,
            announced: None,
            diff_id: Some(*diff_id),
            limits: import.limits,
            on_bytes: &on_bytes,
        })?;
        *blob.lock().unwrap_or_else(PoisonError::into_inner) = Some(added.blob);
        Ok(())
    })?;
    let blobs = blobs.into_iter();
    let layers: Vec<Blob> = blobs
        .filter_map(|blob| blob.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect();
    let image = session.assemble(&config, &layers)?;
    session.name(&image, import.reference)?;
    Ok(image)
}
