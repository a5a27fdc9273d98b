//! Control groups: where they are, limits, statistics, and removal of what dead runs left.

mod devices;
mod error;
mod files;
mod freeze;
mod group;
mod layout;
mod leaf;
mod limits;
mod name;
mod settings;
mod statistics;
mod sweep;

pub use error::CgroupError;
pub use freeze::{freeze, is_frozen};
pub(crate) use group::Groups;
pub use layout::{CgroupLayout, CgroupMount};
pub(crate) use leaf::Leaf;
pub use limits::{CgroupStatistics, CpuQuota, DeviceKind, DeviceRule, IoLimit, Limits, Resources};
pub(crate) use name::{Name, Owner, start_ticks};
pub use sweep::{Swept, sweep};

/// The name of a cgroup for another program to make a box of this process's in, relative to the root
/// of the hierarchies; each call gives another. [`sweep`] removes it, with what runs in it, when this
/// process has ended.
///
/// # Errors
/// `/proc` cannot be read.
pub fn own_cgroup_name() -> Result<String, CgroupError> {
    let own = name::Owner::own();
    let own = own.map_err(|source| CgroupError::Proc { path: "/proc/self/stat", source })?;
    Ok(format!("{PARENT}/{}", name::Name::next(&own).as_str()))
}

/// The directory under which all boxes of all runs have their cgroups.
const PARENT: &str = "tare";
