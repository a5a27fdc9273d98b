//! ADD of a local archive: its members become files of the layer.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use super::entry::{Content, Entry, EntryKind};
use super::error::BuildError;
use super::layer::open_file;
use super::staging::Staging;
use crate::image::{Archive, Intake, Kind, LayerError, Name, Stream, Tally, UnpackLimits};

const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// Whether a file is an archive that ADD unpacks: tar, plain or compressed.
pub(super) fn is_archive(path: &Path) -> Result<bool, BuildError> {
    // What cannot be read as one is copied as it is.
    let first = with_archive(path, |archive| Ok(archive.next()?.is_some()));
    match first {
        Err(BuildError::Archive { source: LayerError::Compression(kind), .. }) => {
            Err(BuildError::invalid(
                format!("{} is compressed by {kind}", path.display()),
                "compress the archive by gzip, xz or zstd",
            ))
        }
        Err(BuildError::Archive { .. }) => Ok(false),
        other => other,
    }
}

/// Puts the members of an archive below `target`. Their bytes are kept in files in `scratch`.
pub(super) fn unpack(
    path: &Path,
    scratch: &Path,
    staging: &mut Staging<'_>,
    target: &Path,
    adjust: &dyn Fn(Entry) -> Entry,
) -> Result<(), BuildError> {
    fs::create_dir_all(scratch).map_err(BuildError::io("make the directory", scratch))?;
    let mut count = fs::read_dir(scratch).map_err(BuildError::io("read", scratch))?.count();
    with_archive(path, |archive| {
        while let Some(member) = archive.next()? {
            let place = target.join(relative(&member.path)?);
            let kind = match member.kind {
                Kind::Directory if place == target => continue,
                Kind::Directory => EntryKind::Directory { opaque: false },
                Kind::SymbolicLink => EntryKind::Symlink(member.link.clone()),
                Kind::Fifo => EntryKind::Fifo,
                Kind::Device { .. } => return Err(Failed::Build(BuildError::Device(place))),
                Kind::HardLink => {
                    let linked = staging.resolve(&target.join(relative(&member.link)?))?;
                    match staging.entry(&linked).map(|entry| &entry.kind) {
                        // A file of its own: which of the names comes first is not known yet.
                        Some(EntryKind::File(content)) => EntryKind::File(content.clone()),
                        _ => return Err(Failed::Build(no_target(&place, &linked))),
                    }
                }
                Kind::Regular => {
                    count += 1;
                    EntryKind::File(keep(archive, scratch.join(count.to_string()))?)
                }
            };
            let is_directory = matches!(kind, EntryKind::Directory { .. });
            let entry = adjust(Entry {
                kind,
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                attributes: Vec::new(),
            });
            if is_directory {
                staging.put_directory(&place, entry)?;
            } else {
                staging.put_file(&place, entry)?;
            }
        }
        Ok(())
    })
}

fn no_target(place: &Path, linked: &Path) -> BuildError {
    BuildError::invalid(
        format!(
            "the archive's {} is a hard link to {}, which is no file before it",
            place.display(),
            linked.display()
        ),
        "make the archive again",
    )
}

/// A path of the archive, which may begin with a slash but not lead upwards.
fn relative(path: &[u8]) -> Result<PathBuf, LayerError> {
    let path = path.iter().position(|byte| *byte != b'/').and_then(|start| path.get(start..));
    match path {
        Some(path) => Ok(std::ffi::OsStr::from_bytes(Name::new(path)?.path()).into()),
        None => Ok(PathBuf::new()),
    }
}

fn keep(archive: &mut Archive<'_, '_>, path: PathBuf) -> Result<Content, Failed> {
    let mut file = File::create_new(&path).map_err(BuildError::io("make", &path))?;
    loop {
        let chunk = archive.chunk()?;
        let count = chunk.len();
        if count == 0 {
            break;
        }
        file.write_all(chunk).map_err(BuildError::io("write", &path))?;
        archive.consume(count);
    }
    Ok(Content::of(path)?)
}

enum Failed {
    Build(BuildError),
    Archive(LayerError),
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Failed {
        Failed::Build(error)
    }
}

impl From<LayerError> for Failed {
    fn from(error: LayerError) -> Failed {
        Failed::Archive(error)
    }
}

fn with_archive<T>(
    path: &Path,
    work: impl FnOnce(&mut Archive<'_, '_>) -> Result<T, Failed>,
) -> Result<T, BuildError> {
    let mut file = open_file(path)?;
    let mut first = [0; 6];
    let count = file.read(&mut first).map_err(BuildError::io("read", path))?;
    let plain = open_file(path)?;
    let is_xz = first.get(..count) == Some(XZ_MAGIC);
    let mut source: Box<dyn Read> =
        if is_xz { Box::new(XzReader::new(plain, true)) } else { Box::new(plain) };
    let (tally, limits) = (Tally::default(), UnpackLimits::default());
    let read = || -> Result<T, Failed> {
        let intake = Intake::new(&mut *source, None, &tally, &|_| {});
        let mut stream = Stream::new(intake, &tally, limits)?;
        work(&mut Archive::new(&mut stream, &limits))
    };
    read().map_err(|failed| match failed {
        Failed::Build(error) => error,
        Failed::Archive(source) => BuildError::Archive { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::super::merged::Merged;
    use super::*;

    fn archive(members: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_uid(7);
            header.set_gid(8);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<String>, BuildError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive");
        fs::write(&path, bytes).unwrap();
        assert!(is_archive(&path)?);
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let below = Merged::open(vec![empty])?;
        let mut staging = Staging::new(&below, (0, 0));
        let scratch = directory.path().join("scratch");
        unpack(&path, &scratch, &mut staging, Path::new("t"), &|entry| entry)?;
        let entries = staging.finish();
        Ok(entries
            .iter()
            .map(|(path, entry)| format!("{} {:o} {}", path.display(), entry.mode, entry.uid))
            .collect())
    }

    #[test]
    fn test_unpack_takes_every_compression() {
        let plain = archive(&[("a/b", "content"), ("/c", "")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&plain).unwrap();
        for bytes in [plain, gzip.finish().unwrap(), xz.finish().unwrap()] {
            assert_eq!(
                unpacked(&bytes).unwrap(),
                ["t 755 0", "t/a 755 0", "t/a/b 600 7", "t/c 600 7"]
            );
        }
    }

    #[test]
    fn test_unpack_of_hostile_names_returns_error() {
        for path in ["../x", "a/../../x", "/../x"] {
            assert!(unpacked(&archive(&[(path, "x")])).is_err(), "{path}");
        }
    }

    #[test]
    fn test_is_archive_of_anything_else_is_false() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for bytes in [&b""[..], b"text", &[0x1f, 0x8b, 1, 2], XZ_MAGIC, &[b'x'; 600]] {
            fs::write(&path, bytes).unwrap();
            assert!(!is_archive(&path).unwrap());
        }
        fs::write(&path, b"BZh91AY").unwrap();
        assert!(is_archive(&path).unwrap_err().to_string().contains("bzip2"));
    }
}
