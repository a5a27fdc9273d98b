//! The kernel of the lab: Debian's own cloud kernel, unpacked from its package, with modules.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{self, Cache};
use crate::modules::{self, Module, Modules};
use crate::progress::Progress;
use crate::{tool, unpack};

/// Modules of the package, for the progress bar.
const MEMBERS: u64 = 1_700;

/// Why the lab has no kernel, or a module is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The package was not downloaded.
    #[error(
        "no linux-image-*-cloud-amd64 package in {0}; get it with `kernels/provision.sh lab`, or with `apt-get download` there"
    )]
    NoPackage(PathBuf),
    /// The package could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// A module could not be decompressed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// The package lacks an essential part.
    #[error("the package {package} holds no {what}; remove it and run kernels/provision.sh lab")]
    Incomplete {
        /// The package.
        package: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A module is not to be had.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// A distribution's kernel with its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// `6.12.117+deb12-cloud-amd64`.
    pub release: String,
    modules: Modules,
}

/// The newest cloud kernel among the cache's downloads, unpacked.
///
/// # Errors
/// [`Error::NoPackage`] with the remedy if there is none; others if the package is damaged.
pub fn kernel(cache: &Cache, progress: &dyn Progress) -> Result<Kernel, Error> {
    let package = newest_package(&cache.downloads())?;
    let name = package.file_stem().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let entry =
        cache.publish("lab", &name, progress, |into| unpack_package(&package, into, progress))?;
    open(&entry, &package)
}

/// The package with the highest version in its name.
fn newest_package(downloads: &Path) -> Result<PathBuf, Error> {
    let none = || Error::NoPackage(downloads.to_owned());
    let entries = fs::read_dir(downloads).map_err(|_| none())?;
    let packages = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        let version = name.strip_prefix("linux-image-")?.strip_suffix("_amd64.deb")?;
        let version = version.contains("-cloud-amd64_").then(|| numbers(version))?;
        Some((version, path))
    });
    packages.max().map(|(_, path)| path).ok_or_else(none)
}

/// The numbers in a version, in order: enough to compare builds of one kernel series.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Unpacks kernel and modules; modules are stored decompressed, so that what boots needs no
/// xz.
fn unpack_package(package: &Path, into: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let incomplete = |what| Error::Incomplete { package: package.to_owned(), what };
    let mut data = tempfile::tempfile_in(into).map_err(io("create a file in", into))?;
    // deb(5): debian-binary, control.tar.*, data.tar.*; Debian's kernels are packed with xz.
    if !unpack::ar_member(package, |name| name == "data.tar.xz", &mut data)? {
        return Err(incomplete("data.tar.xz"));
    }
    progress.begin("unpacking the lab's kernel", MEMBERS);
    let (mut members, mut compressed) = (0, Vec::new());
    unpack::tar_xz(package, data, into, |path| {
        members += 1;
        progress.advance(members, "");
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.ends_with(".ko.xz") {
            compressed.push(into.join(path));
        }
        path.starts_with("boot") && name.starts_with("vmlinuz-")
            || name.ends_with(".ko")
            || name.ends_with(".ko.xz")
            || name == "modules.builtin"
    })?;
    unpack::xz_files(&compressed)?;
    progress.finish();
    Ok(())
}

/// Finds kernel and modules in an unpacked package.
fn open(entry: &Path, package: &Path) -> Result<Kernel, Error> {
    let missing = |what| Error::Incomplete { package: package.to_owned(), what };
    let boot = entry.join("boot");
    let mut files = fs::read_dir(&boot).map_err(|_| missing("boot/"))?.filter_map(Result::ok);
    let found = files.find_map(|file| {
        let release = modules::version_of(&file.file_name())?.to_owned();
        Some((file.path(), release))
    });
    let (vmlinuz, release) = found.ok_or_else(|| missing("boot/vmlinuz-*"))?;
    let modules = Modules::of(entry).map_err(|error| match error {
        modules::Error::None(_) => missing("modules"),
        other => other.into(),
    })?;
    Ok(Kernel { vmlinuz, release, modules })
}

impl Kernel {
    /// The named modules with their dependencies: see [`Modules::closure`].
    ///
    /// # Errors
    /// [`Error::Modules`].
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>, Error> {
        Ok(self.modules.closure(names)?)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
