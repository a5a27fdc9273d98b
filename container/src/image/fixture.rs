//! Archives and layouts for tests.

use std::path::Path;

use tar::{EntryType, Header};

use super::Digest;

/// Whether a test that gives files to others can run; if not, it says so, and fails where all must.
pub(crate) fn may_unpack(test: &str) -> bool {
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!ci, "{test}: not root, and CI=true allows no test to be skipped");
    // Past the capture of the test runner: what is skipped must be seen.
    let line = format!("SKIPPED {test}: not root\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    false
}

/// A tar archive that is put together member by member, with whatever names.
#[derive(Default, Clone)]
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    /// Adds a member as it is given.
    pub(crate) fn member(mut self, kind: u8, path: &[u8], link: &[u8], content: &[u8]) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        self.push(header, content);
        self
    }

    pub(crate) fn push(&mut self, mut header: Header, content: &[u8]) {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Layer {
        self.member(b'0', path.as_bytes(), b"", content)
    }

    pub(crate) fn directory(self, path: &str) -> Layer {
        self.member(b'5', path.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Layer {
        self.member(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Layer {
        self.member(b'1', path.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn device(mut self, kind: u8, path: &str, major: u32, minor: u32) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.push(header, b"");
        self
    }

    /// Extended attributes and other records of the member that follows.
    pub(crate) fn records(self, records: &[(&str, &[u8])]) -> Layer {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|n| rest + n.to_string().len() == *n).unwrap();
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.member(b'x', b"records", b"", &content)
    }

    /// The whole archive.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An OCI layout in a directory, put together from archives of layers.
pub(crate) struct Layout {
    directory: tempfile::TempDir,
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Layout {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// With one image `name`, for this platform.
    pub(crate) fn of(name: &str, layers: &[(Layer, Packing)]) -> Layout {
        let layout = Layout { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(layout.path().join("blobs/sha256")).unwrap();
        std::fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .unwrap();
        let manifest = layout.manifest(layers);
        layout.index(&manifest, name);
        layout
    }

    /// Adds an image and returns the descriptor of its manifest.
    pub(crate) fn manifest(&self, layers: &[(Layer, Packing)]) -> String {
        let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
        for (layer, packing) in layers {
            let bytes = layer.clone().bytes();
            diff_ids.push(format!("\"{}\"", Digest::of(&bytes)));
            let (packed, suffix) = match packing {
                Packing::Plain => (bytes, ""),
                Packing::Gzip => {
                    let level = flate2::Compression::fast();
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
                    (encoder.finish().unwrap(), "+gzip")
                }
                Packing::Zstd => {
                    let level = ruzstd::encoding::CompressionLevel::Fastest;
                    (ruzstd::encoding::compress_to_vec(&bytes[..], level), "+zstd")
                }
            };
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            descriptors.push(self.blob(&media_type, &packed));
        }
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
            descriptors.join(",")
        );
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    /// Adds a blob and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        std::fs::write(self.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    }

    /// Writes the index, with one entry that is this descriptor.
    pub(crate) fn index(&self, descriptor: &str, name: &str) {
        let entry = descriptor.strip_suffix('}').unwrap();
        let annotations =
            format!(r#""annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry},{annotations}}}]}}"#);
        std::fs::write(self.path().join("index.json"), index).unwrap();
    }
}

/// What is in a tree: path, kind, owner, mode, content or target, attributes of interest.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let shown = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let kind = match metadata.mode() & libc::S_IFMT {
                libc::S_IFDIR => {
                    pending.push(path.clone());
                    let mut value = [0; 1];
                    let opaque = rustix::fs::getxattr(&path, super::lower::OPAQUE, &mut value);
                    if opaque.is_ok() {
                        "opaque directory".to_owned()
                    } else {
                        "directory".to_owned()
                    }
                }
                libc::S_IFLNK => {
                    format!("link to {}", std::fs::read_link(&path).unwrap().display())
                }
                libc::S_IFREG => {
                    format!("file {:?}", String::from_utf8_lossy(&std::fs::read(&path).unwrap()))
                }
                libc::S_IFIFO => "pipe".to_owned(),
                libc::S_IFCHR if metadata.rdev() == 0 => "whiteout".to_owned(),
                _ => "device".to_owned(),
            };
            lines.push(format!("{shown}: {kind}"));
        }
    }
    lines.sort();
    lines
}
