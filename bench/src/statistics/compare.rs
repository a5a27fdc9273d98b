//! Do two samples differ, how much, and how sure is that among many comparisons.

use super::Rng;
use super::quantile::sorted;

/// Random relabellings behind each p-value: the least that can be found is 1 in 10,000.
pub const PERMUTATIONS: usize = 9_999;

/// p of the two-sided permutation test that both samples come from one distribution, by the
/// absolute difference of their medians; `None` where either has fewer than two samples.
///
/// The observed labelling counts as one of those drawn, so that p is never zero and the test never
/// finds more than its level promises (Phipson and Smyth, "Permutation p-values should never be
/// zero", 2010).
pub fn permutation_test(first: &[f64], second: &[f64], rng: &mut Rng) -> Option<f64> {
    if first.len().min(second.len()) < 2 {
        return None;
    }
    let mut pooled: Vec<f64> = first.iter().chain(second).copied().collect();
    let mut scratch = Vec::with_capacity(pooled.len());
    let observed = difference(&pooled, first.len(), &mut scratch);
    // Labellings that are equal but for rounding must not count as less extreme.
    let threshold = observed - 1e-12 * observed.abs();
    let mut as_extreme = 1_usize;
    for _ in 0..PERMUTATIONS {
        // Only the first group must be drawn: a partial Fisher–Yates shuffle.
        for index in 0..first.len() {
            let chosen = index + rng.below(pooled.len() - index);
            pooled.swap(index, chosen);
        }
        if difference(&pooled, first.len(), &mut scratch) >= threshold {
            as_extreme += 1;
        }
    }
    Some(as_extreme as f64 / (PERMUTATIONS + 1) as f64)
}

fn difference(pooled: &[f64], split: usize, scratch: &mut Vec<f64>) -> f64 {
    let (first, second) = pooled.split_at(split);
    (median_by_selection(first, scratch) - median_by_selection(second, scratch)).abs()
}

/// The median in linear time, on a buffer that is used again and again.
fn median_by_selection(samples: &[f64], scratch: &mut Vec<f64>) -> f64 {
    scratch.clear();
    scratch.extend_from_slice(samples);
    let middle = samples.len() / 2;
    let (lower, upper, _) = scratch.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if samples.len() % 2 == 1 {
        return upper;
    }
    let lower = lower.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    lower * 0.5 + upper * 0.5
}

/// p of the two-sided permutation test that neither sample prevails over the other, by the absolute
/// value of their [`cliffs_delta`]; `None` where either has fewer than two samples.
///
/// It is the test of Wilcoxon, Mann and Whitney with labels drawn at random, so that ties are in their
/// right. The difference of two medians can take few values when samples are few: at eight and eight
/// a complete separation has p of 0.004 by medians and 0.0002 by this, which alone survives the
/// correction for a hundred comparisons.
pub fn rank_permutation_test(first: &[f64], second: &[f64], rng: &mut Rng) -> Option<f64> {
    if first.len().min(second.len()) < 2 {
        return None;
    }
    let mut ranks = mid_ranks(first, second);
    let expected = (ranks.iter().sum::<f64>() / ranks.len() as f64) * first.len() as f64;
    let distance = |ranks: &[f64]| (ranks[..first.len()].iter().sum::<f64>() - expected).abs();
    // Sums of halves are exact; the expected sum may not be.
    let threshold = distance(&ranks) - 1e-6;
    let mut as_extreme = 1_usize;
    for _ in 0..PERMUTATIONS {
        for index in 0..first.len() {
            let chosen = index + rng.below(ranks.len() - index);
            ranks.swap(index, chosen);
        }
        as_extreme += usize::from(distance(&ranks) >= threshold);
    }
    Some(as_extreme as f64 / (PERMUTATIONS + 1) as f64)
}

/// The rank of each of both samples among all, the first sample's first; equals share their mean.
fn mid_ranks(first: &[f64], second: &[f64]) -> Vec<f64> {
    let all = sorted(&[first, second].concat());
    let rank = |value: &f64| {
        let below = all.partition_point(|other| other < value);
        let not_above = all.partition_point(|other| other <= value);
        (below + not_above + 1) as f64 / 2.0
    };
    first.iter().chain(second).map(rank).collect()
}

/// Cliff's delta: how much more often a sample of `first` is above one of `second` than below.
///
/// 1 where every one is above, −1 where every one is below, 0 where neither prevails; `None` where
/// either is empty (Cliff, "Dominance statistics: ordinal analyses to answer ordinal questions",
/// 1993).
pub fn cliffs_delta(first: &[f64], second: &[f64]) -> Option<f64> {
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let second = sorted(second);
    let balance: f64 = first
        .iter()
        .map(|value| {
            let below = second.partition_point(|other| other < value);
            let not_above = second.partition_point(|other| other <= value);
            below as f64 - (second.len() - not_above) as f64
        })
        .sum();
    Some(balance / (first.len() as f64 * second.len() as f64))
}

