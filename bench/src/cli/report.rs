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
    tare report --format html --output report.html results/compare-*.json")]
pub(super) struct ReportArgs {
    /// Results file, written by `tare compare`
    results: PathBuf,
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
    /// One offline HTML file
    Html,
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let results = Results::load(&args.results)?;
    let text = match args.format {
        Format::Table => report::render_table(&results),
        Format::Markdown => report::render_markdown(&results),
        Format::Html => report::render_html(&results)?,
    };
    match &args.output {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?
        }
        None => print_text(&text)?,
    }
    Ok(exit::OK)
}
