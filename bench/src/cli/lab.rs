//! `tare lab`: any tare command, or any static program, in the emulated host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tare_kernels::modules::{GUEST_MODULES, Modules};
use tare_kernels::{Cache, Stderr, Variant, rootfs};

use super::KitArgs;
use crate::guest_kernel::{self, Choice};
use crate::image::{ARCHIVE_VARIABLE, archive_of};
use crate::lab::{
    DETERMINISTIC, DISK_DIR, Flavour, IN_DIR, KERNELS_DIR, LAB_VARIABLE, Lab, Order, Payload,
};
use crate::rundir::RunDir;
use crate::suite::{self, Suite};

/// Programs of this host that tare uses in the lab, where they are installed.
const PROGRAMS: [&str; 3] = ["/usr/sbin/mke2fs", "/usr/bin/qemu-system-x86_64", "/bin/busybox"];
/// Runtimes of this host that are measured in the lab, where they are installed and asked for.
const RUNTIMES: [&str; 3] = ["/usr/bin/crun", "/usr/sbin/runc", "/usr/bin/bwrap"];
/// What QEMU's microvm machine loads besides its own libraries.
const QEMU_FIRMWARE: &str = "/usr/share/qemu/qboot.rom";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare lab -- doctor\n  \
    tare lab -- compare --workload start --on microvm,qemu\n  \
    tare lab --flavour functional -- launch --on container -- id")]
pub(super) struct LabArgs {
    /// How faithful, and how fast
    #[arg(long, value_enum, default_value_t = FlavourArg::Deterministic)]
    flavour: FlavourArg,
    /// A static program to run in the lab instead of tare
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Guest kernel to use there [default: the one of the command's own --kernel, or practical]
    #[arg(long, value_name = "VARIANT|PATH")]
    kernel: Option<Choice>,
    /// Directory with that kernel's modules [default: the one that belongs to its path]
    #[arg(long, value_name = "DIR", env = "TARE_MODULES")]
    modules: Option<PathBuf>,
    /// A further file of this host to put into the lab, at the same path
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// Environment for the program, as KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Directory for files that the command leaves in /out of the lab
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    /// The command: arguments of tare, or of --program
    #[arg(last = true, required = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

/// The emulated machine itself; also for `compare` and `launch` with `--host lab`.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct MachineArgs {
    /// Memory of the emulated host, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    lab_memory_mib: u32,
    /// Give the lab up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    lab_timeout_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FlavourArg {
    /// Instruction counting: exact virtual time, identical from run to run
    Deterministic,
    /// Two CPUs, no instruction counting: to see whether things work
    Functional,
}

impl FlavourArg {
    fn name(self) -> &'static str {
        match self {
            FlavourArg::Deterministic => DETERMINISTIC,
            FlavourArg::Functional => "functional",
        }
    }
}

pub(super) fn run(args: &LabArgs) -> anyhow::Result<u8> {
    let mut errand = Errand {
        flavour: args.flavour,
        machine: args.machine,
        program: args.program.clone(),
        arguments: args.arguments.clone(),
        environment: Vec::new(),
        kernel: args.kernel.clone(),
        modules: args.modules.clone(),
        rootfs: None,
        image: None,
        extra: args.with.clone(),
        out_dir: args.out.clone(),
    };
    for pair in &args.env {
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("--env {pair}: not of the form KEY=VALUE"))?;
        errand.environment.push((key.to_owned(), value.to_owned()));
    }
    let code = errand.run()?;
    Ok(u8::try_from(code).unwrap_or(super::exit::FAILED))
}

/// A command for the lab, with everything that tare's commands need there.
pub(super) struct Errand {
    pub(super) flavour: FlavourArg,
    pub(super) machine: MachineArgs,
    pub(super) program: Option<PathBuf>,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) kernel: Option<Choice>,
    pub(super) modules: Option<PathBuf>,
    pub(super) rootfs: Option<PathBuf>,
    /// Name of an image that the command uses there.
    pub(super) image: Option<String>,
    pub(super) extra: Vec<PathBuf>,
    pub(super) out_dir: PathBuf,
}

