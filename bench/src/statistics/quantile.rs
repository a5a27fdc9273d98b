//! Quantiles and the empirical distribution.

/// The quantile of `samples` at `probability`; `None` where there are no samples.
///
/// Linear interpolation of the order statistics: definition 7 of Hyndman and Fan, "Sample
/// quantiles in statistical packages", 1996, which is the default of R and NumPy. The probability
/// is brought into `0..=1`.
pub fn quantile(samples: &[f64], probability: f64) -> Option<f64> {
    quantile_of_sorted(&sorted(samples), probability)
}

/// The median: half of the samples are not above it, half not below; `None` without samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// The empirical distribution: each distinct value with the share of samples that are not above
/// it, in ascending order. The last share is 1.
pub fn ecdf(samples: &[f64]) -> Vec<(f64, f64)> {
    let sorted = sorted(samples);
    let count = sorted.len() as f64;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (index, &value) in sorted.iter().enumerate() {
        let share = (index + 1) as f64 / count;
        match points.last_mut() {
            Some(last) if last.0 == value => last.1 = share,
            _ => points.push((value, share)),
        }
    }
    points
}

pub(super) fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// [`quantile`] of samples that are sorted already.
pub(super) fn quantile_of_sorted(sorted: &[f64], probability: f64) -> Option<f64> {
    let (index, fraction) = position(sorted.len(), probability)?;
    let below = *sorted.get(index)?;
    let above = sorted.get(index + 1).copied().unwrap_or(below);
    Some(interpolate(below, above, fraction))
}

/// Where a quantile lies among `count` order statistics: an index and the way to the next.
pub(super) fn position(count: usize, probability: f64) -> Option<(usize, f64)> {
    let last = count.checked_sub(1)?;
    let exact = probability.clamp(0.0, 1.0) * last as f64;
    let index = (exact.floor() as usize).min(last);
    Some((index, exact - index as f64))
}

/// Exact where both ends are the same, whatever the fraction; finite where both ends are.
pub(super) fn interpolate(below: f64, above: f64, fraction: f64) -> f64 {
    if below == above { below } else { below * (1.0 - fraction) + above * fraction }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn test_quantile_matches_r_type_7() {
        // R: quantile(c(1, 2, 4, 8, 16), c(0, .1, .5, .9, .99, 1), type = 7)
        let samples = [16.0, 1.0, 8.0, 2.0, 4.0];
        let expected =
            [(0.0, 1.0), (0.1, 1.4), (0.5, 4.0), (0.9, 12.8), (0.99, 15.68), (1.0, 16.0)];
        for (probability, value) in expected {
            let got = quantile(&samples, probability).unwrap();
            assert!((got - value).abs() < 1e-9, "{probability}: {got}");
        }
    }

    #[test]
    fn test_median_of_few_samples() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 5.0]), Some(4.0));
    }

    #[test]
    fn test_ecdf_merges_ties_and_ends_at_one() {
        assert_eq!(ecdf(&[2.0, 1.0, 2.0, 3.0]), [(1.0, 0.25), (2.0, 0.75), (3.0, 1.0)]);
        assert!(ecdf(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn test_quantile_lies_within_samples_and_grows(
            samples in collection::vec(-1e12..1e12_f64, 1..60), low in 0.0..1.0_f64, high in 0.0..1.0_f64,
        ) {
            let (low, high) = (low.min(high), low.max(high));
            let minimum = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let maximum = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let at_low = quantile(&samples, low).unwrap();
            let at_high = quantile(&samples, high).unwrap();
            let slack = 1e-12 * (maximum - minimum).abs();
            prop_assert!(minimum - slack <= at_low && at_low <= at_high + slack && at_high <= maximum + slack);
        }

        #[test]
        fn test_median_does_not_depend_on_order(samples in collection::vec(-1e9..1e9_f64, 1..40)) {
            let mut reversed = samples.clone();
            reversed.reverse();
            prop_assert_eq!(median(&samples), median(&reversed));
        }

        #[test]
        fn test_ecdf_ascends_strictly(samples in collection::vec(0..20_i32, 1..60)) {
            let samples: Vec<f64> = samples.into_iter().map(f64::from).collect();
            let points = ecdf(&samples);
            prop_assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
            prop_assert_eq!(points.last().map(|point| point.1), Some(1.0));
        }
    }
}
