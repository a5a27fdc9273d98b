//! Bootstrap intervals: what the median could have been, had we sampled again.
//!
//! Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
//! chapter 13): the samples are drawn anew with replacement, and the middle 95 % of the resampled
//! statistics are the interval. It holds the median as often as promised from ten samples on; for
//! a 99th percentile it does not, see `tail.rs`.

use super::Rng;
use super::quantile::{interpolate, median, position, quantile_of_sorted, sorted};

/// Resamples behind each interval. Efron and Tibshirani advise at least 1000 for intervals.
pub const RESAMPLES: usize = 2000;

/// Fewest samples with which a 95 % interval of a median exists.
///
/// The widest interval that knows nothing of the distribution reaches from the smallest sample to
/// the largest, and holds the median with probability `1 - 2·0.5ⁿ`, which is 93.75 % for five
/// samples and 96.9 % for six (David and Nagaraja, "Order Statistics", 2003, section 7.1).
pub const MEDIAN_INTERVAL_MIN: usize = 6;

pub(super) const CONFIDENCE: f64 = 0.95;

/// A 95 % confidence interval, ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the value is in the interval.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// The 95 % interval of the median; `None` below [`MEDIAN_INTERVAL_MIN`] samples.
///
/// Where all samples are the same it has no width: that is what they say.
pub fn median_interval(samples: &[f64], rng: &mut Rng) -> Option<Interval> {
    let sorted = sorted(samples);
    let (&low, &high) = (sorted.first()?, sorted.last()?);
    if sorted.len() < MEDIAN_INTERVAL_MIN {
        return None;
    }
    if low == high {
        return Some(Interval { low, high });
    }
    let mut resample = Resample::new(&sorted);
    let medians = (0..RESAMPLES).map(|_| {
        resample.draw(rng);
        resample.quantile(0.5)
    });
    middle(medians.collect())
}

/// The 95 % interval of `median(numerator) / median(denominator)`, each resampled on its own.
///
/// `None` where either has fewer than [`MEDIAN_INTERVAL_MIN`] samples or the denominator's samples
/// are not all positive: a ratio to nothing has no meaning.
pub fn ratio_interval(numerator: &[f64], denominator: &[f64], rng: &mut Rng) -> Option<Interval> {
    let (above, below) = (sorted(numerator), sorted(denominator));
    let is_too_few = above.len().min(below.len()) < MEDIAN_INTERVAL_MIN;
    if is_too_few || below.first().is_none_or(|&least| least <= 0.0) {
        return None;
    }
    if above.first() == above.last() && below.first() == below.last() {
        let ratio = median(&above)? / median(&below)?;
        return Some(Interval { low: ratio, high: ratio });
    }
    let (mut above, mut below) = (Resample::new(&above), Resample::new(&below));
    let ratios = (0..RESAMPLES).map(|_| {
        above.draw(rng);
        below.draw(rng);
        above.quantile(0.5) / below.quantile(0.5)
    });
    middle(ratios.collect())
}

/// The 95 % interval of `median(first) - median(second)`, each resampled on its own; `None` where
/// either has fewer than [`MEDIAN_INTERVAL_MIN`] samples.
pub fn difference_interval(first: &[f64], second: &[f64], rng: &mut Rng) -> Option<Interval> {
    let (first, second) = (sorted(first), sorted(second));
    if first.len().min(second.len()) < MEDIAN_INTERVAL_MIN {
        return None;
    }
    let (mut first, mut second) = (Resample::new(&first), Resample::new(&second));
    let differences = (0..RESAMPLES).map(|_| {
        first.draw(rng);
        second.draw(rng);
        first.quantile(0.5) - second.quantile(0.5)
    });
    middle(differences.collect())
}

