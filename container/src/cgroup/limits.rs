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

/// What else a cgroup can be asked for, seldom. With none of it no further hierarchy is touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory that reclaim spares as long as others have some.
    pub memory_reservation_bytes: Option<u64>,
    /// Swap that may be used besides the limit of memory; none without, where memory is limited.
    pub swap_bytes: Option<u64>,
    /// Share of the processors where they are short, 1 to 10,000; others have 100.
    pub cpu_weight: Option<u64>,
    /// Processors that may be used, as in `0-3,7`; version 2 only.
    pub cpus: Option<String>,
    /// Memory nodes that may be used; version 2 only.
    pub mems: Option<String>,
    /// Limits of block devices.
    pub io: Vec<IoLimit>,
    /// Which devices may be used, in order: the last rule that fits decides, and what none fits is
    /// refused. `None` leaves it to what device nodes there are. Needs root.
    pub devices: Option<Vec<DeviceRule>>,
    /// Whether it can be frozen as a whole.
    pub freezer: bool,
    /// Control files of version 2 and what is written to them; the controller is the name's first
    /// part.
    pub files: Vec<(String, String)>,
}

/// Limits of one block device. 0 is a limit, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read per second.
    pub read_bytes_per_s: Option<u64>,
    /// Bytes written per second.
    pub write_bytes_per_s: Option<u64>,
    /// Reads per second.
    pub reads_per_s: Option<u64>,
    /// Writes per second.
    pub writes_per_s: Option<u64>,
}

/// What may be done with some devices. Nodes can be made of all: a box's own work nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it may be done.
    pub allow: bool,
    /// Block (`b`), character (`c`), or both.
    pub kind: Option<DeviceKind>,
    /// Major number; `None` is all.
    pub major: Option<u32>,
    /// Minor number; `None` is all.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
}

impl DeviceRule {
    /// Whether some device fits both rules.
    pub(super) fn overlaps(&self, other: &DeviceRule) -> bool {
        let meets = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        let kinds = self.kind.is_none() || other.kind.is_none() || self.kind == other.kind;
        kinds && meets(self.major, other.major) && meets(self.minor, other.minor)
    }

    /// Whether it is about all that can be done with all devices.
    pub(super) fn is_about_all(&self) -> bool {
        let all = self.kind.is_none() && self.major.is_none() && self.minor.is_none();
        all && self.read && self.write
    }
}

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A character device.
    Character,
}

/// Processor time per period, over all processors: 50,000 of 100,000 µs is half a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    /// Time that may be used in each period, at least 1,000 µs.
    pub quota_us: u64,
    /// Length of a period, 1,000 to 1,000,000 µs.
    pub period_us: u64,
}

/// What the cgroup of a box has counted. `None`: nothing counts it, or the kernel is too old to
/// tell.
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
    /// Processor time used.
    pub cpu_used_us: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_written_bytes: Option<u64>,
}
