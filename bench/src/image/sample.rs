//! An image to unpack: the same bytes on every machine, and as hard to compress as programs are.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::statistics::Rng;

/// Layers, each of files of many sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleImage {
    /// How many.
    pub layers: u32,
    /// Content of the files in each, in bytes.
    pub layer_bytes: usize,
}

/// The name of the image in its layout.
pub const SAMPLE_TAG: &str = "sample";

const SEED: u64 = 300;
/// Files are up to so large: most of a distribution's are small, and a few have most of the bytes.
const FILE_BYTES_MAX: usize = 4 << 20;
const FILES_PER_DIRECTORY: usize = 50;
/// Content is made of so many different words with noise between them: it shrinks to a half.
const WORDS: usize = 512;
const NOISE_BYTES: usize = 4;

impl SampleImage {
    /// What the figures speak of: 5 layers of 60 MB.
    pub const FIVE_LAYERS: SampleImage = SampleImage { layers: 5, layer_bytes: 60_000_000 };

    /// Writes it as an OCI layout (OCI image specification 1.1) to a directory that is empty.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_to(self, layout: &Path) -> io::Result<()> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let mut rng = Rng::new(SEED);
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for index in 0..self.layers {
            let archive = self.archive(index, &mut rng)?;
            diff_ids.push(format!("sha256:{:x}", Sha256::digest(&archive)));
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&archive)?;
            let packed = packed.finish()?;
            layers.push(blob(&blobs, "application/vnd.oci.image.layer.v1.tar+gzip", &packed)?);
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = blob(
            &blobs,
            "application/vnd.oci.image.config.v1+json",
            &serde_json::to_vec(&config)?,
        )?;
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config,
            "layers": layers,
        });
        let mut manifest = blob(&blobs, manifest_type, &serde_json::to_vec(&manifest)?)?;
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": SAMPLE_TAG });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    /// One layer, not compressed.
    fn archive(self, layer: u32, rng: &mut Rng) -> io::Result<Vec<u8>> {
        let words: Vec<u64> = (0..WORDS).map(|_| rng.next_u64()).collect();
        let mut archive = tar::Builder::new(Vec::with_capacity(self.layer_bytes * 9 / 8));
        let (mut left, mut count) = (self.layer_bytes, 0);
        while left > 0 {
            // As many between 1 and 2 KiB as between 1 and 2 MiB.
            let scale = (rng.unit() * (FILE_BYTES_MAX as f64).ln()).exp() as usize;
            let bytes = scale.clamp(1, left);
            left -= bytes;
            let mut content = Vec::with_capacity(bytes + 2 * size_of::<u64>());
            while content.len() < bytes {
                content.extend_from_slice(&words[rng.below(WORDS)].to_le_bytes());
                content.extend_from_slice(&rng.next_u64().to_le_bytes()[..NOISE_BYTES]);
            }
            content.truncate(bytes);
            let directory = format!("layer{layer}/d{}", count / FILES_PER_DIRECTORY);
            if count % FILES_PER_DIRECTORY == 0 {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, format!("{directory}/"), io::empty())?;
            }
            let mut header = header(tar::EntryType::Regular, 0o644, bytes as u64);
            archive.append_data(&mut header, format!("{directory}/f{count}"), &content[..])?;
            count += 1;
        }
        archive.into_inner()
    }
}

fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes);
    header.set_mtime(0);
    header
}

/// Stores a blob under its digest and returns its descriptor.
fn blob(blobs: &Path, media_type: &str, bytes: &[u8]) -> io::Result<serde_json::Value> {
    let hex = format!("{:x}", Sha256::digest(bytes));
    fs::write(blobs.join(&hex), bytes)?;
    Ok(json!({
        "mediaType": media_type,
        "digest": format!("sha256:{hex}"),
        "size": bytes.len(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: SampleImage = SampleImage { layers: 3, layer_bytes: 300_000 };

    #[test]
    fn test_write_to_gives_the_same_bytes_again_and_half_of_them_compressed() {
        let bytes_of = || {
            let directory = tempfile::tempdir().unwrap();
            SMALL.write_to(directory.path()).unwrap();
            let index = fs::read(directory.path().join("index.json")).unwrap();
            let blobs = fs::read_dir(directory.path().join("blobs/sha256")).unwrap();
            let sizes = blobs.map(|blob| blob.unwrap().metadata().unwrap().len());
            (index, sizes.sum::<u64>())
        };
        let (one, packed) = bytes_of();
        assert_eq!(one, bytes_of().0);
        assert!((300_000..700_000).contains(&packed), "{packed}");
    }
}
