//! The document: what was run, where, with what, and what came of it.

use serde::{Deserialize, Serialize};

use super::{Cell, HostFacts, Suite, Verdict};

/// Name of the format, in the field `schema`.
pub const SCHEMA: &str = "tare-results";
/// Version of the format, in the field `schema_version`.
///
/// A new optional field does not change it; a changed meaning or a removed field does.
pub const SCHEMA_VERSION: u32 = 1;

/// One run of `tare compare` or `tare bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What made the file.
    pub tool: Tool,
    /// When the run began: RFC 3339, UTC.
    pub created: String,
    /// What the nanoseconds of this file are.
    pub clock: Clock,
    /// Seed of the order within blocks, and of the resampling behind every interval.
    pub seed: u64,
    /// How replicates followed each other.
    pub schedule: Schedule,
    /// True where the user ended the run early: cells have fewer samples than were planned.
    #[serde(default)]
    pub interrupted: bool,
    /// The machine.
    pub host: HostFacts,
    /// Versions and hashes of everything that was measured.
    pub artifacts: Vec<Artifact>,
    /// Index into `cells` of each launch, in the order of launches: warm-ups and failures included.
    pub order: Vec<u32>,
    /// Backend × workload × variant.
    pub cells: Vec<Cell>,
    /// What no backend can beat on this machine.
    pub floors: Vec<Floor>,
    /// Verdicts on the claims; they can be recomputed from the cells.
    pub claims: Vec<Verdict>,
    /// Figures of the suite, where the run was one; they can be recomputed from the cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<Suite>,
}

impl Default for Results {
    /// An empty document with the right schema and version.
    fn default() -> Results {
        Results {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            tool: Tool::default(),
            created: String::new(),
            clock: Clock::Wall,
            seed: 0,
            schedule: Schedule::default(),
            interrupted: false,
            host: HostFacts::default(),
            artifacts: Vec::new(),
            order: Vec::new(),
            cells: Vec::new(),
            floors: Vec::new(),
            claims: Vec::new(),
            suite: None,
        }
    }
}

/// The program that made the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Version of tare.
    pub version: String,
    /// The command with its arguments, as it was typed.
    pub command: Vec<String>,
    /// The commit it was built from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a nanosecond of the file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// A nanosecond of the host's CLOCK_MONOTONIC.
    #[default]
    Wall,
    /// One instruction of the emulated host: exact and repeatable, but without the cost of caches,
    /// TLBs and world switches. Never to be compared with [`Clock::Wall`].
    Virtual,
}

/// How replicates followed each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Blocks that were run first and recorded as warm-ups.
    pub warmup_blocks: u32,
    /// Rest before each launch; zero is back to back.
    pub gap_ns: u64,
    /// A replicate that took longer was killed and counted as failed.
    pub timeout_ns: u64,
    /// Where the run chose its number of replicates itself: by what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// The rule by which a run chose its number of replicates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Every median's interval was to lie within so many percent of it.
    pub precision_percent: f64,
    /// The time that it had for that.
    pub budget_ns: u64,
    /// What ended it.
    pub reason: StopReason,
}

/// What ended a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Every replicate that was allowed had been run.
    #[default]
    Replicates,
    /// Every median was precise enough.
    Precision,
    /// The time was over.
    Budget,
}

/// One of the things that were measured or that the measurement rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is: `guest kernel`, `agent`, `qemu` …
    pub name: String,
    /// Its version, in its own words; empty where it has none.
    pub version: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

/// A physical floor: the least that any backend of its kind must do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Short name, such as `vfork+exec`.
    pub name: String,
    /// What was measured, between which two points.
    pub what: String,
    /// Every sample.
    pub samples_ns: Vec<u64>,
}
