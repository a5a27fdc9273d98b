//! What a cgroup can be asked to limit and to tell.

/// Limits of a box. With none of them the box stays in its parent's cgroup.
///
/// The box's cgroup is made below the caller's own, so that whatever limits that holds for the box
/// too. In the unified hierarchy a cgroup with processes cannot have children with controllers;
/// there the nearest ancestor that can is taken, and the controllers needed are enabled in its
/// `cgroup.subtree_control`, where they stay enabled.
///
/// In hierarchies of version 1 the child joins by writing itself into `cgroup.procs`, for which
/// the kernel may wait milliseconds (unless mounted with `favordynmods`); in the unified one it
/// is born there (`CLONE_INTO_CGROUP`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, page cache included; when it is used up and nothing can be
    /// reclaimed, the kernel kills. Swap is not given (where the kernel accounts for it).
    pub memory_bytes: Option<u64>,
    /// Processor time.
    pub cpu: Option<CpuQuota>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// A cgroup with the memory controller even if nothing is limited, for its statistics.
    pub accounting: bool,
}

impl Limits {
    /// Whether a cgroup is needed.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Limits::default()
    }
}

/// Processor time per period, over all processors: 50,000 of 100,000 µs is half a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    /// Time that may be used in each period, at least 1,000 µs.
    pub quota_us: u64,
    /// Length of a period, 1,000 to 1,000,000 µs.
    pub period_us: u64,
}

/// What the cgroup of a box has counted. `None`: its hierarchy was not asked for, or the kernel is
/// too old to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupStatistics {
    /// Memory charged now.
    pub memory_current_bytes: Option<u64>,
    /// Most memory ever charged (v2: Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Processes killed because the memory limit was reached.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub pids_current: Option<u64>,
    /// Times that a fork was refused because of the limit.
    pub pids_refused: Option<u64>,
    /// Periods in which the quota was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Time spent waiting for quota.
    pub cpu_throttled_us: Option<u64>,
}
