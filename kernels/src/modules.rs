//! Modules of a distribution's kernel: finding them, and putting them into an initramfs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Initramfs, InitramfsError, elf, tool};

/// What a guest with virtio-mmio devices needs: the transport, disks with ext4, and vsock. Most
/// kernels have some of it built in.
pub const GUEST_MODULES: &[&str] =
    &["virtio_mmio", "virtio_blk", "ext4", "vmw_vsock_virtio_transport"];
/// Where an initramfs lists its modules: one path a line, in the order in which to insert them.
pub const MODULES_LIST: &str = "/modules/list";

/// Where a kernel keeps the names of what it has built in.
const BUILT_IN: &str = "modules.builtin";
/// A module's file name, and the program that unpacks it to standard output.
const SUFFIXES: [(&str, Option<&str>); 4] =
    [(".ko", None), (".ko.xz", Some("xz")), (".ko.zst", Some("zstd")), (".ko.gz", Some("gzip"))];

/// Why a module is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There are no modules.
    #[error("{0} holds no kernel modules; name a directory like /lib/modules/VERSION")]
    None(PathBuf),
    /// The kernel has no such module.
    #[error("{directory} has no module `{module}`{}", .needed_by.as_ref().map(|n| format!(" (which `{n}` needs)")).unwrap_or_default())]
    NoModule {
        /// The kernel's modules.
        directory: PathBuf,
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
    /// A module could not be decompressed.
    #[error(transparent)]
    Tool(#[from] tool::Error),
}

/// All modules of one kernel.
#[derive(Debug, Clone)]
pub struct Modules {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As the kernel calls it, with underscores.
    pub name: String,
    /// The `.ko`, perhaps compressed.
    pub path: PathBuf,
}

impl Module {
    /// What is in the file, decompressed.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Tool`] where the program that decompresses it fails.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        let name = self.path.to_string_lossy();
        let suffix = SUFFIXES.iter().find(|(suffix, _)| name.ends_with(suffix));
        match suffix.and_then(|(_, program)| *program) {
            None => fs::read(&self.path).map_err(io(&self.path)),
            Some(program) => {
                let mut command = tool::command(program);
                command.args(["--decompress", "--stdout", "--"]).arg(&self.path);
                Ok(tool::output(&mut command)?)
            }
        }
    }
}

impl Modules {
    /// The modules anywhere below a directory, for example `/lib/modules/VERSION`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::None`] where it has none.
    pub fn of(directory: &Path) -> Result<Modules, Error> {
        let (mut files, mut built_in) = (BTreeMap::new(), BTreeSet::new());
        let mut pending = vec![directory.to_owned()];
        while let Some(directory) = pending.pop() {
            for file in fs::read_dir(&directory).map_err(io(&directory))? {
                let file = file.map_err(io(&directory))?;
                let path = file.path();
                let name = file.file_name().to_string_lossy().into_owned();
                if file.file_type().map_err(io(&path))?.is_dir() {
                    pending.push(path);
                } else if let Some(module) =
                    SUFFIXES.iter().find_map(|(suffix, _)| name.strip_suffix(suffix))
                {
                    files.insert(canonical(module), path);
                } else if name == BUILT_IN {
                    let list = fs::read_to_string(&path).map_err(io(&path))?;
                    built_in.extend(list.lines().filter_map(|line| {
                        line.rsplit('/').next()?.strip_suffix(".ko").map(canonical)
                    }));
                }
            }
        }
        if files.is_empty() && built_in.is_empty() {
            return Err(Error::None(directory.to_owned()));
        }
        Ok(Modules { directory: directory.to_owned(), files, built_in })
    }

