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

/// The directory under which all boxes of all runs have their cgroups.
const PARENT: &str = "tare";
