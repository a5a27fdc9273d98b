//! # tare: what isolation costs
//!
//! The tare is the weight of the empty box. This crate runs the *same workload* as a plain
//! process, in a namespace container and in a KVM microVM, and reports the difference: start-up
//! time, memory, I/O, CPU.
//!
//! Its rules, each an answer to a way in which such comparisons have gone wrong:
//!
//! - **Same edges.** Every box reports the same points of its life, stamped by one clock
//!   ([`clock`]); a figure is the difference of two of them and names both.
//! - **Same bytes.** One agent, `tare-guest`, is process, container and PID 1 of the guest.
//! - **Interleaved.** Replicates run in randomised blocks from a recorded seed ([`harness`]).
//! - **Every sample is kept** ([`results`]); summaries and verdicts are recomputed from them.
//! - **Virtual time is not wall time.** Without hardware virtualization, boxes run in the
//!   [`lab`], and every figure says so.
//!
//! A backend is one file in [`backend`]; a workload one file in the crate `tare-workload`; neither
//! knows the other. [`cli`] turns arguments into a plan, [`report`] turns results into text.
//!
//! ```no_run
//! use tare::results::Results;
//!
//! let results = Results::load("results/reference-lab.json".as_ref())?;
//! print!("{}", tare::report::render_table(&results));
//! # Ok::<(), tare::results::Error>(())
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod backend;
pub mod calibrate;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod differences;
pub mod guest_kernel;
pub mod harness;
mod held;
pub mod host;
pub mod image;
pub mod interrupt;
pub mod kit;
pub mod lab;
mod progress;
pub mod recipe;
mod record;
mod relay;
pub mod report;
pub mod results;
mod rundir;
pub mod statistics;
pub mod suite;
mod user;
