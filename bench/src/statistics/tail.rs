//! The 99th percentile and what bounds it.
//!
//! The bootstrap fails in the tail: a resample holds no value beyond the largest sample, and at 299
//! samples of an exponential variable its nominal 95 % interval holds the true 99th percentile in
//! three of four cases only. So the interval is an exact one, between two of the order statistics
//! (David and Nagaraja, "Order Statistics", 2003, section 7.1): the number of samples that are not
//! above the true percentile is binomial, whatever the distribution.

use super::Interval;
use super::bootstrap::CONFIDENCE;
use super::quantile::{quantile_of_sorted, sorted};

/// Fewest samples with which a 99th percentile is shown.
///
/// The largest of n samples is above the 99th percentile with probability `1 - 0.99ⁿ`, which
/// reaches 95 % at 299 (Wilks, "Determination of sample sizes for setting tolerance limits",
/// 1941). With fewer, nothing bounds it from above.
pub const P99_MIN: usize = 299;

const PROBABILITY: f64 = 0.99;

/// The 99th percentile with its 95 % interval; `None` below [`P99_MIN`] samples.
///
/// Each end is missed with at most 2.5 % where there are samples enough; from 299 to 367 the upper
/// end is the largest sample, and the lower end lies so much lower that both together are missed
/// with at most 5 %.
pub fn p99(samples: &[f64]) -> Option<(f64, Interval)> {
    if samples.len() < P99_MIN {
        return None;
    }
    let sorted = sorted(samples);
    let (low, high) = ranks(sorted.len())?;
    let interval = Interval { low: *sorted.get(low)?, high: *sorted.get(high)? };
    Some((quantile_of_sorted(&sorted, PROBABILITY)?, interval))
}

/// Indices of the order statistics at both ends of the interval.
fn ranks(count: usize) -> Option<(usize, usize)> {
    let above = above_distribution(count);
    // The end `sorted[count - k]` is below the percentile if fewer than k samples are above it.
    let fewer_than = |k: usize| above.iter().take(k).sum::<f64>();
    let equal_share = (1.0 - CONFIDENCE) / 2.0;
    let from_top = (1..=count).take_while(|&k| fewer_than(k) <= equal_share).last().unwrap_or(1);
    let left = 1.0 - CONFIDENCE - fewer_than(from_top);
    // The end `sorted[count - k]` is above the percentile if at least k samples are above it.
    let from_bottom = (from_top..=count).find(|&k| 1.0 - fewer_than(k) <= left)?;
    Some((count - from_bottom, count - from_top))
}

/// Probability that k of `count` samples are above the percentile, for k from 0 up to where the
/// rest does not matter.
fn above_distribution(count: usize) -> Vec<f64> {
    let mut probability = PROBABILITY.powf(count as f64);
    let mut probabilities = vec![probability];
    let mut total = probability;
    for k in 1..=count {
        probability *= (count - k + 1) as f64 / k as f64 * (1.0 - PROBABILITY) / PROBABILITY;
        probabilities.push(probability);
        total += probability;
        if 1.0 - total < 1e-9 {
            break;
        }
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_p99_is_shown_from_299_samples_on() {
        let samples: Vec<f64> = (0..299).map(f64::from).collect();
        assert_eq!(p99(&samples[..298]), None);
        let (value, interval) = p99(&samples).unwrap();
        assert!((value - 295.02).abs() < 1e-9);
        assert_eq!(interval.high, 298.0);
        assert!((280.0..292.0).contains(&interval.low), "{interval:?}");
        assert!(1.0 - PROBABILITY.powi(299) >= 0.95 && 1.0 - PROBABILITY.powi(298) < 0.95);
    }

    #[test]
    fn test_p99_of_identical_samples_has_no_width() {
        assert_eq!(p99(&[7.0; 400]), Some((7.0, Interval { low: 7.0, high: 7.0 })));
    }

    #[test]
    fn test_ranks_of_many_samples_surround_the_percentile_with_equal_tails() {
        // R: qbinom(c(.025, .975), 1000, .99) gives 983 and 996.
        let (low, high) = ranks(1000).unwrap();
        assert!((981..=983).contains(&low) && (995..=996).contains(&high), "{low} {high}");
    }

    #[test]
    fn test_ranks_exist_for_every_number_of_samples_allowed() {
        for count in [299, 300, 367, 368, 500, 10_000] {
            let (low, high) = ranks(count).unwrap();
            assert!(low < high && high < count, "{count}");
        }
    }
}
