//! `tare report`: render a results file again.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{exit, print_text};
use crate::report;
use crate::results::Results;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare report results/compare-20260101T120000Z-lab.json\n  \
    tare report --format html --output report.html results/compare-20260101T120000Z-lab.json\n  \
    tare report --format csv results/*.json > samples.csv\n  \
    tare report this-machine.json that-machine.json")]
pub(super) struct ReportArgs {
    /// Results file, written by `tare compare`; several are put side by side, machine by machine,
    /// figures of the lab apart from those of machines
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// What to render
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for a terminal
    Table,
    /// Markdown
    Markdown,
    /// One offline HTML file, of one run
    Html,
    /// Every sample as comma-separated values: a row for each value of each metric
    Csv,
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let mut runs = Vec::new();
    for path in &args.results {
        runs.push((path.to_string_lossy().into_owned(), Results::load(path)?));
    }
    let named: Vec<_> = runs.iter().map(|(name, results)| (name.clone(), results)).collect();
    let text = match (args.format, named.as_slice()) {
        (Format::Csv, runs) => report::render_csv(runs),
        (Format::Table, [(_, only)]) => report::render_table(only),
        (Format::Markdown, [(_, only)]) => report::render_markdown(only),
        (Format::Html, [(_, only)]) => report::render_html(only)?,
        (Format::Table, runs) => report::render_merged_table(runs),
        (Format::Markdown, runs) => report::render_merged_markdown(runs),
        (Format::Html, _) => anyhow::bail!(
            "an HTML file is of one run, whose samples it holds; render each by itself, or all together with \
             --format markdown"
        ),
    };
    match &args.output {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?
        }
        None => print_text(&text)?,
    }
    Ok(exit::OK)
}
