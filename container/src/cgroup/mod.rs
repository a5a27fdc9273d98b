//! Control groups: where they are, limits, statistics, and removal of what dead runs left.

mod error;
mod files;
mod group;
mod layout;
mod leaf;
mod limits;
mod name;
mod sweep;

pub use error::CgroupError;
pub(crate) use group::Groups;
pub use layout::{CgroupLayout, CgroupMount};
pub(crate) use leaf::Leaf;
pub use limits::{CgroupStatistics, CpuQuota, Limits};
pub(crate) use name::start_ticks;
pub use sweep::{Swept, sweep};

/// The directory under which all boxes of all runs have their cgroups.
const PARENT: &str = "tare";
