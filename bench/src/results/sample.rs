//! A sample: everything that one instance showed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tare_workload::Unit;

/// A point in the life of an instance, in the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The host is about to take the first action of the timed path.
    Launch,
    /// A VMM is about to enter the guest for the first time.
    Enter,
    /// The guest kernel is seen to run.
    Kernel,
    /// The agent's first action in the box.
    Init,
    /// The workload is about to start.
    Ready,
    /// The workload has finished.
    Done,
    /// The host has reaped the instance.
    Exit,
    /// Every resource of the instance is gone.
    Clean,
}

impl Edge {
    /// Every edge, in order.
    pub const ALL: [Edge; 8] = [
        Edge::Launch,
        Edge::Enter,
        Edge::Kernel,
        Edge::Init,
        Edge::Ready,
        Edge::Done,
        Edge::Exit,
        Edge::Clean,
    ];

    /// Its name in results and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Edge::Launch => "launch",
            Edge::Enter => "enter",
            Edge::Kernel => "kernel",
            Edge::Init => "init",
            Edge::Ready => "ready",
            Edge::Done => "done",
            Edge::Exit => "exit",
            Edge::Clean => "clean",
        }
    }
}

/// What one fresh instance showed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The block it was part of, counted from the first warm-up block.
    pub block: u32,
    /// When each edge was passed, relative to `launch`, which is zero.
    pub edges_ns: BTreeMap<Edge, u64>,
    /// What the workload reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricSamples>,
    /// The box on the scale while it rested after `done`, where it was weighed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryUsage>,
    /// Largest resident set of the instance's first host process, as `wait4` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Exit code of the workload's command or of the box; a signal `n` is `128 + n`.
    pub exit_code: i32,
    /// Exits of the virtual CPU by reason, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_exits: Option<BTreeMap<String, u64>>,
    /// Where the virtual CPU's time went, in nanoseconds: `guest` (in KVM_RUN, idle time included)
    /// and `vmm` (between an exit and the next entry).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_times_ns: Option<BTreeMap<String, u64>>,
    /// What ended the growth of a crowd, where the sample is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// Why no more boxes were launched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `memory`, `processes`, `descriptors`, `files` or `cgroup` of the host, but for a margin that is
    /// left to it; `launch` where a box could not be launched any more; `asked` where no more were
    /// asked for.
    pub cause: String,
    /// What was found.
    pub why: String,
}

/// Values of one metric within one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricSamples {
    /// Name, ending in its unit, such as `fsync_ns`.
    pub name: String,
    /// Unit of the values.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// Every value, in the order in which they were taken.
    pub values: Vec<f64>,
}

impl From<&tare_workload::Metric> for MetricSamples {
    /// Rates are better when they are large; times, sizes and counts when they are small.
    fn from(metric: &tare_workload::Metric) -> MetricSamples {
        let better = match metric.unit {
            Unit::BytesPerSecond => Better::Higher,
            Unit::Nanoseconds | Unit::Bytes | Unit::Count => Better::Lower,
        };
        MetricSamples {
            name: metric.name.clone(),
            unit: metric.unit.as_str().to_owned(),
            better,
            values: metric.samples.clone(),
        }
    }
}

/// Which direction of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Small values: times, sizes.
    Lower,
    /// Large values: rates.
    Higher,
}

/// Memory of a living instance: every host process of it, never a sum of mapped sizes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// Proportional set size, without the guest's RAM.
    pub pss_bytes: u64,
    /// Private dirty pages, without the guest's RAM.
    pub private_dirty_bytes: u64,
    /// Resident set size, without the guest's RAM; shared pages are counted in each process.
    pub rss_bytes: u64,
    /// Resident pages of the guest's RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_ram_touched_bytes: Option<u64>,
    /// Change of the whole system's used memory since before `launch`: kernel memory is in it,
    /// and so is whatever else happened on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_delta_bytes: Option<i64>,
    /// The part of that change which is neither anonymous memory nor files in memory: what the
    /// kernel holds for the box, in accounts or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_kernel_bytes: Option<i64>,
    /// Change of the page cache since before `launch`, which is not in the change of used memory:
    /// the kernel can have it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_page_cache_bytes: Option<i64>,
}
