//! A cell: one backend, one workload, one variant of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Sample, Summary};

/// All that was measured of one workload in one kind of box.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its own index in the document's `cells`.
    pub id: u32,
    /// Where: the backend's name.
    pub backend: String,
    /// What: the workload's name.
    pub workload: String,
    /// What tells the cell from others of the same backend and workload.
    #[serde(default)]
    pub variant: BTreeMap<String, String>,
    /// Whether there is anything to read.
    pub status: Status,
    /// What was warm, unpacked or shared before the clock started.
    #[serde(default)]
    pub state: Vec<String>,
    /// Time that the untimed preparation took.
    pub prepare_ns: u64,
    /// Discarded by summaries, recorded all the same.
    pub warmups: Vec<Sample>,
    /// One for each successful replicate: each of a fresh instance.
    pub samples: Vec<Sample>,
    /// Replicates that gave no sample.
    pub failures: Vec<Failure>,
    /// Statistics of `samples`, as [`Cell::summarise`] makes them.
    #[serde(default)]
    pub summaries: Vec<Summary>,
}

/// Whether a cell has figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Status {
    /// It has at least one sample.
    #[default]
    Ok,
    /// It was tried and gave no sample.
    Failed {
        /// The last cause.
        why: String,
    },
    /// It cannot run on this machine.
    Unsupported {
        /// Why not.
        why: String,
        /// What the user can do about it.
        remedy: String,
    },
}

/// A replicate that gave no sample: a hang, a crash or a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The block it was part of.
    pub block: u32,
    /// What happened.
    pub why: String,
}

impl Cell {
    /// The cell in a few words: `microvm file (block_bytes=4096)`.
    pub fn title(&self) -> String {
        let mut title = format!("{} {}", self.backend, self.workload);
        let variant = self.variant_text();
        if !variant.is_empty() {
            title = format!("{title} ({variant})");
        }
        title
    }

    /// The variant in one line, `key=value, …`; empty where there is none.
    pub fn variant_text(&self) -> String {
        let pairs: Vec<String> =
            self.variant.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(", ")
    }

    /// The summary of that metric, if the cell has it.
    pub fn summary(&self, metric: &str) -> Option<&Summary> {
        self.summaries.iter().find(|summary| summary.metric == metric)
    }
}
