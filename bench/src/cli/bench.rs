//! `tare bench`: the figures of a suite, measured in one round and held against their limits.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::json;

use super::round::RoundArgs;
use super::{exit, print_text};
use crate::lab::is_lab;
use crate::report;
use crate::results::{Results, Standing};
use crate::suite::{self, Suite};

/// Stands where a suite's name would.
const LIST: &str = "ls";

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes beside those of `tare --help`:
  4  a figure is undecided or could not be measured, or a replicate failed
  6  a figure is beyond what it must be

Examples:
  tare bench ls
  tare bench vmm
  tare bench vmm --only start-same-kernel,restore --replicates 3
  tare bench vmm --from results/vmm-20260101T120000Z-lab.json")]
pub(super) struct BenchArgs {
    /// The suite
    #[arg(value_parser = suite_names())]
    suite: String,
    /// Only these figures, and what they need
    #[arg(long, value_name = "FIGURES", value_delimiter = ',', value_parser = figure_names())]
    only: Vec<String>,
    /// Samples of each start-up cell [default: 100 on a machine, 3 in the lab]; the other workloads
    /// take a tenth, but at least 6, or 3 in the lab
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replicates: Option<u32>,
    /// Measure nothing: make the figures anew from the samples of this results file
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    #[command(flatten)]
    round: RoundArgs,
}

fn suite_names() -> PossibleValuesParser {
    let suites = suite::all().iter().map(|suite| PossibleValue::new(suite.name).help(suite.about));
    let list = PossibleValue::new(LIST).help("list the suites and their figures");
    PossibleValuesParser::new(suites.chain([list]))
}

fn figure_names() -> PossibleValuesParser {
    let targets = suite::all().iter().flat_map(|suite| suite.targets);
    PossibleValuesParser::new(targets.map(|target| target.name))
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<u8> {
    if args.suite == LIST {
        return list(args.round.json);
    }
    let suite = suite::find(&args.suite)
        .with_context(|| format!("there is no suite {}; see `tare bench ls`", args.suite))?;
    let is_foreign = |name: &&String| !suite.targets.iter().any(|target| target.name == **name);
    if let Some(name) = args.only.iter().find(is_foreign) {
        anyhow::bail!("the suite {} has no figure {name}; see `tare bench ls`", suite.name);
    }
    if let Some(path) = &args.from {
        return anew(args, suite, path);
    }
    let only = args.only.join(",");
    let replicates = args.replicates.map(|replicates| replicates.to_string());
    let mut words = vec!["bench", suite.name];
    if !only.is_empty() {
        words.extend(["--only", &only]);
    }
    words.extend(replicates.iter().flat_map(|count| ["--replicates", count]));
    args.round.run(&words, || measure(args, suite), report::render_table)
}

/// Runs the suite on the host that this process is on.
fn measure(args: &BenchArgs, suite: &Suite) -> anyhow::Result<(Results, u8)> {
    let start_replicates =
        args.replicates.unwrap_or(args.round.replicates(if is_lab() { 3 } else { 100 }));
    let cells = suite.cells(&args.only, args.round.setting(start_replicates))?;
    let (mut results, code) = args.round.measure(&cells)?;
    results.suite = Some(suite.judge(&args.only, &results));
    let code = if code == exit::INTERRUPTED { code } else { code_of(&results).max(code) };
    Ok((results, code))
}

/// Makes the figures of an earlier round anew.
fn anew(args: &BenchArgs, suite: &Suite, path: &Path) -> anyhow::Result<u8> {
    let mut results = Results::load(path)?;
    let stored = results.suite.as_ref().filter(|stored| stored.name == suite.name);
    let stored = stored.with_context(|| {
        format!("{} is no results file of `tare bench {}`", path.display(), suite.name)
    })?;
    let mut names: Vec<String> = stored.figures.iter().map(|figure| figure.name.clone()).collect();
    if !args.only.is_empty() {
        names.retain(|name| args.only.contains(name));
    }
    anyhow::ensure!(!names.is_empty(), "{} has none of these figures", path.display());
    results.suite = Some(suite.judge(&names, &results));
    args.round.print(&results, report::render_table)?;
    Ok(code_of(&results))
}

/// What the figures say to a script.
fn code_of(results: &Results) -> u8 {
    let figures = results.suite.iter().flat_map(|suite| &suite.figures);
    let codes = figures.map(|figure| match figure.standing {
        Standing::Missed => exit::MISSED,
        Standing::Undecided | Standing::NotMeasured => exit::INCOMPLETE,
        Standing::Aim | Standing::Must => exit::OK,
    });
    codes.max().unwrap_or(exit::OK)
}

fn list(is_json: bool) -> anyhow::Result<u8> {
    let text = if is_json {
        let suites: Vec<_> = suite::all().iter().map(|suite| describe(suite)).collect();
        serde_json::to_string_pretty(&suites)? + "\n"
    } else {
        report::render_suites(suite::all())
    };
    print_text(&text)?;
    Ok(exit::OK)
}

fn describe(suite: &Suite) -> serde_json::Value {
    let figures: Vec<_> = suite
        .targets
        .iter()
        .map(|target| {
            json!({
                "name": target.name,
                "what": target.what,
                "backend": target.backend,
                "metric": target.metric,
                "reference": target.reference.map(|reference| reference.name()),
                "yardstick": target.limits.yardstick,
                "must": target.limits.must,
                "aim": target.limits.aim,
                "source": target.source,
            })
        })
        .collect();
    json!({ "name": suite.name, "about": suite.about, "figures": figures })
}
