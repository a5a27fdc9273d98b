//! How far a run is, on a terminal.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::remaining::{Remaining, in_words};
use super::run::Until;
use crate::progress;

/// A bar of launches, with an honest word on what is left.
pub(super) struct Progress {
    bar: ProgressBar,
    remaining: Remaining,
    /// When the time of a run with a budget is over.
    ends: Option<Instant>,
}

impl Progress {
    /// Of cells with so many replicates each.
    pub(super) fn new(
        replicates: impl Iterator<Item = u64> + Clone,
        until: Option<Until>,
    ) -> Progress {
        Progress {
            bar: progress::bar(replicates.clone().sum(), "measuring"),
            remaining: Remaining::new(replicates),
            ends: until.and_then(|until| Instant::now().checked_add(until.budget)),
        }
    }

    /// A replicate of that cell is over.
    pub(super) fn step(&mut self, cell: usize, spent: Duration) {
        self.remaining.done(cell, Some(spent));
        if let Some(estimate) = self.remaining.estimate() {
            let budget = self.ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            self.bar.set_prefix(match budget {
                // It ends when it is precise enough, which nobody knows beforehand.
                Some(budget) => format!("at most {}", in_words(estimate.min(budget))),
                None => format!("about {}", in_words(estimate)),
            });
        }
        self.bar.inc(1);
    }

    /// A replicate of that cell will not take place.
    pub(super) fn skip(&mut self, cell: usize) {
        self.remaining.done(cell, None);
        self.bar.inc(1);
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
