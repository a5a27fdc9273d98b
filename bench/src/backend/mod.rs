//! Where a workload runs.
//!
//! A [`Backend`] can be asked whether it is available, and prepares — untimed — everything that
//! one cell needs. What it prepared can be launched any number of times; each launch is the timed
//! path and yields a fresh [`Instance`]. The harness drives every instance in the same way: it
//! waits on the instance's pidfd and on the channel that the box writes to, and nothing polls.
//!
//! A new backend is one file here and one line in [`all`].

mod channel;
mod container;
mod foreign;
mod instance;
mod memory;
mod microvm;
mod network;
mod peer;
mod process;
mod qemu;
mod scratch;
mod unpacking;
mod wiring;

use tare_container::Limits;
use tare_kernels::Variant;
use tare_workload::{Job, WindowSize};

pub use channel::{Channel, Notice, Stamped};
pub use instance::{Instance, Reaped};
pub use memory::{Books, Scale, system_used_bytes};
pub use microvm::{Keeping, Kept, KeptError, kept_below};

pub use wiring::Wiring;
pub(crate) use wiring::reach_state;

use crate::kit::Kit;

/// Whether a backend can run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Ready,
    /// It cannot.
    Unavailable {
        /// Why not.
        why: String,
        /// What the user can do about it.
        remedy: String,
    },
}

impl Availability {
    fn unavailable(why: &str, remedy: &str) -> Availability {
        Availability::Unavailable { why: why.to_owned(), remedy: remedy.to_owned() }
    }
}

/// What one cell asks of a backend.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The agent's job; the backend fills in `channel`, `root` and the scratch device.
    pub job: Job,
    /// The variant of guest kernel that a microVM boots, where it is not the kit's.
    pub kernel: Option<&'static Variant>,
    /// Memory of a microVM, in MiB. A process and a container are not limited by it.
    pub memory_mib: u64,
    /// Whether the box runs on the kit's root file system, rather than with the agent alone.
    pub with_rootfs: bool,
    /// Size of the scratch space, in MiB, where the workload needs one.
    pub scratch_mib: Option<u64>,
    /// Whether the scratch space lies in the host's memory, on a tmpfs, if it can.
    pub in_memory: bool,
    /// Whether the scratch space's own caching is avoided below the box as well (O_DIRECT).
    pub direct: bool,
    /// By what the box talks with a program of the host, where the workload does.
    pub transport: Option<Transport>,
    /// The box's network. One that talks over TCP needs a bridge.
    pub wiring: Wiring,
    /// What the box may use at most.
    pub limits: Limits,
    /// Whether the kit's sample image is to be unpacked, and nothing launched.
    pub unpacks: bool,
    /// Where the box's standard streams go.
    pub output: Output,
}

/// The way from a box to a program of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A virtual socket (vsock(7)).
    Vsock,
    /// TCP, over the box's network.
    Net,
}

impl Assignment {
    /// A job in a box of 128 MiB with nothing but the agent, its streams discarded.
    pub fn new(job: Job) -> Assignment {
        Assignment {
            job,
            kernel: None,
            memory_mib: 128,
            with_rootfs: false,
            scratch_mib: None,
            in_memory: false,
            direct: false,
            transport: None,
            wiring: Wiring::None,
            limits: Limits::default(),
            unpacks: false,
            output: Output::Null,
        }
    }
}

/// What becomes of a box's standard streams. Its input is empty but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Discarded.
    Null,
    /// Collected by the harness, as [`Notice::Output`].
    Captured,
    /// They, and the input too, are this program's own: inherited by a process or container, and
    /// relayed by the harness for a microVM ([`Instance::conversation`]).
    Attended {
        /// Size of the terminal that the command gets in a microVM, if it gets one. What others
        /// inherit may be one already.
        terminal: Option<WindowSize>,
    },
}

/// A backend failed; the text says at what, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cells could not be prepared.
    #[error("{backend}: cannot prepare: {why}")]
    Prepare {
        /// Which backend.
        backend: &'static str,
        /// The cause.
        why: String,
    },
    /// An instance could not be started.
    #[error("{backend}: cannot launch: {why}")]
    Launch {
        /// Which backend.
        backend: &'static str,
        /// The cause.
        why: String,
    },
    /// A snapshot is asked of a backend that has none.
    #[error("this backend takes no snapshots; microvm:snapshot does")]
    NoSnapshots,
    /// An image is to be unpacked by a backend that only launches.
    #[error("this backend launches boxes; images and umoci unpack an image")]
    NoImages,
    /// The box was started and could not be driven to its end.
    #[error("{what}: {source}")]
    Drive {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The box broke the protocol of its channel.
    #[error(transparent)]
    Protocol(#[from] tare_workload::FrameError),
}

impl Error {
    pub(crate) fn prepare(backend: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Error {
        move |why| Error::Prepare { backend, why: why.to_string() }
    }

    pub(crate) fn launch(backend: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Error {
        move |why| Error::Launch { backend, why: why.to_string() }
    }

    pub(crate) fn drive(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Drive { what, source }
    }
}

/// A place where a workload can run.
pub trait Backend: Sync {
    /// Its name on the command line and in results.
    fn name(&self) -> &'static str;
    /// One line for help texts.
    fn about(&self) -> &'static str;
    /// Whether it can run here.
    fn probe(&self, kit: &Kit) -> Availability;
    /// Whether it has what an assignment asks for, where it can run.
    fn suits(&self, _assignment: &Assignment) -> Availability {
        Availability::Ready
    }

    /// Does everything that is not part of a launch.
    ///
    /// # Errors
    /// [`Error::Prepare`], with what is missing or refused.
    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error>;
}

/// A cell, ready to be launched again and again.
pub trait Prepared {
    /// What is warm, unpacked or shared before the clock starts, in plain words.
    fn state(&self) -> Vec<String>;
    /// Gives the next box the scratch space as the first one found it. Untimed.
    ///
    /// # Errors
    /// [`Error::Prepare`].
    fn reset(&self) -> Result<(), Error>;
    /// Starts a fresh instance. Timed: everything that can be done before has been.
    ///
    /// # Errors
    /// [`Error::Launch`].
    fn launch(&self) -> Result<Box<dyn Instance>, Error>;
    /// Boots a guest to where its copies begin, and takes a snapshot of it. Returns how long the
    /// guest stood still for that, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Launch`]; of a backend that has no snapshots always.
    fn capture(&self) -> Result<u64, Error> {
        Err(Error::NoSnapshots)
    }
    /// Unpacks the kit's sample image to where nothing is yet, and removes it. Returns how long the
    /// unpacking took, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Launch`]; of a backend that unpacks none always.
    fn unpack(&self) -> Result<u64, Error> {
        Err(Error::NoImages)
    }
}

/// Every backend, in the order of tables.
pub fn all() -> &'static [&'static dyn Backend] {
    &[
        &process::Process,
        &container::Container::Whole,
        &container::Container::Floor,
        &foreign::OciRuntime::Crun,
        &foreign::OciRuntime::CrunWithoutCgroup,
        &foreign::OciRuntime::Runc,
        &foreign::Bwrap,
        &microvm::MicroVm::Cold,
        &microvm::MicroVm::Pooled,
        &microvm::MicroVm::Snapshot,
        &microvm::MicroVm::Clone,
        &qemu::QemuMicroVm,
        &unpacking::Unpacking::Store,
        &unpacking::Unpacking::Umoci,
    ]
}

/// The backend of that name.
pub fn find(name: &str) -> Option<&'static dyn Backend> {
    all().iter().copied().find(|backend| backend.name() == name)
}
