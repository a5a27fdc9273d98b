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
//! It needs root (`CAP_SYS_ADMIN` in the initial user namespace), x86-64 and Linux 5.12.
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
mod capability;
mod cgroup;
mod child;
mod compile;
mod container;
mod error;
mod floor;
mod jail;
mod network;
mod prepared;
mod resolve;
mod script;
mod seccomp;
mod spec;

pub use capability::Capabilities;
pub use cgroup::{
    CgroupError, CgroupLayout, CgroupMount, CgroupStatistics, CpuQuota, Limits, Swept,
    own_cgroup_name, sweep,
};
pub use container::{Container, End, Exit, Usage};
pub use error::{Error, Stage};
pub use floor::Floor;
pub use jail::{Entrance, Jail};
pub use network::{
    Bridge, Lease, NetworkError, Reach, Station, Stations, empty_network, raise_interface,
    sweep_networks,
};
pub use prepared::Prepared;
pub use seccomp::SeccompFilter;
pub use spec::{
    Descriptor, Dev, Mount, Namespaces, Proc, Program, Rlimit, Rootfs, Spec, Stream, User,
};