/// The geometric mean, over several metrics, of `median(numerator) / median(denominator)`, with
/// its 95 % interval where there are [`MEDIAN_INTERVAL_MIN`] samples on both sides.
///
/// Each row is a metric, each column an instance; instances are resampled whole, so that what
/// belongs together stays together. The geometric mean is the only one for which it does not
/// matter what is divided by what (Fleming and Wallace, "How not to lie with statistics", 1986).
/// `None` without metrics or samples, with rows of different length, or where a value is not
/// positive.
pub fn mean_ratio(
    numerator: &[Vec<f64>],
    denominator: &[Vec<f64>],
    rng: &mut Rng,
) -> Option<(f64, Option<Interval>)> {
    let (above, below) = (Table::new(numerator)?, Table::new(denominator)?);
    if above.rows.len() != below.rows.len() {
        return None;
    }
    let ratio = |above: f64, below: f64| (above - below).exp();
    let value =
        ratio(above.mean_log_median(0..above.columns), below.mean_log_median(0..below.columns));
    if !value.is_finite() {
        return None;
    }
    if above.columns.min(below.columns) < MEDIAN_INTERVAL_MIN {
        return Some((value, None));
    }
    let ratios = (0..RESAMPLES).map(|_| {
        let (above, below) = (above.resampled(rng), below.resampled(rng));
        ratio(above, below)
    });
    Some((value, middle(ratios.collect())))
}

/// Positive samples of several metrics of the same instances.
struct Table<'a> {
    rows: &'a [Vec<f64>],
    columns: usize,
}

impl<'a> Table<'a> {
    fn new(rows: &'a [Vec<f64>]) -> Option<Table<'a>> {
        let columns = rows.first()?.len();
        let is_even = columns > 0 && rows.iter().all(|row| row.len() == columns);
        let is_positive = rows.iter().flatten().all(|&value| value > 0.0 && value.is_finite());
        (is_even && is_positive).then_some(Table { rows, columns })
    }

    fn resampled(&self, rng: &mut Rng) -> f64 {
        let drawn: Vec<usize> = (0..self.columns).map(|_| rng.below(self.columns)).collect();
        self.mean_log_median(drawn.iter().copied())
    }

    fn mean_log_median(&self, columns: impl Iterator<Item = usize> + Clone) -> f64 {
        let logs = self.rows.iter().map(|row| {
            let drawn: Vec<f64> =
                columns.clone().filter_map(|column| row.get(column).copied()).collect();
            median(&drawn).map_or(f64::NAN, f64::ln)
        });
        logs.sum::<f64>() / self.rows.len() as f64
    }
}

/// The middle 95 % of resampled statistics; `None` where one of them is beyond all numbers.
fn middle(mut statistics: Vec<f64>) -> Option<Interval> {
    statistics.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let low = quantile_of_sorted(&statistics, tail)?;
    let high = quantile_of_sorted(&statistics, 1.0 - tail)?;
    (low.is_finite() && high.is_finite()).then_some(Interval { low, high })
}

/// Samples drawn with replacement, as how often each of the sorted samples was drawn: the order
/// statistics of a resample can be read off the counts without sorting it.
struct Resample<'a> {
    sorted: &'a [f64],
    counts: Vec<u32>,
}

