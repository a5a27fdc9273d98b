//! The command line: one file a subcommand, low-level arguments made high-level once.

mod bench;
mod calibrate;
mod compare;
mod compare_results;
mod container;
mod doctor;
mod image;
mod kernel;
mod lab;
mod launch;
mod microvm;
mod oci;
mod plan;
mod report;
mod rescue;
mod round;
mod snapshot;
mod table;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use tare_container::Reach;

use crate::guest_kernel;

/// Exit codes, documented in `tare --help`.
pub mod exit {
    /// Everything asked was done.
    pub const OK: u8 = 0;
    /// Something failed; standard error says what.
    pub const FAILED: u8 = 1;
    /// Something needed is not there; standard error says how to get it. (2 is a usage error.)
    pub const MISSING: u8 = 3;
    /// The run ended, but some cells failed or could not run.
    pub const INCOMPLETE: u8 = 4;
    /// `tare launch`: the boxes' exit codes differ; `tare image verify`: their digests do.
    pub const DIFFERENT: u8 = 5;
    /// `tare bench`: a figure is beyond what it must be; `tare compare-results`: something is
    /// worse; `tare calibrate`: a check has failed.
    pub const MISSED: u8 = 6;
    /// Ctrl-C or SIGTERM; what had been measured is saved.
    pub const INTERRUPTED: u8 = 130;
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    failed; standard error says at what, on what, and what to do
  2    wrong usage
  3    something needed is missing; standard error says how to get it
  4    compare, bench: some cells failed or could not run; launch, snapshot restore: a box failed;
       compare-results, calibrate: something is undecided
  5    launch: the boxes' exit codes differ; image verify: their digests do
  6    bench: a figure is beyond what it must be; compare-results: something is worse;
       calibrate: a check has failed
  130  interrupted; what had been measured is saved
launch passes on the command's own exit code where all boxes agree on it; so does snapshot restore.
container run, container exec and oci run pass on the command's; 125, 126 and 127 are those of a
shell where it could not be started.

Examples:
  tare doctor
  tare compare
  tare bench vmm
  tare launch --on process,container,microvm -- uname -a";

/// What isolation costs: one workload as a process, in a container and in a microVM.
#[derive(Debug, Parser)]
#[command(name = "tare", version, about, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what this machine is and what would distort results here
    Doctor(doctor::DoctorArgs),
    /// Run the comparison and write its report
    Compare(compare::CompareArgs),
    /// Find what has changed between two runs, with an exit code for CI
    CompareResults(compare_results::CompareResultsArgs),
    /// Measure the figures of a suite and hold them against their limits
    Bench(bench::BenchArgs),
    /// Check that tare measures what it says it measures
    Calibrate(calibrate::CalibrateArgs),
    /// Run one command in several boxes side by side
    Launch(launch::LaunchArgs),
    /// Render a results file
    Report(report::ReportArgs),
    /// Run a tare command in the lab: an emulated host with KVM
    Lab(lab::LabArgs),
    /// Build and find guest kernels
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Keep images, which every box can run
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Keep a microVM that has booted, and go on from it as often as wanted
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Run containers, and act on those that run
    #[command(subcommand)]
    Container(container::ContainerCommand),
    /// Run OCI bundles
    #[command(subcommand)]
    Oci(oci::OciCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tare completions bash > /etc/bash_completion.d/tare")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where boxes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostChoice {
    /// On this machine if it has hardware virtualization, in the lab if not
    Auto,
    /// On this machine
    Local,
    /// In the lab, in virtual time
    Lab,
}

impl HostChoice {
    /// Whether a command that starts boxes of these backends goes to the lab.
    fn is_lab_for(self, backends: &[String]) -> bool {
        let needs_virtualization =
            backends.iter().any(|name| name.starts_with("microvm") || name == "qemu");
        match self {
            HostChoice::Lab => true,
            HostChoice::Local => false,
            HostChoice::Auto => {
                needs_virtualization
                    && !crate::host::has_hardware_virtualization()
                    && !crate::lab::is_lab()
            }
        }
    }
}

/// What boxes are made of; the same for every command that starts some.
#[derive(Debug, Clone, clap::Args)]
pub struct KitArgs {
    /// Guest kernel: a variant that `tare kernel build` makes, or the path of an x86-64 ELF image
    /// or a bzImage [default: practical]
    #[arg(long, value_name = "VARIANT|PATH", env = "TARE_KERNEL")]
    pub kernel: Option<guest_kernel::Choice>,
    /// Directory with the root file system for commands [default: a small one with busybox]
    #[arg(long, value_name = "DIR", env = "TARE_ROOTFS")]
    pub rootfs: Option<PathBuf>,
    /// Image whose tree is the root file system instead: a name or digest of `tare image ls`
    #[arg(long, value_name = "IMAGE", env = "TARE_IMAGE")]
    pub image: Option<String>,
    /// Memory of a microVM, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub memory_mib: u64,
    /// How the disks of tare's own microVM move their data
    #[arg(long, value_enum, default_value_t = DiskEngine::Sync)]
    pub disk_engine: DiskEngine,
    #[command(flatten)]
    microvm: microvm::MicroVmArgs,
}

/// How a disk moves its data; see `tare_vmm::BlockEngine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskEngine {
    /// One request after the other, on the vCPU's thread
    Sync,
    /// Many at once, by an io_uring
    IoUring,
}

