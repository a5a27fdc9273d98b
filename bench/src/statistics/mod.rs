//! Statistics that hold for skewed samples of unknown distribution, and say so where they cannot.
//!
//! Times of launches are skewed, have outliers that are real, and come in small numbers. So
//! nothing here assumes a distribution and nothing is trimmed:
//!
//! - Location is the [`median`]; spread is shown by all samples, as an [`ecdf`].
//! - Uncertainty is a percentile bootstrap ([`median_interval`], [`ratio_interval`],
//!   [`difference_interval`], [`mean_ratio`]); that of a
//!   99th percentile, where the bootstrap fails, lies between order statistics ([`p99`]).
//! - A difference is a [`permutation_test`] or, by ranks, a [`rank_permutation_test`], with an effect size, [`cliffs_delta`] or
//!   [`hodges_lehmann`]; several of them in one report are corrected by [`holm`].
//! - Whether samples are of one distribution at all is asked of their order, [`drift`]; where they vary
//!   of their instances, [`variation`]; how many are enough of their margin, [`margin_percent`].
//! - What too few samples cannot tell is `None`: below [`MEDIAN_INTERVAL_MIN`] samples no 95 %
//!   interval of a median exists, below [`P99_MIN`] none of a 99th percentile.
//! - Everything random is drawn from an [`Rng`] whose seed is recorded, so that a report's
//!   intervals are those of its file, to the last digit.
//!
//! The tests measure what the procedures promise: how often intervals of simulated samples hold
//! the truth, and how often two samples of the same distribution are found to differ.
//!
//! ```
//! use tare::statistics::{Rng, median, median_interval};
//!
//! let samples = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 90.0];
//! assert_eq!(median(&samples), Some(13.0));
//! let interval = median_interval(&samples, &mut Rng::new(1)).unwrap();
//! assert!(interval.low <= 13.0 && interval.high >= 13.0);
//! ```

mod bootstrap;
#[cfg(test)]
mod calibration;
mod compare;
mod drift;
mod precision;
mod quantile;
mod rng;
mod shift;
mod tail;
mod variance;

pub use bootstrap::{
    Interval, MEDIAN_INTERVAL_MIN, RESAMPLES, difference_interval, mean_ratio, median_interval,
    ratio_interval,
};
pub use compare::{PERMUTATIONS, cliffs_delta, holm, permutation_test, rank_permutation_test};
pub use drift::{DRIFT_MIN, Drift, drift};
pub use precision::{FIRST_LOOK, margin_percent, next_look};
pub use quantile::{ecdf, median, quantile};
pub use rng::Rng;
pub use shift::hodges_lehmann;
pub use tail::{P99_MIN, p99};
pub use variance::{Variation, variation};
