//! Images out of a store.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndexBuilder, MediaType};

use super::blob::Blob;
use super::digest::Digest;
use super::docker::Saved;
use super::error::Error;
use super::reference::Reference;
use super::store::Store;
use super::stored::Image;

/// What an image is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory that is an OCI layout.
    Directory,
    /// One in a tar archive.
    Archive,
    /// The same with a `manifest.json` beside, as `docker save` has it: old and new versions of
    /// `docker load` take it, and so does whatever takes an OCI layout.
    Docker,
}

impl Store {
    /// Writes an image under its name to a path where nothing is yet.
    ///
    /// # Errors
    /// A blob is missing or is damaged, there is something already, or it cannot be written; nothing
    /// is left there then.
    pub fn export(
        &self,
        image: &Image,
        reference: &Reference,
        form: Form,
        to: &Path,
    ) -> Result<(), Error> {
        let _hold = self.hold()?;
        if to.symlink_metadata().is_ok() {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::io("write", to)(there));
        }
        let documents = documents(image, reference, form == Form::Docker)?;
        let parent = match to.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let make = Error::io("make a file in", parent);
        let builder = &mut tempfile::Builder::new();
        builder.prefix(".tare-export-");
        if form == Form::Directory {
            let staged = builder.tempdir_in(parent).map_err(make)?;
            self.write_directory(staged.path(), image, &documents)?;
            fs::rename(staged.path(), to).map_err(Error::io("rename", staged.path()))?;
            // It is elsewhere now.
            let _ = staged.keep();
            return Ok(());
        }
        let staged = builder.tempfile_in(parent).map_err(make)?;
        self.write_archive(staged.as_file(), image, &documents)?;
        staged.persist_noclobber(to).map_err(|error| Error::io("write", to)(error.error))?;
        Ok(())
    }

    /// Writes the same archive to where nothing can be renamed, as standard output.
    ///
    /// # Errors
    /// As of [`Store::export`]; what was written so far is there.
    pub fn export_to(
        &self,
        image: &Image,
        reference: &Reference,
        is_docker: bool,
        to: &mut dyn Write,
    ) -> Result<(), Error> {
        let _hold = self.hold()?;
        self.write_archive(to, image, &documents(image, reference, is_docker)?)
    }

    fn write_directory(
        &self,
        directory: &Path,
        image: &Image,
        documents: &[(&'static str, Vec<u8>)],
    ) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::io("make the directory", &blobs))?;
        // The temporary directory is for its owner alone; a layout is as other files are.
        fs::set_permissions(directory, PermissionsExt::from_mode(0o755))
            .map_err(Error::io("set the mode of", directory))?;
        for blob in blobs_of(image) {
            let to = blobs.join(blob.digest.hex());
            let mut file = File::create(&to).map_err(Error::io("make", &to))?;
            self.copy_blob(&blob, &mut file)?;
        }
        for (name, bytes) in documents {
            let to = directory.join(name);
            fs::write(&to, bytes).map_err(Error::io("write", &to))?;
        }
        Ok(())
    }

    fn write_archive(
        &self,
        to: impl Write,
        image: &Image,
        documents: &[(&'static str, Vec<u8>)],
    ) -> Result<(), Error> {
        let written = Error::io("write", Path::new("the archive"));
        let mut archive = tar::Builder::new(BufWriter::with_capacity(256 << 10, to));
        let members = || -> Result<(), std::io::Error> {
            for (name, bytes) in documents {
                let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
                archive.append_data(&mut header, name, &bytes[..])?;
            }
            for directory in ["blobs/", "blobs/sha256/"] {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, directory, std::io::empty())?;
            }
            for blob in blobs_of(image) {
                let path = self.blob_path(&blob.digest);
                let mut header = header(tar::EntryType::Regular, 0o644, blob.size_bytes);
                let name = format!("blobs/sha256/{}", blob.digest.hex());
                let mut checked = Checked::open(&path, &blob)?;
                archive.append_data(&mut header, name, &mut checked)?;
                checked.finish()?;
            }
            archive.into_inner()?.flush()
        };
        members().map_err(written)
    }

    fn copy_blob(&self, blob: &Blob, to: &mut File) -> Result<(), Error> {
        let path = self.blob_path(&blob.digest);
        let mut copy = || -> std::io::Result<()> {
            let mut checked = Checked::open(&path, blob)?;
            std::io::copy(&mut checked, to)?;
            checked.finish()
        };
        copy().map_err(Error::io("copy", &path))
    }
}

/// Reads a blob and says in the end whether it was the one.
struct Checked {
    file: std::io::Take<File>,
    hasher: sha2::Sha256,
    digest: Digest,
}

impl Checked {
    fn open(path: &Path, blob: &Blob) -> std::io::Result<Checked> {
        use std::io::Read;
        let file = File::open(path)?.take(blob.size_bytes);
        Ok(Checked { file, hasher: sha2::Digest::new(), digest: blob.digest })
    }

    fn finish(self) -> std::io::Result<()> {
        if Digest::finish(self.hasher) == self.digest {
            return Ok(());
        }
        Err(std::io::Error::other(format!("the blob {} in the store is damaged", self.digest)))
    }
}

impl std::io::Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        sha2::Digest::update(&mut self.hasher, buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Each once, though an image may have a layer twice.
fn blobs_of(image: &Image) -> Vec<Blob> {
    let mut blobs = vec![image.blob(), image.config_blob()];
    for layer in image.layers() {
        if !blobs.contains(&layer.blob) {
            blobs.push(layer.blob);
        }
    }
    blobs
}

fn documents(
    image: &Image,
    reference: &Reference,
    is_docker: bool,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let mut descriptor: Descriptor = image.descriptor.clone();
    let name = (ANNOTATION_REF_NAME.to_owned(), reference.to_string());
    descriptor.set_annotations(Some([name].into()));
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![descriptor])
        .build()
        .map_err(|error| Error::Malformed {
            what: "an index".to_owned(),
            why: error.to_string(),
        })?;
    let json = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default();
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    let mut documents =
        vec![("oci-layout", layout), ("index.json", json(serde_json::to_vec(&index)))];
    if is_docker {
        let path = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
        let saved = Saved {
            config: path(image.config_blob().digest),
            repo_tags: Some(vec![reference.to_string()]),
            layers: image.layers().iter().map(|layer| path(layer.blob.digest)).collect(),
        };
        documents.push(("manifest.json", json(serde_json::to_vec(&[saved]))));
    }
    Ok(documents)
}

/// Nothing of when and by whom: the same image gives the same bytes.
fn header(kind: tar::EntryType, mode: u32, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size_bytes);
    header
}
