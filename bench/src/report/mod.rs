//! Reports: results as text for a terminal, as Markdown, and as one offline HTML file.
//!
//! All three render one digest of the results, whose tables are made once: the page all of it, the
//! terminal its tables, Markdown what fits into a comment on a pull request. Nothing is computed here that is not in the file or follows from its samples:
//! verdicts are made anew by [`claims::judge`](crate::claims::judge).
//!
//! - The answer comes first: the claims and their verdicts.
//! - Every figure has its interval and its number of samples; multiples are of the process baseline
//!   and of the physical floor.
//! - Virtual time says that it is virtual wherever a time is shown.
//! - Everything that comes from the file is escaped: a results file is outside input.
//! - The HTML file needs no network, no other file, and no script to be read. It carries the
//!   results themselves, so that whoever has the report has the samples; each figure names the cell
//!   and the metric that it is computed from, and a test computes them anew in a browser.
//! - What a run lacks is absent, and one line says what would measure it.
//!
//! ```no_run
//! use tare::report;
//! use tare::results::Results;
//!
//! let results = Results::load("results/compare.json".as_ref())?;
//! print!("{}", report::render_table(&results));
//! std::fs::write("report.html", report::render_html(&results)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
#[cfg(test)]
mod browser;
mod chart;
mod check;
mod csv;
mod differences;
mod digest;
mod facts;
mod figures;
mod format;
mod html;
mod markdown;
mod merged;
mod plot;
mod section;
mod spread;
mod svg;
mod table;
mod terminal;
#[cfg(test)]
mod tests;

pub use check::render_check;
pub use csv::render_csv;
pub use differences::{render_differences, render_differences_markdown};
pub use html::{Error, render_html};
pub use markdown::render_markdown;
pub use merged::{render_merged_markdown, render_merged_table};
pub use terminal::{render_suites, render_table};
