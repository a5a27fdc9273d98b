//! `tare calibrate`: does tare measure what it says it measures?

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

use super::{KitArgs, exit, print_text};
use crate::calibrate::{CHECKS, Check, Effort, Error, Outcome, calibrate};
use crate::kit::Kit;
use crate::lab::is_lab;
use crate::{harness, interrupt, report};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes beside those of `tare --help`:
  4  a check is undecided or was skipped, and none has failed
  6  a check has failed

Examples:
  tare calibrate
  tare calibrate --only aa,delay,overhead --budget-s 120
  tare lab -- calibrate --only delay")]
pub(super) struct CalibrateArgs {
    /// Only these checks
    #[arg(long, value_name = "CHECKS", value_delimiter = ',', value_parser = check_names())]
    only: Vec<String>,
    /// Fewer pairs, a larger delay, shorter commands
    #[arg(long)]
    quick: bool,
    /// How long each check may go on before it is undecided
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    budget_s: u64,
    /// Seed of orders and of resampling [default: random, but 1 in the lab]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..1u64 << 53))]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kit: KitArgs,
}

fn check_names() -> PossibleValuesParser {
    let names = CHECKS.iter().map(|(name, what, _)| PossibleValue::new(name).help(what));
    PossibleValuesParser::new(names)
}

pub(super) fn run(args: &CalibrateArgs) -> anyhow::Result<u8> {
    interrupt::listen()?;
    let seed = match (args.seed, is_lab()) {
        (Some(seed), _) => seed,
        (None, true) => 1,
        (None, false) => harness::fresh_seed().context("cannot read /dev/urandom")?,
    };
    let effort = Effort {
        is_quick: args.quick,
        budget: Duration::from_secs(args.budget_s),
        seed,
        is_lab: is_lab(),
    };
    let kit = Kit::new(args.kit.choice())?;
    let told = |check: &Check| {
        if !args.json {
            // A reader that has gone away hears of none.
            let _ = print_text(&report::render_check(check));
        }
    };
    let checks = match calibrate(&kit, &args.only, effort, told) {
        Ok(checks) => checks,
        Err(Error::Interrupted) => return Ok(exit::INTERRUPTED),
        Err(error) => return Err(error.into()),
    };
    if args.json {
        let all = serde_json::json!({ "seed": seed, "checks": checks });
        print_text(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    }
    let codes = checks.iter().map(|check| match check.outcome {
        Outcome::Failed => exit::MISSED,
        Outcome::Undecided | Outcome::Skipped => exit::INCOMPLETE,
        Outcome::Passed | Outcome::Shown => exit::OK,
    });
    Ok(codes.max().unwrap_or(exit::OK))
}
