//! The kernel of the lab: Debian's own cloud kernel, unpacked from its package, with modules.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{self, Cache};
use crate::progress::Progress;
use crate::{elf, tool, unpack};

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
    /// The kernel has no such module.
    #[error("kernel {release} has no module `{module}`{}", .needed_by.as_ref().map(|n| format!(" (which `{n}` needs)")).unwrap_or_default())]
    NoModule {
        /// The kernel.
        release: String,
        /// The module asked for.
        module: String,
        /// Who asked, if it was another module.
        needed_by: Option<String>,
    },
    /// A module is damaged.
    #[error("module {path}: {source}")]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: elf::Error,
    },
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
    modules: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As the kernel calls it, with underscores.
    pub name: String,
    /// The decompressed `.ko`.
    pub path: PathBuf,
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
    let mut kernel = Kernel {
        vmlinuz: PathBuf::new(),
        release: String::new(),
        modules: BTreeMap::new(),
        built_in: BTreeSet::new(),
    };
    let mut pending = vec![entry.to_owned()];
    while let Some(directory) = pending.pop() {
        for file in fs::read_dir(&directory).map_err(io("read the directory", &directory))? {
            let file = file.map_err(io("read the directory", &directory))?;
            let path = file.path();
            let name = file.file_name().to_string_lossy().into_owned();
            if file.file_type().map_err(io("read", &path))?.is_dir() {
                pending.push(path);
            } else if let Some(module) = name.strip_suffix(".ko") {
                kernel.modules.insert(canonical(module), path);
            } else if let Some(release) = name.strip_prefix("vmlinuz-") {
                kernel.release = release.to_owned();
                kernel.vmlinuz = path;
            } else if name == "modules.builtin" {
                let list = fs::read_to_string(&path).map_err(io("read", &path))?;
                kernel.built_in.extend(list.lines().filter_map(|line| {
                    line.rsplit('/').next()?.strip_suffix(".ko").map(canonical)
                }));
            }
        }
    }
    let missing = |what| Error::Incomplete { package: package.to_owned(), what };
    if kernel.release.is_empty() {
        return Err(missing("boot/vmlinuz-*"));
    }
    if kernel.modules.is_empty() {
        return Err(missing("modules"));
    }
    Ok(kernel)
}

impl Kernel {
    /// The named modules and all they depend on, each once, in an order in which they can be
    /// inserted. Names may be written with `-` or `_`; what is built into the kernel is left
    /// out.
    ///
    /// Dependencies are those that the modules state of themselves (`depends=` in `.modinfo`),
    /// since `modules.dep` is made only when a package is installed.
    ///
    /// # Errors
    /// [`Error::NoModule`], or [`Error::Module`] for a damaged one.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>, Error> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.add(&canonical(name), None, &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(
        &self,
        name: &str,
        needed_by: Option<&str>,
        seen: &mut BTreeSet<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<(), Error> {
        // Marked before its dependencies: a cycle, which depmod would refuse, ends here too.
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.modules.get(name) else {
            return Err(Error::NoModule {
                release: self.release.clone(),
                module: name.to_owned(),
                needed_by: needed_by.map(str::to_owned),
            });
        };
        let content = fs::read(path).map_err(io("read", path))?;
        let damaged = |source| Error::Module { path: path.clone(), source };
        let info = elf::section(&content, ".modinfo").map_err(damaged)?.unwrap_or_default();
        for dependency in depends(info) {
            self.add(&dependency, Some(name), seen, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), path: path.clone() });
        Ok(())
    }
}

/// The names in `depends=a,b` of a `.modinfo` section, whose entries end in NUL.
fn depends(info: &[u8]) -> Vec<String> {
    info.split(|&byte| byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|&byte| byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| canonical(&String::from_utf8_lossy(name)))
        .collect()
}

/// The kernel holds `-` and `_` in module names for the same and shows `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
