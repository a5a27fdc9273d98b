//! A layer's archive: the same bytes for the same files, whenever and wherever it is written.
//!
//! Members are in the order of their paths; owners are numbers alone; every time is the build's
//! epoch (`SOURCE_DATE_EPOCH`, <https://reproducible-builds.org/specs/source-date-epoch/>, or 0);
//! gzip's header has neither time nor name. Whiteouts are written as the OCI image specification
//! has them (layer.md, "Whiteouts").

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::entry::{Content, Entries, Entry, EntryKind};
use super::error::BuildError;

/// Level of compression: most of what the best would give, in a third of its time.
const LEVEL: u32 = 6;

/// Writes `entries` as a compressed layer to `out`.
pub(super) fn write_layer(
    entries: &Entries,
    epoch_s: u64,
    out: impl Write,
) -> Result<(), BuildError> {
    let encoder: GzEncoder<_> = GzBuilder::new().mtime(0).write(out, Compression::new(LEVEL));
    let mut layer = Layer { archive: Builder::new(encoder), epoch_s };
    for (path, entry) in entries {
        layer.append(path, entry)?;
    }
    layer.archive.into_inner().and_then(GzEncoder::finish).map_err(written)?;
    Ok(())
}

fn written(source: io::Error) -> BuildError {
    BuildError::Io { action: "write", path: "the layer's archive".into(), source }
}

struct Layer<W: Write> {
    archive: Builder<W>,
    epoch_s: u64,
}

impl<W: Write> Layer<W> {
    fn append(&mut self, path: &Path, entry: &Entry) -> Result<(), BuildError> {
        // It would hide another file when the layer is unpacked.
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh.")) {
            return Err(BuildError::invalid(
                format!("{} has a name that layers use for what is removed", path.display()),
                "give the file another name",
            ));
        }
        let records = entry.attributes.iter().filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            Some((format!("SCHILY.xattr.{name}"), value))
        });
        let records: Vec<_> = records.collect();
        self.archive
            .append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), &value[..])))
            .map_err(written)?;
        let plain = |kind| {
            let mut header = self.header(entry);
            header.set_entry_type(kind);
            header
        };
        match &entry.kind {
            EntryKind::Directory { opaque } => {
                self.empty(plain(EntryType::Directory), path)?;
                if *opaque {
                    self.whiteout(path.join(".wh..wh..opq"))?;
                }
            }
            EntryKind::File(content) => self.file(plain(EntryType::Regular), path, content)?,
            EntryKind::Symlink(target) => {
                self.link(plain(EntryType::Symlink), path, OsStr::from_bytes(target).as_ref())?;
            }
            EntryKind::Hardlink(target) => self.link(plain(EntryType::Link), path, target)?,
            EntryKind::Fifo => self.empty(plain(EntryType::Fifo), path)?,
            EntryKind::Whiteout => {
                let mut name = b".wh.".to_vec();
                name.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
                self.whiteout(path.with_file_name(OsStr::from_bytes(&name)))?;
            }
        }
        Ok(())
    }

    fn header(&self, entry: &Entry) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(entry.mode & 0o7777);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(self.epoch_s);
        header.set_size(0);
        header
    }

    fn empty(&mut self, mut header: Header, path: &Path) -> Result<(), BuildError> {
        self.archive.append_data(&mut header, path, io::empty()).map_err(written)
    }

    fn whiteout(&mut self, path: PathBuf) -> Result<(), BuildError> {
        let entry = Entry { mode: 0o600, ..Entry::implied_directory() };
        self.empty(self.header(&entry), &path)
    }

    fn link(&mut self, mut header: Header, path: &Path, target: &Path) -> Result<(), BuildError> {
        self.archive.append_link(&mut header, path, target).map_err(written)
    }

    fn file(
        &mut self,
        mut header: Header,
        path: &Path,
        content: &Content,
    ) -> Result<(), BuildError> {
        let changed = || BuildError::Changed(content.source.clone());
        let file = open_file(&content.source)?;
        header.set_size(content.size_bytes);
        let mut reader =
            Hashing { inner: file.take(content.size_bytes), hasher: Sha256::new(), count: 0 };
        self.archive.append_data(&mut header, path, &mut reader).map_err(written)?;
        let is_longer = reader.inner.into_inner().read(&mut [0]).is_ok_and(|count| count > 0);
        let digest: [u8; 32] = reader.hasher.finalize().into();
        // A file that has shrunk has spoilt the archive, which is dropped.
        if is_longer || reader.count != content.size_bytes || digest != content.sha256 {
            return Err(changed());
        }
        Ok(())
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}

