//! What of images is fed with anything: archives of layers, compressed streams, documents, names.

use std::fs::{self, File};
use std::os::fd::AsFd;

use super::digest::Digest;
use super::intake::{Intake, Tally};
use super::limits::UnpackLimits;
use super::lower::Lower;
use super::manifest::{self, Document};
use super::name::Name;
use super::reference::Reference;
use super::stream::Stream;
use super::unpack::unpack;

/// Small, so that each input is soon done with.
const LIMITS: UnpackLimits = UnpackLimits { bytes: 4 << 20, entries: 200, ratio: 200 };
const BLOCK_BYTES: usize = 512;

/// An archive, uncompressed, whose headers' checksums are made right, is unpacked: upon nothing, and
/// upon a layer. Nothing appears beside the directory that it is unpacked into.
pub fn layer(data: &[u8]) {
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(BLOCK_BYTES) {
        let header = tar::Header::from_byte_slice(block);
        if header.as_ustar().is_some() || header.as_gnu().is_some() {
            let mut header = header.clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    let Ok(around) = tempfile::tempdir() else { return };
    let (below, tree) = (around.path().join("below"), around.path().join("tree"));
    let made = fs::create_dir(&tree)
        .and_then(|()| fs::create_dir_all(below.join("a/b")))
        .and_then(|()| fs::write(below.join("a/file"), "of below"))
        .and_then(|()| std::os::unix::fs::symlink("/", below.join("link")));
    let (Ok(()), Ok(root)) = (made, File::open(&tree)) else { return };
    let trees = [below];
    let (tally, mut source) = (Tally::default(), &archive[..]);
    let intake = Intake::new(&mut source, None, &tally, &|_| {});
    if let (Ok(mut stream), Ok(lower)) = (Stream::new(intake, &tally, LIMITS), Lower::open(&trees))
        && unpack(&mut stream, &LIMITS, root.as_fd(), Some(&lower)).is_ok()
        && let Ok(digest) = stream.finish()
        && tally.digest() == Digest::of(&archive)
        && !is_compressed(&archive)
    {
        assert_eq!(digest, Digest::of(&archive));
    }
    let beside = fs::read_dir(around.path()).map(Iterator::count);
    assert_eq!(beside.ok(), Some(2), "something appeared beside the tree");
}

fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
        || bytes.get(1..4) == Some(&[0xb5, 0x2f, 0xfd])
        || bytes.get(1..4) == Some(&[0x2a, 0x4d, 0x18])
}

/// Compressed bytes are read to their end. All of them are seen if that is no error.
pub fn stream(data: &[u8]) {
    let (tally, mut source) = (Tally::default(), data);
    let intake = Intake::new(&mut source, None, &tally, &|_| {});
    let read = Stream::new(intake, &tally, LIMITS).and_then(Stream::finish);
    if read.is_ok() {
        assert_eq!(tally.digest(), Digest::of(data));
    }
}

/// A manifest, a list of manifests, a configuration, a `manifest.json` of Docker.
pub fn document(data: &[u8]) {
    match manifest::document(data, "the document") {
        Ok(Document::Index(index)) => {
            let chosen = manifest::choose(&index, "the document");
            let _ = chosen.map(manifest::announced);
        }
        Ok(Document::Manifest(manifest)) => {
            for descriptor in manifest.layers() {
                let _ = manifest::announced(descriptor);
            }
        }
        Err(_) => {}
    }
    for layers in 0..3 {
        if let Ok((_, diff_ids)) = manifest::configuration(data, "the document", layers) {
            assert_eq!(diff_ids.len(), layers);
        }
    }
    let _ = super::docker::list(data);
}

/// A name of a layer's member, and one of an image. What is taken leads nowhere else.
pub fn name(data: &[u8]) {
    if let Ok(name) = Name::new(data) {
        assert!(name.path().split(|byte| *byte == b'/').all(|part| part != b".."));
        assert!(!name.path().starts_with(b"/"));
        if let Some((parent, last)) = name.split() {
            let _ = super::name::whiteout(&name, parent, last);
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(reference) = text.parse::<Reference>()
    {
        let file = reference.file_name();
        assert!(!file.contains('/') && file.len() <= 255, "{file}");
        assert_eq!(Reference::from_file_name(&file), Some(reference));
    }
}
