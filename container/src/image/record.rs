//! What a store knows of an unpacked layer.

use std::fs;
use std::io;
use std::path::Path;

use super::digest::Digest;
use super::error::Error;
use super::unpack::Unpacked;

const FILE: &str = "layer.json";
/// random(4): another value after each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// It lies beside the layer's tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Record {
    diff_id: Digest,
    /// The boot in which it was unpacked.
    boot_id: String,
    pub(crate) entries: u64,
    /// Content of files.
    pub(crate) bytes: u64,
    /// Members that were not unpacked because boxes have them of their own.
    pub(crate) left_out: u64,
}

impl Record {
    pub(crate) fn new(diff_id: Digest, unpacked: &Unpacked) -> Result<Record, Error> {
        let Unpacked { entries, bytes, left_out, .. } = *unpacked;
        Ok(Record { diff_id, boot_id: boot_id()?, entries, bytes, left_out })
    }

    pub(crate) fn write(&self, layer: &Path) -> Result<(), Error> {
        let path = layer.join(FILE);
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// That of a layer which is there and whole, as far as can be told without reading it.
    pub(crate) fn valid(layer: &Path) -> Result<Option<Record>, Error> {
        let path = layer.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        let boot_id = boot_id()?;
        Ok(record.filter(|record| record.boot_id == boot_id))
    }
}

fn boot_id() -> Result<String, Error> {
    let text = fs::read_to_string(BOOT_ID).map_err(Error::io("read", Path::new(BOOT_ID)))?;
    Ok(text.trim_end().to_owned())
}
