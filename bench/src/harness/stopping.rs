//! When a run ends that may end by itself: see `statistics::precision` on what its looks cost.

use super::run::{Schedule, Until};
use crate::clock::now_ns;
use crate::results::{Cell, StopReason, series};
use crate::statistics::{FIRST_LOOK, Rng, margin_percent, next_look};

/// Decides before each block whether it is still to be run.
pub(super) struct Stopping {
    until: Option<Until>,
    seed: u64,
    warmups: u32,
    look: u32,
    began_ns: u64,
    block_began_ns: u64,
    longest_block_ns: u64,
    /// What ended the run, or would: its planned end.
    pub(super) reason: StopReason,
}

impl Stopping {
    pub(super) fn new(schedule: Schedule) -> Stopping {
        let began_ns = now_ns();
        Stopping {
            until: schedule.until,
            seed: schedule.seed,
            warmups: schedule.warmups,
            look: FIRST_LOOK,
            began_ns,
            block_began_ns: began_ns,
            longest_block_ns: 0,
            reason: StopReason::Replicates,
        }
    }

    /// Whether the run ends before this block.
    pub(super) fn is_over(&mut self, block: u32, cells: &[&Cell]) -> bool {
        let Some(until) = self.until else { return false };
        let at_ns = now_ns();
        if block > 0 {
            self.longest_block_ns = self.longest_block_ns.max(at_ns - self.block_began_ns);
        }
        self.block_began_ns = at_ns;
        let ends_ns = u64::try_from(until.budget.as_nanos()).unwrap_or(u64::MAX);
        let spent_ns = at_ns - self.began_ns;
        if block > self.warmups && spent_ns.saturating_add(self.longest_block_ns) > ends_ns {
            self.reason = StopReason::Budget;
            return true;
        }
        let samples = block.saturating_sub(self.warmups);
        if samples < self.look {
            return false;
        }
        self.look = next_look(samples);
        // What a crowd adds to the whole system lies about zero where its boxes weigh nothing: no
        // share of that is ever small.
        let mut cells = cells.iter().filter(|cell| !cell.is_crowd());
        let is_precise = cells.all(|cell| self.is_precise(cell, until.precision_percent));
        if is_precise {
            self.reason = StopReason::Precision;
        }
        is_precise
    }

    /// Whether every median that the cell is measured for is. One that has no samples never will be.
    fn is_precise(&self, cell: &Cell, percent: f64) -> bool {
        cell.headline().iter().all(|metric| {
            let mut rng = Rng::for_purpose(self.seed, &format!("precision {} {metric}", cell.id));
            let margin = margin_percent(&series(cell, metric), &mut rng);
            margin.is_some_and(|margin| margin <= percent)
        })
    }
}
