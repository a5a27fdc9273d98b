//! The kernel source tree: Debian's package or any tree the user names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::progress::Progress;
use crate::{tool, unpack};

/// The Debian package that is built by default (bookworm-security).
const PACKAGE: &str = "linux-source-6.12";
/// The one file of use in it.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
/// Members of the archive, for the progress bar.
const ARCHIVE_MEMBERS: u64 = 92_500;
/// Changes when [`wanted`] does, so that trees unpacked by an older rule are not reused.
const TRIM_REVISION: u32 = 1;

/// Why there is no source tree to build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Debian package is not installed.
    #[error(
        "the kernel source {ARCHIVE} is not there; install it with `apt-get install {PACKAGE}` (bookworm-security), run kernels/provision.sh, or name a source tree"
    )]
    NoPackage,
    /// The directory is not a kernel source tree.
    #[error("{path} is not a kernel source tree: {why}")]
    NotKernel {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// A file of the tree could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The archive could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// `dpkg-query` failed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
}

/// Where kernel source comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// Debian's `linux-source-6.12` package.
    #[default]
    Debian,
    /// A clean kernel tree of the user's; it is not written to.
    Tree(PathBuf),
}

/// What a source is, found without unpacking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The kernel's version, `6.12.117`.
    pub(crate) version: String,
    /// Changes whenever the source does: the package's version, or a digest over names, sizes
    /// and modification times of a tree.
    pub(crate) id: String,
}

impl Source {
    pub(crate) fn identify(&self) -> Result<Identity, Error> {
        match self {
            Source::Debian => {
                if !Path::new(ARCHIVE).is_file() {
                    return Err(Error::NoPackage);
                }
                let query = ["--show", "--showformat=${Version}", PACKAGE];
                let id = tool::output(tool::command("dpkg-query").args(query))?;
                let id = String::from_utf8_lossy(&id).trim().to_owned();
                let version = id.split('-').next().unwrap_or(&id).to_owned();
                Ok(Identity { version, id })
            }
            Source::Tree(path) => {
                let path = fs::canonicalize(path)
                    .map_err(|source| Error::Io { path: path.clone(), source })?;
                let version = tree_version(&path)?;
                Ok(Identity { version, id: tree_digest(&path)? })
            }
        }
    }

    /// The tree, unpacked into the cache if it is Debian's.
    pub(crate) fn tree(
        &self,
        identity: &Identity,
        cache: &Cache,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        if let Source::Tree(path) = self {
            return fs::canonicalize(path)
                .map_err(|source| Error::Io { path: path.clone(), source });
        }
        let name = format!("linux-{}-{TRIM_REVISION}", identity.id);
        let entry = cache.publish("sources", &name, progress, |into| {
            let archive = Path::new(ARCHIVE);
            let file = File::open(archive)
                .map_err(|source| Error::Io { path: archive.to_owned(), source })?;
            progress.begin("unpacking the kernel source", ARCHIVE_MEMBERS);
            let mut members = 0;
            unpack::tar_xz(archive, file, into, |path| {
                members += 1;
                if members % 512 == 0 {
                    progress.advance(members, "");
                }
                wanted(path)
            })?;
            progress.finish();
            Ok::<(), Error>(())
        })?;
        let tree = entry.join(PACKAGE);
        tree_version(&tree)?;
        Ok(tree)
    }
}

/// Directories of which only the build system's own files are unpacked: two thirds of the
/// tree, for hardware and processors that no guest of ours has.
const SKIPPED: &[&str] = &[
    "Documentation",
    "drivers/accel",
    "drivers/clk",
    "drivers/gpu",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/pinctrl",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "samples",
    "sound",
    "tools/perf",
    "tools/testing",
];

/// Whether a member of the archive is unpacked. Kconfig reads every `Kconfig`, and make every
/// `Makefile` on its way, whatever is configured.
fn wanted(member: &Path) -> bool {
    let name = member.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if ["Kconfig", "Makefile", "Kbuild"].iter().any(|start| name.starts_with(start)) {
        return true;
    }
    let mut components = member.components();
    components.next();
    let inside = components.as_path();
    if let Ok(rest) = inside.strip_prefix("arch") {
        let architecture = rest.components().next();
        let is_file = rest.components().nth(1).is_none();
        return is_file || architecture.is_some_and(|a| a.as_os_str() == "x86");
    }
    !SKIPPED.iter().any(|skipped| inside.starts_with(skipped))
}

