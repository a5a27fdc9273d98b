//! A series: boxes launched back to back, each when the one before is gone.
//!
//! What a box leaves to the kernel, which takes its namespaces apart when it is gone already, is paid
//! for by the next box. In a series that is a box of the same kind; in a round of single launches it is
//! another's. The first of a series finds the machine at rest, and is left out; the others are values
//! of one sample, for they are not independent of each other.

use super::attendant::Nobody;
use super::replicate::{Conduct, Error, replicate};
use super::run::{sample_of, times};
use crate::backend::Prepared;
use crate::results::{Edge, Sample};

/// Launches a box to start with and `count` more, of which each is a value of the sample's metrics.
pub(super) fn series(
    prepared: &dyn Prepared,
    conduct: Conduct,
    count: u32,
) -> Result<Sample, Error> {
    let mut starts: Vec<f64> = Vec::new();
    let mut runs: Vec<f64> = Vec::new();
    for index in 0..=count {
        prepared.reset()?;
        let sample = replicate(prepared, conduct, &mut Nobody)?;
        if sample.exit_code != 0 {
            return Ok(sample);
        }
        let until = |edge| sample.edges_ns.get(&edge).map(|ns| *ns as f64);
        if index > 0 {
            starts.extend(until(Edge::Init));
            runs.extend(until(Edge::Exit));
        }
    }
    Ok(sample_of(vec![times("start_ns", starts), times("run_ns", runs)]))
}