    /// Where the modules of the kernel at `kernel` are, if its name and place tell:
    /// `DIR/boot/vmlinuz-VERSION` belongs with `DIR/lib/modules/VERSION`.
    pub fn beside(kernel: &Path) -> Option<PathBuf> {
        let version = kernel.file_name()?.to_str()?.split_once('-')?.1;
        let root = kernel.parent()?.parent()?;
        let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(version));
        places.into_iter().find(|place| place.is_dir())
    }

    /// The named modules and all they depend on, each once, in an order in which they can be
    /// inserted. Names may be written with `-` or `_`; what is built into the kernel is left
    /// out.
    ///
    /// Dependencies are those that the modules state of themselves (`depends=` in `.modinfo`),
    /// since `modules.dep` is made only when a package is installed.
    ///
    /// # Errors
    /// [`Error::NoModule`], or [`Error::Module`] for a damaged one.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>, Error> {
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
        let Some(path) = self.files.get(name) else {
            return Err(Error::NoModule {
                directory: self.directory.clone(),
                module: name.to_owned(),
                needed_by: needed_by.map(str::to_owned),
            });
        };
        let module = Module { name: name.to_owned(), path: path.clone() };
        let content = module.read()?;
        let damaged = |source| Error::Module { path: path.clone(), source };
        let info = elf::section(&content, ".modinfo").map_err(damaged)?.unwrap_or_default();
        for dependency in depends(info) {
            self.add(&dependency, Some(name), seen, ordered)?;
        }
        ordered.push(module);
        Ok(())
    }

    /// What those of `names` that are built in look like in a `modules.builtin`: for a directory
    /// that is to hold a part of these modules.
    pub fn built_in_list(&self, names: &[&str]) -> String {
        let names = names.iter().map(|name| canonical(name));
        names.filter(|name| self.built_in.contains(name)).map(|name| name + ".ko\n").collect()
    }
}

/// Puts modules into an initramfs, with their list at [`MODULES_LIST`].
///
/// # Errors
/// Modules that cannot be read, or do not fit.
pub fn add(initramfs: &mut Initramfs, modules: &[Module]) -> Result<(), AddError> {
    let mut list = String::new();
    initramfs.directory("modules", 0o755)?;
    for module in modules {
        let place = format!("modules/{}.ko", module.name);
        initramfs.file(&place, 0o644, module.read()?)?;
        list += &format!("/{place}\n");
    }
    Ok(initramfs.file(MODULES_LIST.trim_start_matches('/'), 0o644, list)?)
}

/// Why modules are not in an initramfs.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// They cannot be read.
    #[error(transparent)]
    Module(#[from] Error),
    /// They do not fit.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
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

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// The version in a kernel's file name, `vmlinuz-VERSION`.
pub(crate) fn version_of(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_prefix("vmlinuz-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_depends_reads_list() {
        let info = b"license=GPL\0depends=kvm,irq-bypass\0retpoline=Y\0";
        assert_eq!(depends(info), ["kvm", "irq_bypass"]);
        assert!(depends(b"depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }

    #[test]
    fn test_beside_finds_modules_by_the_kernel_s_name_and_place() {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("lib/modules/6.1-x");
        fs::create_dir_all(&modules).unwrap();
        let boot = directory.path().join("boot");
        assert_eq!(Modules::beside(&boot.join("vmlinuz-6.1-x")), Some(modules));
        for other in ["vmlinuz-6.2", "vmlinuz", "vmlinux"] {
            assert_eq!(Modules::beside(&boot.join(other)), None);
        }
    }

    #[test]
    fn test_of_nothing_or_damaged_module_returns_error_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let error = Modules::of(directory.path()).unwrap_err();
        assert!(matches!(error, Error::None(_)), "{error}");
        fs::write(directory.path().join("bad-one.ko"), "no ELF").unwrap();
        fs::write(directory.path().join("packed.ko.xz"), "no xz").unwrap();
        fs::write(directory.path().join(BUILT_IN), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let modules = Modules::of(directory.path()).unwrap();
        assert_eq!(modules.closure(&["ext4"]).unwrap(), []);
        assert_eq!(modules.built_in_list(&["ext4", "bad_one"]), "ext4.ko\n");
        for name in ["bad_one", "packed"] {
            let error = modules.closure(&[name]).unwrap_err().to_string();
            assert!(error.contains(&name.replace('_', "-")), "{error}");
        }
        let error = modules.closure(&["nonsense"]).unwrap_err().to_string();
        assert!(error.contains("no module `nonsense`"), "{error}");
    }

    #[test]
    fn test_add_writes_modules_and_their_list_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let modules = ["b", "a"].map(|name| {
            let path = directory.path().join(format!("{name}.ko"));
            fs::write(&path, name).unwrap();
            Module { name: name.to_owned(), path }
        });
        let mut initramfs = Initramfs::new();
        add(&mut initramfs, &modules).unwrap();
        let archive = String::from_utf8(initramfs.build()).unwrap();
        assert!(archive.contains("/modules/b.ko\n/modules/a.ko\n"), "{archive}");
    }
}