impl<'a> Resample<'a> {
    fn new(sorted: &'a [f64]) -> Resample<'a> {
        Resample { sorted, counts: vec![0; sorted.len()] }
    }

    fn draw(&mut self, rng: &mut Rng) {
        self.counts.fill(0);
        for _ in 0..self.counts.len() {
            let chosen = rng.below(self.counts.len());
            self.counts[chosen] += 1;
        }
    }

    fn quantile(&self, probability: f64) -> f64 {
        let Some((index, fraction)) = position(self.sorted.len(), probability) else {
            return f64::NAN;
        };
        let mut drawn = 0;
        let mut below = None;
        for (value, &count) in self.sorted.iter().zip(&self.counts) {
            drawn += count as usize;
            if below.is_none() && drawn > index {
                below = Some(*value);
            }
            if let Some(below) = below
                && (fraction == 0.0 || drawn > index + 1)
            {
                return interpolate(below, *value, fraction);
            }
        }
        below.unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::statistics::quantile;

    #[test]
    fn test_median_interval_of_few_samples_returns_none() {
        for samples in [&[][..], &[5.0], &[5.0, 5.0], &[1.0, 2.0, 3.0, 4.0, 5.0]] {
            assert_eq!(median_interval(samples, &mut Rng::new(1)), None);
        }
    }

    #[test]
    fn test_median_interval_of_identical_samples_has_no_width() {
        let exact = Interval { low: 42.0, high: 42.0 };
        assert_eq!(median_interval(&[42.0; 6], &mut Rng::new(1)), Some(exact));
    }

    #[test]
    fn test_same_seed_returns_same_interval() {
        let samples: Vec<f64> = (0..50).map(|i| f64::from(i * i % 37)).collect();
        let interval = |seed| median_interval(&samples, &mut Rng::new(seed));
        assert_eq!(interval(9), interval(9));
    }

    #[test]
    fn test_ratio_interval_of_scaled_sample_holds_the_factor() {
        let base: Vec<f64> = (0..40).map(|i| 100.0 + f64::from(i * 7 % 13)).collect();
        let scaled: Vec<f64> = base.iter().map(|value| value * 3.0).collect();
        let interval = ratio_interval(&scaled, &base, &mut Rng::new(2)).unwrap();
        assert!(interval.contains(3.0) && interval.high - interval.low < 0.3, "{interval:?}");
    }

    #[test]
    fn test_ratio_interval_to_zero_returns_none() {
        assert_eq!(ratio_interval(&[1.0; 9], &[0.0; 9], &mut Rng::new(1)), None);
        assert_eq!(ratio_interval(&[1.0; 9], &[1.0; 5], &mut Rng::new(1)), None);
    }

    #[test]
    fn test_difference_interval_of_moved_sample_holds_the_move() {
        let base: Vec<f64> = (0..40).map(|i| 100.0 + f64::from(i * 7 % 13)).collect();
        let moved: Vec<f64> = base.iter().map(|value| value + 20.0).collect();
        let interval = difference_interval(&moved, &base, &mut Rng::new(2)).unwrap();
        assert!(interval.contains(20.0) && interval.high - interval.low < 12.0, "{interval:?}");
        assert_eq!(difference_interval(&base, &[1.0; 5], &mut Rng::new(1)), None);
    }

    #[test]
    fn test_mean_ratio_is_geometric_and_reversible() {
        let base = [vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![10.0, 20.0, 30.0, 40.0, 50.0, 60.0]];
        let slow =
            [base[0].iter().map(|v| v * 2.0).collect(), base[1].iter().map(|v| v * 8.0).collect()];
        let (value, interval) = mean_ratio(&slow, &base, &mut Rng::new(1)).unwrap();
        assert!((value - 4.0).abs() < 1e-12 && interval.unwrap().contains(4.0));
        let (value, _) = mean_ratio(&base, &slow, &mut Rng::new(1)).unwrap();
        assert!((value - 0.25).abs() < 1e-12);
    }

    #[test]
    fn test_mean_ratio_invalid_tables_return_none() {
        let good = [vec![1.0, 2.0]];
        for bad in [&[][..], &[vec![]], &[vec![1.0, 0.0]], &[vec![1.0, 2.0], vec![1.0]]] {
            assert_eq!(mean_ratio(bad, &good, &mut Rng::new(1)), None);
            assert_eq!(mean_ratio(&good, bad, &mut Rng::new(1)), None);
        }
        assert_eq!(mean_ratio(&good, &good, &mut Rng::new(1)), Some((1.0, None)));
        assert_eq!(mean_ratio(&[vec![1e308; 6]], &[vec![1e-308; 6]], &mut Rng::new(1)), None);
    }

    proptest! {
        #[test]
        fn test_resample_quantile_is_that_of_its_samples(
            mut samples in collection::vec(-1e6..1e6_f64, 1..40), seed: u64, probability in 0.0..=1.0_f64,
        ) {
            samples.sort_by(f64::total_cmp);
            let mut resample = Resample::new(&samples);
            resample.draw(&mut Rng::new(seed));
            let drawn: Vec<f64> = samples.iter().zip(&resample.counts)
                .flat_map(|(value, count)| std::iter::repeat_n(*value, *count as usize)).collect();
            prop_assert_eq!(drawn.len(), samples.len());
            prop_assert_eq!(Some(resample.quantile(probability)), quantile(&drawn, probability));
        }

        #[test]
        fn test_median_interval_lies_within_samples(
            samples in collection::vec(-1e9..1e9_f64, 6..30), seed: u64,
        ) {
            let interval = median_interval(&samples, &mut Rng::new(seed)).unwrap();
            let inside = samples.iter().filter(|&&sample| interval.contains(sample)).count();
            prop_assert!(inside > 0 || samples.len() % 2 == 0);
            prop_assert!(interval.low <= interval.high);
            prop_assert!(samples.iter().any(|&sample| sample <= interval.low));
            prop_assert!(samples.iter().any(|&sample| sample >= interval.high));
        }
    }
}