impl Errand {
    /// A command of this program's that starts boxes of `kit`, in the flavour whose time is exact.
    pub(super) fn with_kit(
        kit: &KitArgs,
        machine: MachineArgs,
        arguments: Vec<OsString>,
        out_dir: PathBuf,
    ) -> Errand {
        Errand {
            flavour: FlavourArg::Deterministic,
            machine,
            program: None,
            arguments,
            environment: Vec::new(),
            kernel: kit.kernel.clone(),
            modules: kit.microvm.modules.clone(),
            rootfs: kit.rootfs.clone(),
            image: kit.image.clone(),
            extra: Vec::new(),
            out_dir,
        }
    }

    /// Runs it and returns its exit code.
    pub(super) fn run(self) -> anyhow::Result<i32> {
        let mut environment = vec![
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("HOME".to_owned(), "/root".to_owned()),
            ("TMPDIR".to_owned(), DISK_DIR.to_owned()),
            ("XDG_CACHE_HOME".to_owned(), "/root/.cache".to_owned()),
            (LAB_VARIABLE.to_owned(), self.flavour.name().to_owned()),
        ];
        let mut payload: Vec<Payload> = PROGRAMS
            .map(PathBuf::from)
            .into_iter()
            .chain(runtimes_in(&self.arguments))
            .filter(|program| program.exists())
            .map(Payload::Program)
            .collect();
        let mut add_file = |from: PathBuf, to: String| payload.push(Payload::File { from, to });
        let firmware = PathBuf::from(QEMU_FIRMWARE);
        if firmware.exists() {
            add_file(firmware, QEMU_FIRMWARE.to_owned());
        }
        let staging = RunDir::new().context("cannot make a directory for the lab's input")?;
        let modules = self.modules.or_else(|| self.kernel.as_ref()?.modules());
        if let Some(directory) = modules {
            let inside = format!("{IN_DIR}/guest-modules");
            let from = stage(&directory, staging.path())?;
            payload.push(Payload::Tree { from, to: inside.clone() });
            environment.push(("TARE_MODULES".to_owned(), inside));
        }
        let mut brought: Vec<String> = Vec::new();
        let mut add_file = |from: PathBuf, to: String| payload.push(Payload::File { from, to });
        let mut add_kernel = |choice: &Choice| -> Result<String, guest_kernel::Error> {
            let kernel = choice.find()?;
            let name = kernel.path.parent().and_then(Path::file_name).unwrap_or_default();
            let inside = format!("{KERNELS_DIR}/{}/vmlinux", name.to_string_lossy());
            if !brought.contains(&inside) {
                // Unpacked here once, not there by each of the command's microVMs; what is wrong with
                // a file, they say.
                let elf = guest_kernel::unpacked(&kernel.path, staging.path());
                add_file(elf.ok().flatten().unwrap_or(kernel.path), inside.clone());
                brought.push(inside.clone());
            }
            Ok(inside)
        };
        let default = match &self.kernel {
            Some(choice) => Some(add_kernel(choice)?),
            // What is not there is missed, with its remedy, by the command that asks for it.
            None => add_kernel(&Choice::default()).ok(),
        };
        environment.extend(default.map(|inside| ("TARE_KERNEL".to_owned(), inside)));
        for variant in variants_in(&self.arguments) {
            add_kernel(&Choice::Variant(variant))?;
        }
        for variant in suite_in(&self.arguments).map_or_else(Vec::new, Suite::kernels) {
            // The figures that need it will be missing, and the others not.
            if let Err(error) = add_kernel(&Choice::Variant(variant)) {
                eprintln!("tare: {error}");
            }
        }
        for path in self.extra {
            let to = path.to_string_lossy().into_owned();
            anyhow::ensure!(to.starts_with('/'), "--with {to}: give an absolute path");
            add_file(path, to);
        }
        let base = || rootfs::base(&Cache::open().ok()?, &Stderr::new()).ok();
        if let Some(from) = self.rootfs.or_else(base) {
            let to = format!("{IN_DIR}/rootfs");
            payload.push(Payload::Tree { from, to: to.clone() });
            environment.push(("TARE_ROOTFS".to_owned(), to));
        }
        if let Some(name) = &self.image {
            let (from, to) = (staging.path().join("image.tar"), format!("{IN_DIR}/image.tar"));
            archive_of(name, &from)?;
            payload.push(Payload::File { from, to: to.clone() });
            environment.push((ARCHIVE_VARIABLE.to_owned(), to));
            environment.push(("TARE_IMAGE".to_owned(), name.clone()));
        }
        environment.extend(self.environment);
        let order = Order {
            program: match self.program {
                Some(program) => program,
                None => std::env::current_exe().context("cannot find this program's own file")?,
            },
            arguments: self.arguments,
            environment,
            payload,
            out_dir: self.out_dir,
        };
        let lab = Lab {
            flavour: match self.flavour {
                FlavourArg::Deterministic => Flavour::Deterministic,
                FlavourArg::Functional => Flavour::Functional,
            },
            memory_mib: self.machine.lab_memory_mib,
            timeout: Duration::from_secs(self.machine.lab_timeout_s),
        };
        Ok(lab.run(&order)?)
    }
}