/// Holm's correction: p-values such that the chance of any false finding among all stays below
/// the level that they are compared with (Holm, "A simple sequentially rejective multiple test
/// procedure", 1979). The order is kept.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        least = least.max(p_values[index] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::statistics::median;

    #[test]
    fn test_permutation_test_of_distant_samples_returns_least_p() {
        let first: Vec<f64> = (0..20).map(f64::from).collect();
        let second: Vec<f64> = (1000..1020).map(f64::from).collect();
        let p = permutation_test(&first, &second, &mut Rng::new(1)).unwrap();
        assert!(p <= 0.001, "{p}");
    }

    #[test]
    fn test_permutation_test_of_identical_samples_returns_one() {
        assert_eq!(permutation_test(&[5.0; 10], &[5.0; 10], &mut Rng::new(1)), Some(1.0));
    }

    #[test]
    fn test_permutation_test_of_too_few_samples_returns_none() {
        assert_eq!(permutation_test(&[1.0], &[2.0, 3.0], &mut Rng::new(1)), None);
        assert_eq!(permutation_test(&[], &[], &mut Rng::new(1)), None);
    }

    #[test]
    fn test_permutation_test_agrees_with_enumeration() {
        // Of the 20 ways to split 1, 2, 3, 10, 11, 12 in threes, 4 part the medians by 9 as this
        // one does: {1, 2, 3} and {1, 2, 10} as the first group or as the second.
        let p = permutation_test(&[1.0, 2.0, 3.0], &[10.0, 11.0, 12.0], &mut Rng::new(5)).unwrap();
        assert!((p - 0.2).abs() < 0.015, "{p}");
    }

    #[test]
    fn test_rank_permutation_test_agrees_with_enumeration() {
        // Of the 70 ways to split eight ranks in fours, 2 are as uneven as this one.
        let (low, high) = ([1.0, 2.0, 3.0, 4.0], [10.0, 11.0, 12.0, 13.0]);
        let p = rank_permutation_test(&low, &high, &mut Rng::new(5)).unwrap();
        assert!((p - 2.0 / 70.0).abs() < 0.006, "{p}");
        assert_eq!(rank_permutation_test(&[5.0; 9], &[5.0; 9], &mut Rng::new(1)), Some(1.0));
        assert_eq!(rank_permutation_test(&[1.0], &high, &mut Rng::new(1)), None);
        assert_eq!(mid_ranks(&[3.0, 1.0], &[3.0, 9.0]), [2.5, 1.0, 2.5, 4.0]);
    }

    #[test]
    fn test_cliffs_delta_at_its_ends_and_middle() {
        assert_eq!(cliffs_delta(&[3.0, 4.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(cliffs_delta(&[1.0, 2.0], &[3.0, 4.0]), Some(-1.0));
        assert_eq!(cliffs_delta(&[1.0, 2.0], &[2.0, 1.0]), Some(0.0));
        assert_eq!(cliffs_delta(&[], &[1.0]), None);
    }

    #[test]
    fn test_holm_matches_worked_example() {
        // 0.01·4, 0.02·3, 0.03·2 raised to the one before, 0.04·1 raised likewise.
        let adjusted = holm(&[0.04, 0.01, 0.03, 0.02]);
        for (got, expected) in adjusted.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert!((got - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn test_median_by_selection_is_the_median(samples in collection::vec(-1e9..1e9_f64, 1..40)) {
            prop_assert_eq!(Some(median_by_selection(&samples, &mut Vec::new())), median(&samples));
        }

        #[test]
        fn test_cliffs_delta_is_antisymmetric_and_bounded(
            first in collection::vec(0..9_i32, 1..30), second in collection::vec(0..9_i32, 1..30),
        ) {
            let first: Vec<f64> = first.into_iter().map(f64::from).collect();
            let second: Vec<f64> = second.into_iter().map(f64::from).collect();
            let delta = cliffs_delta(&first, &second).unwrap();
            prop_assert!((-1.0..=1.0).contains(&delta));
            prop_assert!((delta + cliffs_delta(&second, &first).unwrap()).abs() < 1e-12);
        }

        #[test]
        fn test_holm_never_lowers_and_keeps_order(p_values in collection::vec(0.0..=1.0_f64, 0..20)) {
            let adjusted = holm(&p_values);
            prop_assert!(p_values.iter().zip(&adjusted).all(|(p, a)| a >= p && *a <= 1.0));
            for (i, a) in p_values.iter().enumerate() {
                for (j, b) in p_values.iter().enumerate() {
                    prop_assert!(a > b || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
