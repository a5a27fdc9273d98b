//! How long a run will still take, from how long its launches took so far.
//!
//! Cells differ by orders of magnitude, and those of the fewest replicates drop out first; so the
//! mean over all launches would promise too much at first and too little at last. Each cell's own
//! mean is what its launches that are left will take.

use std::time::Duration;

/// Launches that are left and how long they take.
pub(super) struct Remaining {
    cells: Vec<Tally>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    left: u64,
    done: u64,
    spent_ns: u64,
}

impl Remaining {
    /// Of cells with so many launches each.
    pub(super) fn new(launches: impl Iterator<Item = u64>) -> Remaining {
        Remaining { cells: launches.map(|left| Tally { left, ..Tally::default() }).collect() }
    }

    /// A launch of that cell is over, or will not take place.
    pub(super) fn done(&mut self, cell: usize, spent: Option<Duration>) {
        let Some(tally) = self.cells.get_mut(cell) else { return };
        tally.left = tally.left.saturating_sub(1);
        if let Some(spent) = spent {
            tally.done += 1;
            let spent_ns = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            tally.spent_ns = tally.spent_ns.saturating_add(spent_ns);
        }
    }

    /// What is left; `None` before the first launch is over. A cell that has not been launched yet
    /// is taken to be like the mean of those that have.
    pub(super) fn estimate(&self) -> Option<Duration> {
        let means: Vec<Option<f64>> = self.cells.iter().map(Tally::mean_ns).collect();
        let known: Vec<f64> = means.iter().flatten().copied().collect();
        let typical = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let left_ns: f64 = self
            .cells
            .iter()
            .zip(&means)
            .map(|(tally, mean)| tally.left as f64 * mean.unwrap_or(typical))
            .sum();
        (!known.is_empty()).then(|| Duration::from_nanos(left_ns as u64))
    }
}

impl Tally {
    fn mean_ns(&self) -> Option<f64> {
        (self.done > 0).then(|| self.spent_ns as f64 / self.done as f64)
    }
}

/// A duration in words of one figure: what an estimate is worth.
pub(super) fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        0..90 => format!("{} s", duration.as_secs().max(1)),
        seconds @ 90..5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_estimate_knows_that_slow_cells_drop_out() {
        // 100 launches of a millisecond and 3 of a second.
        let mut remaining = Remaining::new([100, 3].into_iter());
        assert_eq!(remaining.estimate(), None);
        remaining.done(0, Some(Duration::from_millis(1)));
        assert_eq!(remaining.estimate(), Some(Duration::from_millis(99 + 3)));
        remaining.done(1, Some(Duration::from_secs(1)));
        assert_eq!(remaining.estimate(), Some(Duration::from_millis(99 + 2000)));
        remaining.done(1, None);
        remaining.done(1, Some(Duration::from_secs(1)));
        assert_eq!(remaining.estimate(), Some(Duration::from_millis(99)));
    }

    #[test]
    fn test_in_words_has_one_figure() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!([words(0), words(89), words(90), words(7200)], ["1 s", "89 s", "2 min", "2 h"]);
    }
}
