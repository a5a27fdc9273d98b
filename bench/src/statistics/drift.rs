//! Does a series drift: are later samples higher, or lower, than earlier ones?
//!
//! Samples of a machine that warms up, throttles or fills its caches are not drawn from one
//! distribution, and no interval of theirs says what it promises. Randomised blocks spread a drift
//! over all cells alike, so that ratios survive it; the medians themselves do not.

use super::quantile::{median, sorted};

/// Fewest samples that are tested. The normal approximation of the test serves from ten on (Kendall,
/// "Rank Correlation Methods", 1975, chapter 4).
pub const DRIFT_MIN: usize = 10;

/// Longer series are tested by the medians of so many stretches: every pair of values is looked at.
const STRETCHES: usize = 1000;

/// What the trend test says of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// p of no trend, two-sided.
    pub p: f64,
    /// How far the series moves from its first sample to its last along the median slope.
    pub change: f64,
}

/// The Mann–Kendall test of a trend, with the Theil–Sen slope; `None` below [`DRIFT_MIN`] samples.
///
/// The test counts how many pairs of samples ascend in time and how many descend, and so asks nothing
/// of their distribution (Mann, "Nonparametric tests against trend", 1945); ties are allowed for as
/// Kendall does. The slope is the median of those of all pairs (Sen, "Estimates of the regression
/// coefficient based on Kendall's tau", 1968). Samples that depend on their predecessors raise false
/// alarms; that, too, is something that intervals do not allow for.
pub fn drift(series: &[f64]) -> Option<Drift> {
    if series.len() < DRIFT_MIN {
        return None;
    }
    let series = stretches(series);
    let mut balance = 0_i64;
    let mut slopes = Vec::with_capacity(series.len() * (series.len() - 1) / 2);
    for (index, earlier) in series.iter().enumerate() {
        for (distance, later) in series[index + 1..].iter().enumerate() {
            balance += i64::from(later > earlier) - i64::from(later < earlier);
            slopes.push((later - earlier) / (distance + 1) as f64);
        }
    }
    let slope = median(&slopes)?;
    Some(Drift {
        p: two_sided(balance, variance(&series)),
        change: slope * (series.len() - 1) as f64,
    })
}

/// The series itself, or the medians of its stretches.
fn stretches(series: &[f64]) -> Vec<f64> {
    if series.len() <= STRETCHES {
        return series.to_vec();
    }
    series.chunks(series.len().div_ceil(STRETCHES)).filter_map(median).collect()
}

/// Variance of the balance where there is no trend, less what ties take from it.
fn variance(series: &[f64]) -> f64 {
    let term = |count: f64| count * (count - 1.0) * (2.0 * count + 5.0);
    let sorted = sorted(series);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|tie| term(tie.len() as f64)).sum();
    (term(sorted.len() as f64) - ties) / 18.0
}

/// By the normal approximation, with the continuity correction of a step.
fn two_sided(balance: i64, variance: f64) -> f64 {
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = (balance.unsigned_abs() as f64 - 1.0).max(0.0) / variance.sqrt();
    complementary_error(distance / std::f64::consts::SQRT_2).min(1.0)
}

/// erfc for arguments that are not negative, to seven digits after the point (Abramowitz and Stegun,
/// "Handbook of Mathematical Functions", 7.1.26).
fn complementary_error(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let coefficients =
        [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = coefficients.into_iter().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    (sum * (-x * x).exp()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Rng;

    #[test]
    fn test_drift_of_a_straight_line_is_its_length() {
        let line: Vec<f64> = (0..50).map(|i| 100.0 + f64::from(i)).collect();
        let found = drift(&line).unwrap();
        assert!((found.change - 49.0).abs() < 1e-9 && found.p < 1e-6, "{found:?}");
        let falling: Vec<f64> = line.iter().rev().copied().collect();
        assert!((drift(&falling).unwrap().change + 49.0).abs() < 1e-9);
        let long: Vec<f64> = (0..5000).map(f64::from).collect();
        assert!((drift(&long).unwrap().change - 4999.0).abs() < 10.0);
    }

    #[test]
    fn test_drift_of_constants_and_of_few_samples() {
        assert_eq!(drift(&[3.0; 40]), Some(Drift { p: 1.0, change: 0.0 }));
        assert_eq!(drift(&[1.0; 9]), None);
    }

    #[test]
    fn test_complementary_error_matches_tables() {
        for (x, expected) in
            [(0.0, 1.0), (0.5, 0.479_500_1), (1.0, 0.157_299_2), (2.0, 0.004_677_7)]
        {
            assert!((complementary_error(x) - expected).abs() < 2e-7, "{x}");
        }
    }

    #[test]
    fn test_drift_of_independent_samples_is_found_as_rarely_as_promised() {
        // At 5 %: within 3 standard errors for 600 series of skewed samples.
        let mut rng = Rng::new(20_260_107);
        let alarms = (0..600).filter(|_| {
            let series: Vec<f64> = (0..30).map(|_| -(1.0 - rng.unit()).ln()).collect();
            drift(&series).unwrap().p <= 0.05
        });
        let alarms = alarms.count();
        assert!((14..=46).contains(&alarms), "{alarms} of 600");
    }
}
