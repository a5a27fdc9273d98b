//! `tare compare-results`: what has changed between two runs, for a person and for CI.

use std::path::PathBuf;

use clap::Args;

use super::{exit, print_text};
use crate::differences::{Differences, Finding, Question, compare};
use crate::report;
use crate::results::Results;

#[derive(Debug, Args)]
#[command(after_help = "\
Cells are matched by backend, workload and variant. A metric is worse or better where the whole 95 %
interval of its cost is beyond the threshold and a permutation test, Holm-corrected over all metrics
compared, does not explain it by chance; no difference is found where the whole interval is within
the threshold; anything else is undecided. Runs of the lab are never compared with runs of a machine.

Exit codes beside those of `tare --help`:
  0  nothing is worse, and nothing undecided
  4  something is undecided or cannot be compared, and nothing is worse
  6  something is worse, or a cell that had figures has none

Examples:
  tare compare-results results/old.json results/new.json
  tare compare-results --metric launch_to_init_ns --threshold-percent 2 old.json new.json
  tare compare-results --markdown old.json new.json > comment.md")]
pub(super) struct CompareResultsArgs {
    /// Results file of the run to compare with
    old: PathBuf,
    /// Results file of the run that may be worse
    new: PathBuf,
    /// A change that is not certainly larger does not matter, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    threshold_percent: f64,
    /// Only these metrics [default: those that each cell was measured for]
    #[arg(long, value_name = "METRICS", value_delimiter = ',')]
    metric: Vec<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print Markdown, as for the comment of a pull request
    #[arg(long)]
    markdown: bool,
}

/// A percentage that limits something.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let is_sane = (0.0..=1000.0).contains(&value);
    is_sane.then_some(value).ok_or_else(|| "it must be 0 to 1000".to_owned())
}

pub(super) fn run(args: &CompareResultsArgs) -> anyhow::Result<u8> {
    let (old, new) = (Results::load(&args.old)?, Results::load(&args.new)?);
    let question =
        Question { threshold_percent: args.threshold_percent, metrics: args.metric.clone() };
    let differences = compare(&old, &new, &question)?;
    let text = match (args.json, args.markdown) {
        (true, _) => serde_json::to_string_pretty(&differences)? + "\n",
        (_, true) => report::render_differences_markdown(&differences),
        _ => report::render_differences(&differences),
    };
    print_text(&text)?;
    Ok(code_of(&differences))
}

fn code_of(differences: &Differences) -> u8 {
    let is_open = differences.count(Finding::Undecided) > 0 || !differences.unmatched.is_empty();
    match (differences.has_regression(), is_open) {
        (true, _) => exit::MISSED,
        (false, true) => exit::INCOMPLETE,
        (false, false) => exit::OK,
    }
}
