//! The machine: its facts and what about it distorts results.

use serde::{Deserialize, Serialize};

/// The machine that a run holds for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Release of the host's kernel.
    pub kernel: String,
    /// Model name of its CPU.
    pub cpu_model: String,
    /// CPUs that are online.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// What the machine itself runs on, and where its /dev/kvm comes from.
    pub virtualization: String,
    /// Layout of the control groups: `v1`, `v2` or `hybrid`.
    pub cgroup: String,
    /// The kernel's current clock source.
    pub clocksource: String,
    /// The preflight.
    pub checks: Vec<Check>,
}

/// One thing that was looked at before the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Stable identifier, such as `governor`.
    pub id: String,
    /// What was looked at, in a few words.
    pub title: String,
    /// What was found.
    pub value: String,
    /// Whether it matters.
    pub level: Level,
    /// What it does to results, in plain words; empty where nothing.
    #[serde(default)]
    pub distorts: String,
    /// By how much, and who says so; absent where nobody has measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// What the user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How much a check's finding matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It does not distort anything.
    #[default]
    Ok,
    /// Worth knowing when reading the figures.
    Note,
    /// It distorts figures.
    Warn,
}
