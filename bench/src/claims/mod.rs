//! Claims: old statements about virtual machines and containers, decided by this run's figures.
//!
//! A claim is a statement, an experiment and a threshold, all fixed in [`CLAIMS`] before anything
//! is measured. [`judge`] computes the effect with its interval and compares it with the threshold:
//!
//! - *supported*: the whole interval is on the claim's side; *refuted*: the whole interval is on
//!   the other side; *undecided*: the interval holds the threshold, or a figure is missing, and the
//!   verdict says which.
//! - What does not vary by chance, such as the size of a file, needs no interval: its ends are the
//!   extremes of what was seen.
//! - Where two samples are compared, a permutation test must find a difference too, at 5 % after
//!   Holm's correction over all of the run's claims.
//! - A verdict holds for the machine and the clock it was measured with, and says so.
//!
//! # Virtual time
//!
//! The lab counts instructions. What it leaves out — caches, TLBs, world switches — is cost that a
//! microVM has and a container has not, or has less of. So there:
//!
//! - "the microVM costs more" may be supported: what is missing would only add to it. That it does
//!   *not* cost more cannot be found from instructions, and is undecided.
//! - A verdict on a time in seconds must clear its threshold tenfold: real machines take between a
//!   tenth of a nanosecond and ten for one instruction.
//! - A claim on what memory hardware does is undecided, whatever the count says.
//! - A size in memory is a size in memory, and a count is a count.
//! - The same command gives the same samples again, so where they are too few for an interval the
//!   effect's ends are the extremes of all samples.

mod counts;
pub(crate) mod effect;
mod judge;
mod list;
#[cfg(test)]
mod tests;

pub use judge::judge;
pub use list::{CLAIMS, Claim, Quantity, Rule};
