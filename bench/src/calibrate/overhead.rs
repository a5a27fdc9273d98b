//! What tare itself adds to a launch.

use super::blocks::{Blocks, Subject};
use super::program::Starts;
use super::{Check, Effort, Error, Figure, Outcome};
use crate::clock::now_ns;
use crate::harness::process_floor;
use crate::kit::Kit;
use crate::results::Estimate;
use crate::statistics::{difference_interval, median};

/// The most that it may be.
const LIMIT_NS: f64 = 100_000.0;

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let starts = Starts::new(kit)?;
    let floor = process_floor(kit).ok_or_else(|| Error::Program {
        program: "tare-guest",
        why: "it cannot be opened for a bare vfork and exec".to_owned(),
    })?;
    let bare = || -> Result<f64, Error> {
        let started_ns = now_ns();
        floor.vfork_exec()?;
        Ok((now_ns() - started_ns) as f64)
    };
    let subjects: Vec<Subject<'_>> = vec![Box::new(|| starts.once()), Box::new(bare)];
    let mut blocks = Blocks::new(subjects, effort, "overhead");
    blocks.warm_up()?;
    blocks.run(if effort.is_lab { 12 } else { 300 })?;
    let [start, bare] = [blocks.samples[0].clone(), blocks.samples[1].clone()];
    let value = median(&start).unwrap_or(0.0) - median(&bare).unwrap_or(0.0);
    let cost = Estimate::new(value, difference_interval(&start, &bare, blocks.rng()));
    let (outcome, why) = match cost.interval() {
        Some(ends) if ends.high <= LIMIT_NS => {
            (Outcome::Passed, "the whole 95 % interval is within the limit")
        }
        Some(ends) if ends.low > LIMIT_NS => {
            (Outcome::Failed, "the whole 95 % interval is beyond the limit")
        }
        _ => (
            Outcome::Undecided,
            "the 95 % interval holds the limit: measure when the machine is idle",
        ),
    };
    let mut figures = vec![Figure { name: "difference".to_owned(), unit: "ns", value: cost }];
    figures.extend(blocks.figure(0, "launch → init of a process", "ns"));
    figures.extend(blocks.figure(1, "bare vfork and exec, until reaped", "ns"));
    Ok(vec![Check {
        name: "overhead",
        what: "launch → init of a plain process, against vfork and exec of the same program until it is reaped".to_owned(),
        limit: "at most 100 µs more".to_owned(),
        outcome,
        why: why.to_owned(),
        figures,
    }])
}
