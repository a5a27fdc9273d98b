//! A Linux namespace container as a library: one call starts a command in its own namespaces with
//! its own root file system, in well under a millisecond.
//!
//! # How it works
//!
//! A [`Spec`] says what the box is to be. [`Spec::prepare`] checks it and compiles it, once, into a
//! list of system calls. [`Prepared::spawn`] makes a child by `clone3` that shares the caller's
//! memory (`CLONE_VM | CLONE_VFORK`), plays that list and executes the program: no allocation, no
//! copy of page tables, no helper process, no shell, no configuration file. A [`Container`] is
//! waited on by its pidfd and cleans up after itself.
//!
//! # Rules
//!
//! * **Nothing outlives the caller.** Mounts, network and processes are held by namespaces alone;
//!   the first process of a box is killed when the thread that started it dies. Cgroups, which do
//!   survive a `kill -9`, are named after their owner, and [`sweep`] removes those whose owner is
//!   gone.
//! * **Pay for what is asked.** A cgroup is touched only if limits are asked for (joining one of
//!   version 1 takes milliseconds); every mount is a field of the spec; [`Prepared::steps`] lists
//!   what a start does.
//! * **The root file system is hostile.** Paths inside it are resolved only once it is the root.
//!   Device nodes work in `/dev` alone, which is read-only.
//! * **Errors are exact.** A failed start names the step, its object, the system's error and the
//!   remedy; a missing command is an error of its own ([`Error::shell_status`] is 127).
//!
//! * **A porter enters what is there already.** A user or pid namespace cannot be entered by
//!   `clone3`: a first child enters it and makes the box as its own sibling. So are boxes of a user
//!   namespace started ([`Spec::rootless`]), and further processes ([`Spec::prepare_in`]).
//!
//! It needs x86-64 and Linux 5.12, and root (`CAP_SYS_ADMIN` in the initial user namespace) unless the
//! box has a user namespace of its own. [`Bundle`] makes a [`Spec`] of an OCI bundle.
//!
//! # Example
//!
//! ```no_run
//! use tare_container::{CpuQuota, Limits, Program, Rootfs, Spec};
//!
//! # fn main() -> Result<(), tare_container::Error> {
//! let rootfs = Rootfs::Overlay { lower: vec!["/srv/busybox".into()], size_bytes: None };
//! let mut spec = Spec::container(rootfs, Program::command("sh")).args(["sh", "-c", "exit 7"]);
//! spec.limits = Limits { memory_bytes: Some(64 << 20), pids: Some(16), ..Limits::default() };
//! let prepared = spec.prepare()?;
//! for _ in 0..10 {
//!     let mut container = prepared.spawn()?;
//!     assert_eq!(container.wait()?.shell_status(), 7);
//!     container.remove()?;
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("tare-container speaks the x86-64 system-call interface of Linux");

mod arena;
pub mod build;
mod capability;
mod cgroup;
mod child;
mod compile;
mod container;
pub mod dockerfile;
mod dumpable;
mod error;
mod floor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
mod jail;
mod mount;
mod namespace;
mod network;
mod oci;
mod own_executable;
mod prepared;
#[cfg(feature = "pull")]
pub mod pull;
mod resolve;
mod running;
mod script;
mod seccomp;
mod spec;
mod terminal;
mod user_namespace;

pub use capability::{Capabilities, CapabilitySets};
pub use cgroup::{
    CgroupError, CgroupLayout, CgroupMount, CgroupStatistics, CpuQuota, DeviceKind, DeviceRule,
    IoLimit, Limits, Resources, Swept, freeze, is_frozen, own_cgroup_name, sweep,
};
pub use container::{Container, End, Exit, Usage};
pub use error::{Error, Stage};
pub use floor::Floor;
pub use jail::{Entrance, Jail};
pub use mount::{Attributes, Change, FileSystem, Mount, Node, Propagation, Tree};
pub use namespace::{IdMap, Joined, NamespaceKind, Namespaces, TimeOffsets, UserNamespace};
pub use network::{
    Bridge, Lease, NetworkError, Reach, Station, Stations, empty_network, raise_interface,
    sweep_networks,
};
pub use oci::{Bundle, HookKind, OciError, PreparedBundle, State, Status};
pub use own_executable::protect_own_executable;
pub use prepared::{Moment, Prepared};
pub use running::Running;
pub use seccomp::{
    SeccompAction, SeccompComparison, SeccompCondition, SeccompFilter, SeccompProfile, SeccompRule,
    system_call_number,
};
pub use spec::{Descriptor, Dev, Proc, Program, Rlimit, Rootfs, Spec, Stream, User};
pub use terminal::Terminal;
