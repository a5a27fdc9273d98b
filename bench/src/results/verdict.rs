//! A verdict on a claim, as it stands in the file; `claims` is what decides it.

use serde::{Deserialize, Serialize};

use super::{Clock, Estimate};

/// What the figures say about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole interval is on the claim's side of its threshold.
    Supported,
    /// The whole interval is on the other side.
    Refuted,
    /// The interval holds the threshold, or a figure is missing.
    Undecided,
    /// This run has no experiment for it.
    NotMeasured,
}

impl Outcome {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Supported => "supported",
            Outcome::Refuted => "refuted",
            Outcome::Undecided => "undecided",
            Outcome::NotMeasured => "not measured",
        }
    }
}

/// What the two ends of an effect are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// A 95 % bootstrap interval.
    Bootstrap95,
    /// The extremes of all samples: used in virtual time, which repeats itself exactly, where the
    /// samples are too few for an interval.
    Range,
}

/// A claim, how it was decided, and how it came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Stable identifier.
    pub id: String,
    /// The old statement, in plain words.
    pub statement: String,
    /// What was measured to decide it, between which edges.
    pub experiment: String,
    /// The threshold that was fixed beforehand, in words, and why it lies there.
    pub threshold: String,
    /// What the figures say.
    pub outcome: Outcome,
    /// Name of the effect, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_name: Option<String>,
    /// The effect with its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Estimate>,
    /// What the ends of the effect are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Ends>,
    /// p of a permutation test of no difference, Holm-corrected over the run's claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_adjusted: Option<f64>,
    /// Why it came out so.
    pub why: String,
    /// The machine that it holds for.
    pub holds_for: String,
    /// The clock that it holds in.
    pub clock: Clock,
}
