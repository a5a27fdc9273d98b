//! A minimal KVM microVM as a library.
//!
//! Up to eight vCPUs, RAM, a serial port, a reset line, and virtio devices: disks, networks, a
//! socket, a console, a balloon and a source of entropy. That is what it takes to boot Linux into
//! its init and let that do real work, and nothing that costs a guest time. There is no firmware,
//! PCI or emulated chip set; interrupt controllers and timer
//! are the kernel's.
//!
//! # Rules
//!
//! - **The calling thread is the boot vCPU.** Only further vCPUs have threads of their own. Devices
//!   are served by the vCPU's thread, at the exit that asks for it; only a device to which the host
//!   may speak first, or one with requests in flight ([`BlockEngine::IoUring`]), brings a device
//!   thread. A guest reads a device's registers without an exit.
//! - **Nothing polls, sleeps or logs.** An idle guest sleeps in `KVM_RUN`. What happens is told to
//!   an [`Observer`], stamped by `CLOCK_MONOTONIC`.
//! - **Nothing outside is trusted**: neither kernel image, initramfs and command line nor guest
//!   memory, device registers and virtqueues. A bad file is an error with its remedy; a bad guest
//!   harms itself.
//! - **[`Vmm::launch`] and [`Vmm::run`] are made to be timed.** They may run in a fresh child
//!   process, which the caller forks and never execs: few system calls, no work that the guest does
//!   not need. What does not depend on the launch is done before, by [`Prepared::new`].
//! - **A running microVM needs little of its host.** [`Vmm::confine`] puts each thread under a
//!   seccomp filter of its kind, and no file is opened once the guest runs, so a process that is
//!   there for one microVM can give up its root file system, user and capabilities before. (A vsock
//!   device with a path connects to Unix sockets by path: they must be in the root file system that
//!   is left. The sockets of [`Vmm::launch_with`] need none.)
//! - **A guest can be kept and copied.** [`Vmm::snapshot`] writes a paused guest to two files,
//!   [`Vmm::restore`] goes on from them, as often as wanted and with the memory shared until it is
//!   written. A port tells each copy who it is ([`Observer::parked`]).
//! - **Mechanism, not policy.** The crate knows nothing of what runs in the guest or why.
//!
//! # The guest's part
//!
//! The kernel is an x86-64 `vmlinux` or `vmlinuz`, entered by the 64-bit boot protocol or by PVH
//! ([`BootProtocol`]). By default virtio devices need `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`: the VMM
//! announces them on the command line; more than one vCPU takes `CONFIG_X86_MPPARSE`; and interrupts
//! can come through the 8259, so that `noapic` is right for one vCPU and saves probing. A kernel that
//! has ACPI, as a distribution's, can be told of all that by tables instead ([`Config::acpi`]), and
//! then uses the I/O APIC. A guest ends itself by the keyboard controller's reset (Linux: `reboot`, or `panic=-1` after a panic) or a triple
//! fault; one that only halts is idle, and runs until it is stopped.
//!
//! # Example
//!
//! ```no_run
//! use tare_vmm::{Config, Edge, Observer, Vmm};
//!
//! struct Console;
//!
//! impl Observer for Console {
//!     fn edge(&mut self, edge: Edge, at_ns: u64) {
//!         eprintln!("{at_ns} {edge:?}");
//!     }
//!     fn serial(&mut self, _at_ns: u64, bytes: &[u8]) {
//!         eprint!("{}", String::from_utf8_lossy(bytes));
//!     }
//! }
//!
//! let config = Config {
//!     kernel: "vmlinux".into(),
//!     initramfs: Some("initramfs.cpio".into()),
//!     cmdline: "console=ttyS0 noapic panic=-1".to_owned(),
//!     ..Config::default()
//! };
//! let outcome = Vmm::new(&config, Box::new(Console))?.run()?;
//! println!("{:?} after {} exits", outcome.end, outcome.exits.total());
//! # Ok::<(), tare_vmm::Error>(())
//! ```

mod boot;
mod clock;
mod config;
mod confine;
mod controllers;
mod copy;
mod cpu;
mod devices;
mod error;
mod exits;
mod filled;
mod filter;
pub mod floor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod kvm;
mod layout;
mod mapping;
mod memory;
mod observer;
mod prepared;
mod reactor;
mod snapshot;
mod stopper;
mod threads;
mod vcpu;
mod vmm;

pub use boot::{BootError, CMDLINE_MAX_BYTES, unpack_bzimage};
pub use config::{
    BalloonConfig, BlockConfig, BlockEngine, BootProtocol, Config, ConsoleConfig, NetBackend,
    NetConfig, Pages, TapSource, VsockConfig,
};
pub use confine::ConfineError;
pub use cpu::{CpuError, CpuProfile, VCPUS_MAX};
pub use devices::{
    BLOCK_QUEUES_MAX, BalloonControl, BalloonState, BalloonStatistics, BlockError, ConsoleControl,
    ConsoleError, MESSAGE_MAX_BYTES, NetError, Streams, VsockError, has_vhost_net, open_tap,
};
pub use error::Error;
pub use exits::{End, ExitCounts, Outcome, Times};
pub use filled::{Filled, Touched};
pub use kvm::KvmError;
pub use memory::{GUEST_RAM_NAME, MEMORY_MAX_BYTES, MEMORY_MIN_BYTES, MemoryError};
pub use observer::{Edge, Observer};
pub use prepared::Prepared;
pub use reactor::ReactorError;
pub use snapshot::{
    Capture, Captured, Description, Recording, Snapshot, SnapshotError, SnapshotFiles, WorkingSet,
};
pub use stopper::Stopper;
pub use vcpu::VcpuError;
pub use vmm::Vmm;
