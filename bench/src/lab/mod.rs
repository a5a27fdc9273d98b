//! The lab: a host in software.
//!
//! QEMU's emulated CPU has SVM, so the Debian kernel that runs on it offers a real kvm-amd, and a
//! machine without hardware virtualization can still boot microVMs. With instruction counting one
//! instruction takes one nanosecond: times in the lab are exact and the same in every round,
//! however loaded the machine is. They count instructions and nothing else — no cache, no TLB, no
//! world switch — and are therefore *virtual time*, never to be mixed with wall clock.
//!
//! What makes a round repeat itself to the nanosecond: everything the round needs is in the
//! initramfs, so nothing waits for the outside; address randomisation is off and every seed fixed;
//! one CPU, one emulation thread. Output leaves through QEMU's debug ports, where a byte costs
//! the same whether anybody reads it or not.
//!
//! [`Lab::run`] is the host's side; [`inside::main`] is what runs as PID 1 over there.

mod closure;
mod delivery;
mod image;
pub mod inside;
mod machine;
mod port;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use image::Payload;

use crate::interrupt;
use crate::rundir::RunDir;

/// How faithful, and how fast, the lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavour {
    /// Instruction counting: exact virtual time, the same in every round.
    #[default]
    Deterministic,
    /// Two emulated CPUs, no instruction counting: for functional tests only. Of some hundred
    /// microVMs booted in it one never got to its init; in the other flavour none has failed.
    Functional,
}

/// A lab and what limits it.
#[derive(Debug, Clone)]
pub struct Lab {
    /// See [`Flavour`].
    pub flavour: Flavour,
    /// Memory of the emulated host, in MiB.
    pub memory_mib: u32,
    /// Wall time after which a round is given up.
    pub timeout: Duration,
}

impl Default for Lab {
    fn default() -> Lab {
        Lab { flavour: Flavour::default(), memory_mib: 2048, timeout: Duration::from_secs(1800) }
    }
}

/// What to do in the lab.
#[derive(Debug, Clone)]
pub struct Order {
    /// A static program to run there, usually this one.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its environment, in full.
    pub environment: Vec<(String, String)>,
    /// Files and programs it needs.
    pub payload: Vec<Payload>,
    /// Where files that it leaves in [`OUT_DIR`] are put on this host.
    pub out_dir: PathBuf,
}

/// Set in the environment of whatever runs in the lab, to the name of its flavour.
pub const LAB_VARIABLE: &str = "TARE_LAB";
/// True in the lab.
pub fn is_lab() -> bool {
    std::env::var_os(LAB_VARIABLE).is_some()
}

/// Name of the flavour whose time is exact.
pub const DETERMINISTIC: &str = "deterministic";
/// Directory in the lab whose files come back out.
pub const OUT_DIR: &str = "/out";
/// Directory in the lab for temporary files: on a disk, where `mke2fs` went in.
pub const DISK_DIR: &str = "/disk";
/// Directory in the lab that holds what went in.
pub const IN_DIR: &str = "/tare";
/// Directory in the lab with a directory for each guest kernel that went in, named as in the cache.
pub const KERNELS_DIR: &str = "/tare/kernels";

/// The lab could not be set up, or broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not installed.
    #[error(
        "the lab needs {0}, which is not installed; run `make provision` or `apt-get install qemu-system-x86`"
    )]
    NoQemu(&'static str),
    /// The lab's kernel is not there.
    #[error("the lab's kernel: {0}")]
    Kernel(#[from] tare_kernels::lab::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] tare_kernels::CacheError),
    /// Its initramfs could not be put together.
    #[error("the lab's initramfs: {0}")]
    Initramfs(#[from] tare_kernels::InitramfsError),
    /// The program is linked dynamically.
    #[error(
        "{0} is not a static x86-64 ELF program; the lab has no dynamic loader for the program it runs"
    )]
    NotStatic(PathBuf),
    /// A file could not be read, written or run.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program's shared libraries could not be listed.
    #[error("cannot list the shared libraries of {program}: {why}", program = program.display())]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What `ldd` answered.
        why: String,
    },
    /// QEMU ended by itself.
    #[error("the lab ended early ({status}); its console said:\n{console}")]
    Died {
        /// How QEMU ended.
        status: String,
        /// The last lines of the emulated host's console.
        console: String,
    },
    /// The round took longer than [`Lab::timeout`].
    #[error("the lab was stopped after {seconds} s without an end; its console said:\n{console}")]
    Timeout {
        /// The limit that was passed, in seconds.
        seconds: u64,
        /// The last lines of the emulated host's console.
        console: String,
    },
    /// The user asked to stop.
    #[error("interrupted; the lab was stopped")]
    Interrupted,
    /// What came out is not the archive that was expected.
    #[error("the lab's output cannot be unpacked: {0}")]
    Output(io::Error),
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}

impl Lab {
    /// Runs an order in a fresh lab and returns its exit code.
    ///
    /// The order's standard output and error are passed on as they come.
    ///
    /// # Errors
    /// [`Error`] when the lab itself fails; a program that fails in the lab is an exit code.
    pub fn run(&self, order: &Order) -> Result<i32, Error> {
        machine::check_installed()?;
        interrupt::listen()
            .map_err(|errno| Error::io("cannot listen for", "SIGINT")(errno.into()))?;
        let directory =
            RunDir::new().map_err(Error::io("cannot make a directory in", std::env::temp_dir()))?;
        let kernel = image::build(order, &directory.path().join(machine::INITRAMFS))?;
        machine::Machine {
            lab: self,
            kernel: &kernel,
            directory: directory.path(),
            out_dir: &order.out_dir,
        }
        .run()
    }
}
