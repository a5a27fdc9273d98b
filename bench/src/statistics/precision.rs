//! When are there samples enough?
//!
//! A run may go on until every interval is narrow enough. Such a rule is a look at the data, and
//! looks cost coverage: a run tends to stop where its interval happens to be too narrow. Stopping at
//! a fixed width is right in the limit (Chow and Robbins, "On the asymptotic theory of fixed-width
//! sequential confidence intervals for the mean", 1965), and what is lost before the limit grows with
//! the number of looks. So the first look is late, at [`FIRST_LOOK`] samples, and each needs a
//! quarter more samples than the one before: from ten to a thousand there are 21. A test measures
//! what is left of 95 %.

use super::Rng;
use super::bootstrap::median_interval;
use super::quantile::median;

/// Samples of each cell at the first look.
pub const FIRST_LOOK: u32 = 10;

/// The look after that at `samples`.
pub fn next_look(samples: u32) -> u32 {
    (samples + samples.div_ceil(4)).max(FIRST_LOOK)
}

/// The farther end of the median's 95 % interval from it, in percent of it; `None` where there is no
/// interval, or the median is zero.
pub fn margin_percent(samples: &[f64], rng: &mut Rng) -> Option<f64> {
    let value = median(samples).filter(|value| *value != 0.0)?;
    let interval = median_interval(samples, rng)?;
    Some(100.0 * (interval.high - value).max(value - interval.low) / value.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_looks_are_rare_and_grow() {
        let looks: Vec<u32> =
            std::iter::successors(Some(FIRST_LOOK), |look| Some(next_look(*look)))
                .take(22)
                .collect();
        assert_eq!(looks[..4], [10, 13, 17, 22]);
        assert!(looks[21] > 1000, "{looks:?}");
        assert_eq!(next_look(0), FIRST_LOOK);
    }

    #[test]
    fn test_margin_is_the_farther_end_and_nothing_where_there_is_no_interval() {
        assert_eq!(margin_percent(&[5.0; 6], &mut Rng::new(1)), Some(0.0));
        assert_eq!(margin_percent(&[5.0; 5], &mut Rng::new(1)), None);
        assert_eq!(margin_percent(&[0.0; 9], &mut Rng::new(1)), None);
    }

    #[test]
    fn test_intervals_of_runs_that_stopped_by_the_rule_hold_the_truth_nearly_as_often_as_promised()
    {
        // Skewed as times are; 2 % are reached at a hundred samples or so.
        let truth = 10.0 + 2.0_f64.ln();
        let mut rng = Rng::new(20_260_108);
        let (mut held, mut sizes) = (0, Vec::new());
        for _ in 0..400 {
            let mut samples = Vec::new();
            let mut look = FIRST_LOOK;
            loop {
                samples.resize_with(look as usize, || 10.0 - (1.0 - rng.unit()).ln());
                let margin = margin_percent(&samples, &mut rng).unwrap();
                if margin <= 2.0 || look > 2000 {
                    break;
                }
                look = next_look(look);
            }
            let interval = median_interval(&samples, &mut rng).unwrap();
            held += u32::from(interval.contains(truth));
            sizes.push(samples.len() as f64);
        }
        // 95 % promised; 400 trials have a standard error of 1.1 points.
        assert!(held >= 400 * 90 / 100, "{held} of 400");
        assert!((30.0..1000.0).contains(&median(&sizes).unwrap()), "{:?}", median(&sizes));
    }
}
