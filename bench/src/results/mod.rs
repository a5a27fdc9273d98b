//! Results: the one file that a run leaves, with everything that its report says.
//!
//! The format is JSON, named `tare-results`, version [`SCHEMA_VERSION`]; `results/SCHEMA.md`
//! describes every field and `results/schema-v1.json` is the same as a JSON Schema. Its rules:
//!
//! - Every raw sample is in the file, warm-ups and failures too. Summaries and verdicts can be
//!   recomputed from the samples alone; [`Results::load`] does so for the summaries and refuses a
//!   file whose summaries are not those of its samples.
//! - Units are in the names: `_ns`, `_bytes`.
//! - Times of a sample are relative to its `launch` edge, so that a file says nothing about when
//!   in the machine's life it was made, and two runs in the lab are equal byte by byte.
//! - A file is written whole or not at all.
//! - A file is outside input: its size is bounded, and whatever is wrong with it becomes an
//!   [`Error`] that says what, where and what to do.
//!
//! ```no_run
//! use std::path::Path;
//! use tare::results::Results;
//!
//! let results = Results::load(Path::new("results/compare.json"))?;
//! for cell in &results.cells {
//!     println!("{} {}: {} samples", cell.backend, cell.workload, cell.samples.len());
//! }
//! # Ok::<(), tare::results::Error>(())
//! ```

mod cell;
mod check;
mod document;
mod figure;
mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod headline;
mod host;
mod sample;
#[cfg(test)]
mod schema;
mod summary;
#[cfg(test)]
mod tests;
mod verdict;

pub use cell::{Cell, Failure, Status};
pub use check::Inconsistency;
pub use document::{
    Artifact, Clock, Floor, Results, SCHEMA, SCHEMA_VERSION, Schedule, Stop, StopReason, Tool,
};
pub use figure::{Figure, Standing, Suite, Yardstick};
pub use file::{Error, FILE_MAX_BYTES};
pub use host::{Check, HostFacts, Level};
pub use sample::{Better, Edge, Limit, MemoryUsage, MetricSamples, Sample};
pub(crate) use summary::memory_metrics;
pub use summary::{Estimate, Summary, better, series, span_name};
pub use verdict::{Ends, Outcome, Verdict};