/// The suite that a command measures.
fn suite_in(arguments: &[OsString]) -> Option<&'static Suite> {
    match arguments {
        [first, rest @ ..] if first == "bench" => {
            rest.iter().find_map(|word| suite::find(word.to_str()?))
        }
        _ => None,
    }
}

/// The runtimes that a command names, or measures a suite with.
fn runtimes_in(arguments: &[OsString]) -> impl Iterator<Item = PathBuf> {
    let words = arguments.iter().filter_map(|word| word.to_str());
    let mut named: Vec<&str> = words.flat_map(|word| word.split(['=', ','])).collect();
    if let Some(suite) = suite_in(arguments) {
        let references = suite.targets.iter().filter_map(|target| target.reference);
        named.extend(references.map(|reference| reference.backend));
    }
    let program = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let is_named = |path: &PathBuf| named.iter().any(|name| path.ends_with(program(name)));
    let wanted: Vec<PathBuf> = RUNTIMES.map(PathBuf::from).into_iter().filter(is_named).collect();
    wanted.into_iter()
}

/// Copies the modules that a guest needs into a directory for the lab, unpacked: it has no program
/// to do that.
fn stage(modules: &Path, staging: &Path) -> anyhow::Result<PathBuf> {
    let modules = Modules::of(modules)?;
    let directory = staging.join("modules");
    std::fs::create_dir(&directory)?;
    for module in modules.closure(GUEST_MODULES)? {
        std::fs::write(directory.join(module.name.clone() + ".ko"), module.read()?)?;
    }
    let built_in = modules.built_in_list(GUEST_MODULES);
    std::fs::write(directory.join("modules.builtin"), built_in)?;
    Ok(directory)
}

/// The variants that a command names with `--kernel`: they go into the lab with it.
fn variants_in(arguments: &[OsString]) -> Vec<&'static Variant> {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--kernel") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => continue,
        };
        found.extend(value.and_then(Variant::by_name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_variants_in_finds_both_forms_and_nothing_else() {
        let names = |words: &[&str]| -> Vec<&str> {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            variants_in(&words).iter().map(|variant| variant.name).collect()
        };
        assert_eq!(names(&["compare", "--kernel", "bare", "--kernel=full"]), ["bare", "full"]);
        assert!(names(&["--kernel", "./bare", "full", "--kernels=full", "--kernel"]).is_empty());
    }

    #[test]
    fn test_runtimes_in_finds_those_named_and_those_of_a_suite() {
        let names = |words: &[&str]| -> Vec<String> {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            runtimes_in(&words).map(|path| path.display().to_string()).collect()
        };
        assert_eq!(names(&["compare", "--on=process,crun"]), ["/usr/bin/crun"]);
        assert_eq!(names(&["bench", "container"]), RUNTIMES);
        assert!(names(&["bench", "vmm"]).is_empty());
    }

    #[test]
    fn test_suite_in_finds_the_suite_of_bench_alone() {
        let name = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            suite_in(&words).map(|suite| suite.name)
        };
        assert_eq!(name(&["bench", "--json", "vmm"]), Some("vmm"));
        assert_eq!(name(&["compare", "vmm"]), None);
        assert_eq!(name(&["bench", "ls"]), None);
    }
}
