//! Building a guest kernel, or finding the one built before.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::config::{self, Config};
use crate::make::{self, Make, step};
use crate::progress::Progress;
use crate::source::{self, Identity, Source};
use crate::variant::Variant;
use crate::{elf, hex, link, tool};

/// Changes whenever this file makes another kernel of the same input.
const RECIPE_REVISION: u32 = 2;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source is missing or bad.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// A fragment is bad or was not taken as asked.
    #[error("kernel variant {variant}: {source}")]
    Config {
        /// The variant.
        variant: &'static str,
        /// What about it.
        source: config::Error,
    },
    /// A compiler or other tool is missing.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// make could not be run or ended with an error.
    #[error(transparent)]
    Make(#[from] make::Error),
    /// The linked kernel is not as expected.
    #[error("the kernel that was built cannot be compacted: {0}")]
    Elf(#[from] elf::Error),
    /// The kernel's linker script is not as expected.
    #[error(
        "the kernel's linker script (arch/x86/kernel/vmlinux.lds) aligns nothing to a large page: this source is not one that tare knows; build a 6.12"
    )]
    Unpacked,
    /// A file of the build could not be read or written.
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

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The bootable image: a compact ELF with a PVH note where the variant has that.
    pub vmlinux: PathBuf,
    /// The complete configuration.
    pub config: PathBuf,
    /// Addresses and names of its symbols.
    pub system_map: PathBuf,
    /// `<variant>-<version>-<first 12 hex digits>`.
    pub name: String,
    /// The variant's name.
    pub variant: &'static str,
    /// The kernel's version, `6.12.117`.
    pub version: String,
    /// SHA-256 over source, configuration, compiler, linker and recipe.
    pub hash: String,
}

/// A kernel to be had.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    /// Where it is kept.
    pub cache: &'a Cache,
    /// Which one.
    pub variant: &'static Variant,
    /// From which source.
    pub source: Source,
}

