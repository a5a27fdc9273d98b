//! What differs between two runs of the same cells: a regression, or noise?
//!
//! Cells are matched by backend, workload and variant, and each metric that both were measured for
//! is compared by what it costs: the ratio of the medians, turned so that above 1 is worse for rates
//! too, with its 95 % bootstrap interval; a permutation test by ranks, corrected over all metrics of the
//! comparison by Holm's procedure; Cliff's delta and the Hodges–Lehmann shift as effect sizes.
//!
//! A difference counts where it is beyond a *practical threshold*, and no difference where it is
//! certainly within: an interval that only holds 1 tells that the samples were too few, not that
//! nothing has changed (Schuirmann, "A comparison of the two one-sided tests procedure …", 1987).
//! See [`Finding`].
//!
//! What no interval of two runs holds is that the machine itself differs from one run to the next:
//! its memory layout, its neighbours (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
//! 2013). So whatever the files say of it is held against each other, and differences of machine,
//! artifacts and schedule are told. Runs of different clocks are not compared at all (METHOD
//! rule 13).

mod judge;
mod notes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::results::{Better, Clock, Ends, Estimate};

pub use judge::compare;

/// Level of the tests, over all metrics of a comparison together.
pub const LEVEL: f64 = 0.05;

/// Two runs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One counted instructions and the other nanoseconds.
    #[error(
        "the runs' clocks differ: the old run is in {old}, the new one in {new}; figures of the lab can only be \
         compared with figures of the lab: run both on the machine, or both in the lab"
    )]
    Clocks {
        /// Clock of the old run.
        old: &'static str,
        /// Clock of the new run.
        new: &'static str,
    },
    /// No cell of one run is in the other.
    #[error(
        "the runs have no cell in common: the old one has {old}, the new one {new}; compare runs of the same backends \
         and workloads"
    )]
    NothingInCommon {
        /// What the old run has.
        old: String,
        /// What the new run has.
        new: String,
    },
    /// None of the metrics asked for is in both runs.
    #[error(
        "neither run has a metric '{0}' in a cell of both; `tare report` shows which there are"
    )]
    NoMetric(String),
}

/// What to compare, and what matters.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// A smaller change of a cost does not matter, in percent.
    pub threshold_percent: f64,
    /// Only these metrics; where there are none, those that each cell was measured for.
    pub metrics: Vec<String>,
}

/// How a metric came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The whole interval of the cost is below the threshold, and chance does not explain it.
    Better,
    /// The whole interval is above the threshold, and chance does not explain it.
    Worse,
    /// The whole interval is within the threshold: nothing that matters has changed.
    NoDifference,
    /// The interval holds the threshold, or there are too few samples for one.
    Undecided,
}

/// One metric of a cell in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The cell's backend.
    pub backend: String,
    /// Its workload.
    pub workload: String,
    /// What tells it from others of the same backend and workload.
    pub variant: BTreeMap<String, String>,
    /// The metric.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// Instances that showed it, in the old run and in the new.
    pub n: [usize; 2],
    /// Median of the old run.
    pub old: Estimate,
    /// Median of the new run.
    pub new: Estimate,
    /// Cost of the new run as a multiple of the old one's: above 1 is worse, for rates too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Estimate>,
    /// What the ends of the cost are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Ends>,
    /// Hodges–Lehmann shift from the old run to the new, in the metric's unit.
    pub shift: f64,
    /// Cliff's delta of the costs: 1 where every new instance costs more than every old one.
    pub cliffs_delta: f64,
    /// p of the permutation test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The same, corrected over all metrics compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_adjusted: Option<f64>,
    /// How it came out.
    pub finding: Finding,
    /// Why.
    pub why: String,
}

/// A cell that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmatched {
    /// The cell.
    pub cell: String,
    /// Why not.
    pub why: String,
    /// Whether the new run lacks figures that the old one has.
    pub is_lost: bool,
}

/// Two runs, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Differences {
    /// What the nanoseconds of both are.
    pub clock: Clock,
    /// When the old run began and which command it was.
    pub old: String,
    /// The same of the new run.
    pub new: String,
    /// A smaller change does not matter, in percent.
    pub threshold_percent: f64,
    /// How p-values were corrected for their number.
    pub correction: &'static str,
    /// What else differs: machine, artifacts, schedule.
    pub notes: Vec<String>,
    /// Each metric of both.
    pub metrics: Vec<Difference>,
    /// Cells that cannot be compared.
    pub unmatched: Vec<Unmatched>,
}

impl Differences {
    /// How many metrics came out so.
    pub fn count(&self, finding: Finding) -> usize {
        self.metrics.iter().filter(|metric| metric.finding == finding).count()
    }

    /// Whether something is worse, or gives no figures any more.
    pub fn has_regression(&self) -> bool {
        self.count(Finding::Worse) > 0 || self.unmatched.iter().any(|cell| cell.is_lost)
    }
}
