//! Does tare measure what it says it measures? (METHOD rule 14.)
//!
//! Each check is a measurement with a known answer: two cells that are the same, a delay that was
//! put there, a command that hyperfine times too, a file that fio reads too, a launch that cannot
//! be shorter than a bare vfork and exec. What is compared is run in the same randomised blocks, so
//! that the machine's moods fall on both.
//!
//! A check passes where the whole 95 % interval keeps its limit, fails where the whole interval is
//! beyond, and goes on in between until its time is over: then it is undecided, for the machine is
//! too noisy to tell.
//!
//! A new check is one file here and one line in [`CHECKS`].

mod aa;
mod blocks;
mod delay;
mod file;
mod memory;
mod overhead;
mod program;
mod whole;

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::backend;
use crate::harness::ReplicateError;
use crate::kit::{self, Kit};
use crate::results::Estimate;

/// A check could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kit.
    #[error(transparent)]
    Kit(#[from] kit::Error),
    /// The backend.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A box of it.
    #[error("a box failed: {0}")]
    Replicate(ReplicateError),
    /// A physical floor.
    #[error("the floor cannot be measured: {0}")]
    Floor(#[from] tare_container::Error),
    /// A program that is compared with is not there.
    #[error("{program} is not installed; apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// It is there and does not do what it is asked for.
    #[error("{program}: {why}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// A file or process of the check's own.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<ReplicateError> for Error {
    fn from(error: ReplicateError) -> Error {
        match error {
            ReplicateError::Interrupted => Error::Interrupted,
            error => Error::Replicate(error),
        }
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It keeps its limit.
    Passed,
    /// It does not.
    Failed,
    /// The interval holds the limit still.
    Undecided,
    /// It has no limit: its figures are there to be looked at.
    Shown,
    /// It could not be carried out.
    Skipped,
}

impl Outcome {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Undecided => "undecided",
            Outcome::Shown => "shown",
            Outcome::Skipped => "skipped",
        }
    }
}

/// A figure of a check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its unit, as results spell it; × for a multiple.
    pub unit: &'static str,
    /// The figure, with its 95 % interval where it has one.
    pub value: Estimate,
}

/// A check that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is compared with what.
    pub what: String,
    /// What must be.
    pub limit: String,
    /// How it came out.
    pub outcome: Outcome,
    /// Why.
    pub why: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// How thorough the checks are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// A larger delay, fewer pairs, shorter commands.
    pub is_quick: bool,
    /// How long each check may go on.
    pub budget: Duration,
    /// Seed of the orders and the resampling.
    pub seed: u64,
    /// Whether this host is the lab, where a sample repeats itself.
    pub is_lab: bool,
}

type Run = fn(&Kit, Effort) -> Result<Vec<Check>, Error>;

/// Every check: its name, one line on it, and how it is carried out.
pub const CHECKS: [(&str, &str, Run); 6] = [
    ("aa", "two cells that are the same: no difference but as often as the level says", aa::run),
    ("delay", "a delay put before each launch: found, and its size recovered", delay::run),
    ("overhead", "launch to init of a process against a bare vfork and exec", overhead::run),
    ("hyperfine", "the whole time of a command, against hyperfine's", whole::run),
    ("fio", "rates of a file, against fio's with the same job", file::run),
    ("sysbench", "rates of processor and memory beside sysbench's, for orientation", memory::run),
];

/// Carries out the checks of these names, or all; `told` hears of each when it is over.
///
/// # Errors
/// [`Error::Interrupted`]; whatever else keeps a check from being carried out is its outcome.
pub fn calibrate(
    kit: &Kit,
    only: &[String],
    effort: Effort,
    mut told: impl FnMut(&Check),
) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    for (name, what, run) in CHECKS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let done = match run(kit, effort) {
            Ok(done) => done,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => vec![Check {
                name,
                what: what.to_owned(),
                limit: String::new(),
                outcome: Outcome::Skipped,
                why: error.to_string(),
                figures: Vec::new(),
            }],
        };
        done.iter().for_each(&mut told);
        checks.extend(done);
    }
    Ok(checks)
}