impl Build<'_> {
    /// The kernel, if it was built before from the same source, configuration and compiler.
    ///
    /// # Errors
    /// If that cannot be determined: no source, no compiler.
    pub fn cached(&self) -> Result<Option<Kernel>, Error> {
        let kernel = self.name_it(&self.source.identify()?)?;
        Ok(kernel.vmlinux.is_file().then_some(kernel))
    }

    /// The kernel, built if it is not in the cache: about three minutes on two idle processors.
    ///
    /// The result depends on nothing but what its hash covers: user, host and time of the build
    /// are fixed, and the environment's make and compiler variables are removed.
    ///
    /// # Errors
    /// Any [`Error`]. A failed build leaves its log in the cache and nothing else.
    pub fn run(&self, progress: &dyn Progress) -> Result<Kernel, Error> {
        let identity = self.source.identify()?;
        let kernel = self.name_it(&identity)?;
        if kernel.vmlinux.is_file() {
            return Ok(kernel);
        }
        for needed in ["flex", "bison", "bc"] {
            tool::output(tool::command(needed).arg("--version"))?;
        }
        let tree = self.source.tree(&identity, self.cache, progress)?;
        let log = self.cache.log(&kernel.name)?;
        self.cache.publish("kernels", &kernel.name, progress, |into| {
            self.make(&tree, into, &log, progress)
        })?;
        // The build is published; its log is of no more use.
        let _ = fs::remove_file(&log);
        Ok(kernel)
    }

    fn config(&self) -> Result<Config, Error> {
        let variant = self.variant.name;
        self.variant.config().map_err(|source| Error::Config { variant, source })
    }

    fn name_it(&self, identity: &Identity) -> Result<Kernel, Error> {
        let mut digest = Sha256::new();
        for part in [
            RECIPE_REVISION.to_string().as_bytes(),
            identity.id.as_bytes(),
            self.config()?.text().as_bytes(),
            &tool::output(tool::command("gcc").arg("--version"))?,
            &tool::output(tool::command("ld").arg("--version"))?,
        ] {
            // The length keeps parts apart.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let hash = hex(&digest.finalize());
        let (variant, version) = (self.variant.name, identity.version.clone());
        let name = format!("{variant}-{version}-{}", &hash[..12]);
        let directory = self.cache.root().join("kernels").join(&name);
        Ok(Kernel {
            vmlinux: directory.join("vmlinux"),
            config: directory.join("config"),
            system_map: directory.join("System.map"),
            name,
            variant,
            version,
            hash,
        })
    }

    /// Configures and compiles in `into`, and reduces that to what is kept.
    fn make(
        &self,
        tree: &Path,
        into: &Path,
        log: &Path,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let objects = into.join("objects");
        create_dir(&objects)?;
        let asked = self.config()?;
        let merged = into.join("merged.config");
        write(&merged, asked.text().as_bytes())?;
        let log_file = File::create(log).map_err(io("create", log))?;
        let make = Make { tree, objects: &objects, log, log_file };

        make.run("allnoconfig", &[], Some(&merged), &mut |_| {})?;
        let mut finished = Config::default();
        let verified = finished
            .merge(".config", &String::from_utf8_lossy(&read(&objects.join(".config"))?))
            .and_then(|()| asked.verify(&finished));
        verified.map_err(|source| Error::Config { variant: self.variant.name, source })?;

        // The number of steps of the last build of this variant is a good guess for this one.
        let steps_file =
            self.cache.root().join("kernels").join(format!("{}.steps", self.variant.name));
        let known = fs::read_to_string(&steps_file).ok().and_then(|text| text.trim().parse().ok());
        progress.begin(
            &format!("building kernel {}", self.variant.name),
            known.unwrap_or(self.variant.estimated_steps),
        );
        let mut steps = 0u64;
        make.run("vmlinux", &[], None, &mut |line| {
            if let Some(step) = step(line) {
                steps += 1;
                progress.advance(steps, step);
            }
        })?;
        progress.finish();
        if self.variant.packed {
            let script = read(&objects.join(link::SCRIPT))?;
            let packed = link::pack(&String::from_utf8_lossy(&script)).ok_or(Error::Unpacked)?;
            write(&objects.join(link::PACKED_SCRIPT), packed.as_bytes())?;
            make.run("vmlinux", &[link::PACKED_VARIABLE], None, &mut |_| {})?;
        }

        write(&into.join("vmlinux"), &elf::compact(&read(&objects.join("vmlinux"))?)?)?;
        for (from, to) in [(".config", "config"), ("System.map", "System.map")] {
            write(&into.join(to), &read(&objects.join(from))?)?;
        }
        fs::remove_dir_all(&objects).map_err(io("remove", &objects))?;
        fs::remove_file(&merged).map_err(io("remove", &merged))?;
        write(&steps_file, steps.to_string().as_bytes())
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(io("read", path))
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    fs::write(path, content).map_err(io("write", path))
}

fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).map_err(io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::variant::PRACTICAL;

    fn build_of(makefile: &str) -> (tempfile::TempDir, Result<Kernel, Error>, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let version = "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 2\n";
        fs::write(tree.join("Makefile"), format!("{version}{makefile}")).unwrap();
        fs::write(tree.join("Kconfig"), "").unwrap();
        let root = directory.path().join("cache");
        let cache = Cache::at(&root);
        let build = Build { cache: &cache, variant: &PRACTICAL, source: Source::Tree(tree) };
        assert!(build.cached().unwrap().is_none());
        let result = build.run(&Silent);
        (directory, result, root)
    }

    #[test]
    fn test_run_failing_make_names_log_and_error() {
        let (_directory, result, root) =
            build_of("allnoconfig:\n\techo 'a.c: error: bad'; false\n");
        let error = result.unwrap_err();
        let Error::Make(make::Error::Failed { log, tail, .. }) = &error else { panic!("{error}") };
        assert!(tail.contains("a.c: error: bad"), "{tail}");
        assert!(log.is_file());
        assert!(!root.join("tmp").exists());
    }

    #[test]
    fn test_run_config_not_taken_lists_symbols() {
        let (_directory, result, _) =
            build_of("allnoconfig:\n\techo CONFIG_SMP=y > $(O)/.config\n");
        let error = result.unwrap_err().to_string();
        assert!(error.contains("CONFIG_SMP: asked n, got y"), "{error}");
        assert!(error.contains("CONFIG_64BIT: asked y, got n"), "{error}");
    }

    #[test]
    fn test_run_result_not_elf_returns_elf_error() {
        let (_directory, result, root) = build_of(&makefile_of("ALIGN((1 << 21))"));
        assert!(matches!(result, Err(Error::Elf(elf::Error::NotElf))), "{result:?}");
        assert!(!root.join("tmp").exists());
    }

    #[test]
    fn test_run_linker_script_without_large_pages_returns_unpacked() {
        let (_directory, result, root) = build_of(&makefile_of("ALIGN(64)"));
        assert!(matches!(result, Err(Error::Unpacked)), "{result:?}");
        assert!(!root.join("tmp").exists());
    }

    /// Takes every symbol, leaves a linker script with `alignment` and something that is no ELF.
    fn makefile_of(alignment: &str) -> String {
        format!(
            "allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) $(O)/.config\n\
             vmlinux:\n\techo '  LD      vmlinux'; echo no > $(O)/vmlinux\n\
             \tmkdir -p $(O)/arch/x86/kernel; echo '{alignment}' > $(O)/{}\n",
            link::SCRIPT
        )
    }
}
