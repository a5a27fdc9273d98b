//! The kernel that microVMs boot: which one, and where it is.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tare_kernels::modules::Modules;
use tare_kernels::{Build, Cache, PRACTICAL, Source, Variant};

use crate::lab::{KERNELS_DIR, is_lab};

/// There is no such kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] tare_kernels::CacheError),
    /// Whether the kernel has been built cannot be told: no source, no compiler.
    #[error(transparent)]
    Kernel(#[from] tare_kernels::KernelError),
    /// A variant that has not been built.
    #[error(
        "there is no guest kernel `{0}` yet; run `tare kernel build {0}`, or name one with --kernel"
    )]
    NotBuilt(&'static str),
    /// A variant that was not taken into the lab.
    #[error("the guest kernel `{0}` is not in this lab; bring it with `tare lab --kernel {0}`")]
    NotInLab(&'static str),
    /// A bzImage.
    #[error(transparent)]
    Image(#[from] tare_vmm::BootError),
    /// The user's file.
    #[error("cannot read the guest kernel {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
}

/// Which kernel is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// One that `tare kernel build` makes.
    Variant(&'static Variant),
    /// A file of the user's.
    File(PathBuf),
}

impl Default for Choice {
    fn default() -> Choice {
        Choice::Variant(&PRACTICAL)
    }
}

impl FromStr for Choice {
    type Err = Infallible;

    /// A variant's name, or else a path.
    fn from_str(text: &str) -> Result<Choice, Infallible> {
        Ok(Variant::by_name(text).map_or_else(|| Choice::File(text.into()), Choice::Variant))
    }
}

/// A kernel for microVMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// What the results call it.
    pub name: String,
    /// The file itself: an ELF image, or a bzImage.
    pub path: PathBuf,
    /// The ELF image, unpacked by [`prepare`](GuestKernel::prepare).
    pub elf: PathBuf,
    /// Whether it must be told of its devices and processors by ACPI.
    pub acpi: bool,
    /// Whether it needs an 8254 timer.
    pub timer: bool,
    /// The words of its command line that do not depend on the job.
    pub command_line: String,
}

impl Choice {
    /// Where the modules of the user's file are, if they are beside it.
    pub fn modules(&self) -> Option<PathBuf> {
        match self {
            Choice::File(path) => Modules::beside(path),
            Choice::Variant(_) => None,
        }
    }

    /// Finds the kernel.
    ///
    /// # Errors
    /// [`Error`].
    pub fn find(&self) -> Result<GuestKernel, Error> {
        let path = match self {
            Choice::File(path) => path.clone(),
            Choice::Variant(variant) if is_lab() => {
                brought(Path::new(KERNELS_DIR), variant).ok_or(Error::NotInLab(variant.name))?
            }
            Choice::Variant(variant) => {
                let cache = Cache::open()?;
                let built = Build { cache: &cache, variant, source: Source::Debian }.cached()?;
                built.ok_or(Error::NotBuilt(variant.name))?.vmlinux
            }
        };
        fs::metadata(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(GuestKernel::at(path))
    }
}

impl GuestKernel {
    /// A file by what its directory says of it: in the cache and in the lab, the variant. Any other
    /// kernel is given the words of the default.
    fn at(path: PathBuf) -> GuestKernel {
        let entry = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        let variant = entry.and_then(Variant::of_entry);
        let name = match (entry, variant) {
            (Some(entry), Some(_)) => entry.to_owned(),
            _ => path.display().to_string(),
        };
        let command_line = tare_kernels::command_line(variant.unwrap_or(&PRACTICAL));
        GuestKernel { name, elf: path.clone(), path, acpi: false, timer: true, command_line }
    }
}

impl GuestKernel {
    /// Unpacks a bzImage into `directory` and finds out how the kernel is told of its machine, one
    /// of `vcpus`.
    ///
    /// # Errors
    /// [`Error::Image`] for a damaged bzImage, [`Error::File`].
    pub fn prepare(mut self, directory: &Path, vcpus: u8) -> Result<GuestKernel, Error> {
        if let Some(elf) = unpacked(&self.path, directory)? {
            self.elf = elf;
        }
        let image = fs::read(&self.elf).map_err(file_error(&self.elf))?;
        // Our own all read the MP table; `bare` takes no devices, and has no ACPI either.
        let variant = Variant::of_entry(&self.name);
        let is_ours = variant.is_some();
        self.acpi = !is_ours && !tare_kernels::takes_device_words(&image);
        // Those for start-up have interrupts through the 8259, on their one processor.
        self.timer = vcpus > 1 || !variant.is_some_and(|variant| variant.packed);
        // By ACPI, and with several processors, interrupts come through the I/O APIC.
        if self.acpi || vcpus > 1 {
            let words = self.command_line.split(' ').filter(|word| *word != "noapic");
            self.command_line = words.collect::<Vec<_>>().join(" ");
        }
        Ok(self)
    }
}

/// The ELF image inside a bzImage, unpacked into `directory`; `None` if the file is none.
///
/// # Errors
/// [`Error::Image`] for a damaged one.
pub fn unpacked(kernel: &Path, directory: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(mut image) = tare_vmm::unpack_bzimage(kernel)? else { return Ok(None) };
    let path = directory.join("vmlinux");
    let written = image.rewind().and_then(|()| {
        let mut file = fs::File::create(&path)?;
        io::copy(&mut image, &mut file)
    });
    written.map_err(file_error(&path))?;
    Ok(Some(path))
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// The kernel of a variant below a directory with one for each entry of the cache.
fn brought(directory: &Path, variant: &Variant) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let entry = entries
        .find(|entry| entry.file_name().to_str().and_then(Variant::of_entry) == Some(variant));
    entry.map(|entry| entry.path().join("vmlinux"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_kernels::{BARE, FULL};

    #[test]
    fn test_choice_is_a_variant_by_its_name_and_a_file_by_anything_else() {
        let parse = |text: &str| text.parse::<Choice>().unwrap();
        assert_eq!(parse("bare"), Choice::Variant(&BARE));
        assert_eq!(parse("./bare"), Choice::File("./bare".into()));
        assert_eq!(parse("practica"), Choice::File("practica".into()));
    }

    #[test]
    fn test_find_file_names_its_variant_and_boots_with_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let entry = directory.path().join("full-6.12.117-0123456789ab");
        fs::create_dir(&entry).unwrap();
        let path = entry.join("vmlinux");
        let missing = Choice::File(path.clone()).find().unwrap_err().to_string();
        assert!(missing.contains("vmlinux"), "{missing}");
        fs::write(&path, b"x").unwrap();
        let kernel = Choice::File(path.clone()).find().unwrap();
        assert_eq!(kernel.name, "full-6.12.117-0123456789ab");
        assert_eq!(kernel.command_line, tare_kernels::command_line(&FULL));
        let prepared = kernel.clone().prepare(directory.path(), 1).unwrap();
        assert!(!prepared.acpi && prepared.timer);
        assert_eq!(brought(directory.path(), &FULL), Some(path));
        assert_eq!(brought(directory.path(), &BARE), None);
    }

    #[test]
    fn test_find_file_of_no_variant_is_named_by_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kernel = Choice::File(file.path().to_owned()).find().unwrap();
        assert_eq!(kernel.name, file.path().display().to_string());
        assert_eq!(kernel.command_line, tare_kernels::command_line(&PRACTICAL));
    }
}
