//! A suite's figures as they stand in the file; `suite` is what defines and judges them.

use serde::{Deserialize, Serialize};

use super::{Ends, Estimate};

/// A suite and how its figures came out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Those figures of it that were asked for.
    pub figures: Vec<Figure>,
}

/// How a figure stands to its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The whole interval is within what is aimed at.
    Aim,
    /// The whole interval is within what must be.
    Must,
    /// The whole interval is beyond what must be.
    Missed,
    /// The interval holds the limit of what must be, or there is none.
    Undecided,
    /// There is no figure.
    NotMeasured,
}

impl Standing {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Aim => "yes, aim too",
            Standing::Must => "yes",
            Standing::Missed => "NO",
            Standing::Undecided => "undecided",
            Standing::NotMeasured => "not measured",
        }
    }
}

/// What is held against the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Yardstick {
    /// The measured value, in its unit.
    Value,
    /// Its cost as a multiple of the reference's.
    Ratio,
}

/// A figure: what was measured, what it is compared with, what it must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name, unique in the suite.
    pub name: String,
    /// What was measured, between which edges.
    pub what: String,
    /// Index of the cell with the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<u32>,
    /// The metric of that cell.
    pub metric: String,
    /// Unit of the metric.
    pub unit: String,
    /// What serves as reference, where there is one: a backend, and the variant if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What is held against the limits.
    pub yardstick: Yardstick,
    /// The limit that was fixed beforehand: the yardstick's value must not be above it.
    pub must: f64,
    /// The lower limit that is aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<f64>,
    /// Where the limits come from.
    pub source: String,
    /// Number of instances that showed the metric.
    pub n: u32,
    /// Median over the instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Estimate>,
    /// Median of the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referred: Option<Estimate>,
    /// Cost as a multiple of the reference's: above 1 is worse, for rates too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Estimate>,
    /// What the ends of the estimates are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Ends>,
    /// How it came out.
    pub standing: Standing,
    /// Why it came out so.
    pub why: String,
}
