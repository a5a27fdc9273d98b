//! By how much one sample lies above another.

use super::quantile::{median, quantile_of_sorted, sorted};

/// Samples of which every pair is looked at; of more, as many quantiles stand for them.
const PAIRED_MAX: usize = 1500;

/// The Hodges–Lehmann shift: the median of all differences between a sample of `first` and one of
/// `second`; `None` where either is empty.
///
/// It is how much one would have to subtract from `first` for neither to prevail (Hodges and
/// Lehmann, "Estimates of location based on rank tests", 1963), in the unit of the samples, and does
/// not ask that they be spread alike around their medians.
pub fn hodges_lehmann(first: &[f64], second: &[f64]) -> Option<f64> {
    let (first, second) = (thinned(first), thinned(second));
    let differences: Vec<f64> =
        first.iter().flat_map(|one| second.iter().map(move |other| one - other)).collect();
    median(&differences)
}

fn thinned(samples: &[f64]) -> Vec<f64> {
    let sorted = sorted(samples);
    if sorted.len() <= PAIRED_MAX {
        return sorted;
    }
    let at = |index: usize| (index as f64 + 0.5) / PAIRED_MAX as f64;
    (0..PAIRED_MAX).filter_map(|index| quantile_of_sorted(&sorted, at(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Rng;

    #[test]
    fn test_hodges_lehmann_of_moved_samples_is_the_move() {
        let base: Vec<f64> = (0..40).map(|i| f64::from(i * i % 37)).collect();
        let moved: Vec<f64> = base.iter().map(|value| value + 2.5).collect();
        assert_eq!(hodges_lehmann(&moved, &base), Some(2.5));
        assert_eq!(hodges_lehmann(&base, &moved), Some(-2.5));
        assert_eq!(hodges_lehmann(&[], &base), None);
        // All differences: -1, 0, 2, 0, 1, 3.
        assert_eq!(hodges_lehmann(&[1.0, 2.0], &[2.0, 1.0, -1.0]), Some(0.5));
    }

    #[test]
    fn test_hodges_lehmann_of_many_samples_is_near_the_move() {
        let mut rng = Rng::new(3);
        let mut draw =
            |shift: f64| -> Vec<f64> { (0..20_000).map(|_| rng.unit() + shift).collect() };
        let (base, moved) = (draw(0.0), draw(0.25));
        let shift = hodges_lehmann(&moved, &base).unwrap();
        assert!((shift - 0.25).abs() < 0.02, "{shift}");
    }
}