/// Reads the version from the top of a tree's Makefile.
fn tree_version(tree: &Path) -> Result<String, Error> {
    let not_kernel = |why| Error::NotKernel { path: tree.to_owned(), why };
    let makefile = fs::read_to_string(tree.join("Makefile"))
        .map_err(|_| not_kernel("it has no readable Makefile"))?;
    if !tree.join("Kconfig").is_file() {
        return Err(not_kernel("it has no Kconfig"));
    }
    let field = |name: &str| {
        makefile.lines().take(20).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    match (field("VERSION"), field("PATCHLEVEL"), field("SUBLEVEL")) {
        (Some(version), Some(patch), Some(sub)) => {
            let version =
                format!("{version}.{patch}.{sub}{}", field("EXTRAVERSION").unwrap_or_default());
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
            if version.chars().all(plain) {
                Ok(version)
            } else {
                Err(not_kernel("its Makefile states an odd version"))
            }
        }
        _ => Err(not_kernel("its Makefile states no VERSION, PATCHLEVEL and SUBLEVEL")),
    }
}

/// A digest that changes when a file of the tree is edited, without reading a gigabyte.
fn tree_digest(tree: &Path) -> Result<String, Error> {
    let mut digest = Sha256::new();
    digest.update(tree.as_os_str().as_encoded_bytes());
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        let io = |source| Error::Io { path: directory.clone(), source };
        let mut entries = fs::read_dir(&directory)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(io)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| entry.file_name() != ".git") {
            let metadata = entry.metadata().map_err(io)?;
            digest.update(entry.path().as_os_str().as_encoded_bytes());
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                digest.update(metadata.size().to_le_bytes());
                digest.update(metadata.mtime().to_le_bytes());
                digest.update(metadata.mtime_nsec().to_le_bytes());
            }
        }
    }
    Ok(crate::hex(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(makefile: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("Makefile"), makefile).unwrap();
        fs::write(directory.path().join("Kconfig"), "").unwrap();
        directory
    }

    #[test]
    fn test_wanted_keeps_build_system_and_x86() {
        for path in [
            "l/Makefile",
            "l/drivers/gpu/drm/Kconfig",
            "l/arch/x86/kernel/head_64.S",
            "l/arch/Kconfig",
            "l/arch/arm/Makefile",
            "l/drivers/net/loopback.c",
            "l/Documentation/Kconfig",
            "l/tools/objtool/check.c",
        ] {
            assert!(wanted(Path::new(path)), "{path}");
        }
        for path in
            ["l/drivers/gpu/drm/a.c", "l/arch/arm/mm/a.c", "l/tools/perf/a.c", "l/sound/a.c"]
        {
            assert!(!wanted(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn test_identify_tree_reads_version() {
        let tree = tree("# x\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\nEXTRAVERSION = -rc1\n");
        let identity = Source::Tree(tree.path().to_owned()).identify().unwrap();
        assert_eq!(identity.version, "6.12.3-rc1");
    }

    #[test]
    fn test_identify_edited_tree_changes_id() {
        let tree = tree("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\n");
        let source = Source::Tree(tree.path().to_owned());
        let before = source.identify().unwrap();
        assert_eq!(before, source.identify().unwrap());
        fs::write(tree.path().join("a.c"), "x").unwrap();
        assert_ne!(before.id, source.identify().unwrap().id);
    }

    #[test]
    fn test_identify_other_directory_returns_not_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let error = Source::Tree(directory.path().to_owned()).identify().unwrap_err();
        assert!(matches!(error, Error::NotKernel { .. }), "{error}");
        let odd = tree("VERSION = ../6\nPATCHLEVEL = 1\nSUBLEVEL = 1\n");
        let error = Source::Tree(odd.path().to_owned()).identify().unwrap_err();
        assert!(error.to_string().contains("odd version"), "{error}");
    }

    #[test]
    fn test_identify_missing_tree_names_it() {
        let error = Source::Tree("/nonexistent".into()).identify().unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