/// Opens a regular file that is known to be one: a link or pipe in its place is not followed.
pub(super) fn open_file(path: &Path) -> Result<File, BuildError> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(BuildError::io("read", path))
}

impl Content {
    /// Looks at a regular file.
    pub(super) fn of(source: PathBuf) -> Result<Content, BuildError> {
        let mut reader = Hashing { inner: open_file(&source)?, hasher: Sha256::new(), count: 0 };
        io::copy(&mut reader, &mut io::sink()).map_err(BuildError::io("read", &source))?;
        let sha256 = reader.hasher.finalize().into();
        Ok(Content { source, size_bytes: reader.count, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directory: &Path) -> Entries {
        std::fs::write(directory.join("file"), b"content").unwrap();
        let plain = |kind| Entry { kind, mode: 0o640, uid: 3, gid: 4_000_000, attributes: vec![] };
        let content = Content::of(directory.join("file")).unwrap();
        let long = PathBuf::from(format!("d/{}", "n".repeat(150)));
        Entries::from([
            (
                "d".into(),
                Entry { kind: EntryKind::Directory { opaque: true }, ..plain(EntryKind::Fifo) },
            ),
            (
                long.clone(),
                Entry {
                    attributes: vec![(b"user.x".to_vec(), b"1".to_vec())],
                    ..plain(EntryKind::File(content))
                },
            ),
            ("d/z".into(), plain(EntryKind::Hardlink(long))),
            ("gone".into(), plain(EntryKind::Whiteout)),
            ("link".into(), plain(EntryKind::Symlink(b"/d/\xff".to_vec()))),
        ])
    }

    fn archive(entries: &Entries, epoch_s: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_layer(entries, epoch_s, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn test_write_layer_holds_what_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&entries(directory.path()), 7);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let mut seen = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 7);
            let attributes = entry.pax_extensions().unwrap().map_or(0, Iterator::count);
            let path = entry.path().unwrap().into_owned();
            let kind = entry.header().entry_type();
            seen.push((
                path.to_string_lossy().chars().take(16).collect::<String>(),
                kind,
                attributes,
            ));
            if attributes > 0 {
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                assert_eq!(content, "content");
                assert_eq!(entry.header().gid().unwrap(), 4_000_000);
            }
        }
        let expected = [
            ("d", EntryType::Directory, 0),
            ("d/.wh..wh..opq", EntryType::Regular, 0),
            ("d/nnnnnnnnnnnnnn", EntryType::Regular, 1),
            ("d/z", EntryType::Link, 0),
            (".wh.gone", EntryType::Regular, 0),
            ("link", EntryType::Symlink, 0),
        ];
        assert_eq!(seen, expected.map(|(path, kind, count)| (path.to_owned(), kind, count)));
    }

    #[test]
    fn test_write_layer_gives_the_same_bytes_for_the_same_files() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = archive(&entries(one.path()), 7);
        assert_eq!(first, archive(&entries(other.path()), 7));
        assert_ne!(first, archive(&entries(other.path()), 8));
        assert_eq!(&first[4..8], [0; 4], "the time in gzip's header");
    }

    #[test]
    fn test_write_layer_of_a_changed_file_returns_error() {
        let directory = tempfile::tempdir().unwrap();
        let entries = entries(directory.path());
        for content in ["other content", "CONTENT", "c"] {
            std::fs::write(directory.path().join("file"), content).unwrap();
            let error = write_layer(&entries, 0, io::sink()).unwrap_err();
            assert!(matches!(error, BuildError::Changed(_)), "{error}");
        }
    }
}