impl DiskEngine {
    /// As it is given on the command line.
    fn word(self) -> &'static str {
        match self {
            DiskEngine::Sync => "sync",
            DiskEngine::IoUring => "io-uring",
        }
    }
}

impl From<DiskEngine> for tare_vmm::BlockEngine {
    fn from(engine: DiskEngine) -> tare_vmm::BlockEngine {
        match engine {
            DiskEngine::Sync => tare_vmm::BlockEngine::Sync,
            DiskEngine::IoUring => tare_vmm::BlockEngine::IoUring,
        }
    }
}

impl KitArgs {
    fn choice(&self) -> crate::kit::Choice {
        crate::kit::Choice {
            kernel: self.kernel.clone().unwrap_or_default(),
            rootfs: self.rootfs.clone(),
            image: self.image.clone(),
            disk_engine: self.disk_engine.into(),
            modules: self.microvm.modules.clone(),
            machine: self.microvm.machine(),
            reach: Reach::Host,
        }
    }

    /// The options that say the same to a tare in the lab. Kernel, modules and files go there with the
    /// errand.
    fn forward(&self) -> Vec<OsString> {
        let mut arguments = vec![
            "--memory-mib".into(),
            self.memory_mib.to_string().into(),
            "--disk-engine".into(),
            self.disk_engine.word().into(),
        ];
        arguments.extend(self.microvm.forward());
        arguments
    }
}

/// Runs the command line of this process.
///
/// # Errors
/// Whatever stopped the command; the text says what failed, on what, and what to do.
pub fn run() -> anyhow::Result<ExitCode> {
    let code = match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args)?,
        Command::Compare(args) => compare::run(&args)?,
        Command::CompareResults(args) => compare_results::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Calibrate(args) => calibrate::run(&args)?,
        Command::Launch(args) => launch::run(&args)?,
        Command::Report(args) => report::run(&args)?,
        Command::Lab(args) => lab::run(&args)?,
        Command::Kernel(command) => kernel::run(&command)?,
        Command::Image(command) => image::run(&command)?,
        Command::Snapshot(command) => snapshot::run(&command)?,
        Command::Container(command) => container::run(&command)?,
        Command::Oci(command) => oci::run(&command)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tare", &mut std::io::stdout());
            exit::OK
        }
    };
    Ok(ExitCode::from(code))
}

/// Prints to standard output; a reader that has heard enough, as in `tare report FILE | head`, is
/// no error.
fn print_text(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// An error with its causes, each once: many messages already end with their cause.
pub fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

/// The exit code for an error that ended a command.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    let is_missing = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(guest_kernel::Error::NotBuilt(_)))
            || matches!(cause.downcast_ref(), Some(crate::lab::Error::NoQemu(_)))
            || matches!(cause.downcast_ref(), Some(tare_kernels::lab::Error::NoPackage(_)))
            || matches!(cause.downcast_ref(), Some(tare_kernels::SourceError::NoPackage))
            || matches!(cause.downcast_ref(), Some(tare_kernels::ToolError::Missing { .. }))
    });
    let is_interrupted = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(crate::lab::Error::Interrupted)));
    ExitCode::from(match (is_missing, is_interrupted) {
        (true, _) => exit::MISSING,
        (_, true) => exit::INTERRUPTED,
        _ => exit::FAILED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_explain_says_each_cause_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(explain(&error), "cannot read x: no such file");
        let error = anyhow::anyhow!("no such file").context("cannot read x");
        assert_eq!(explain(&error), "cannot read x: no such file");
    }

    #[test]
    fn test_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
