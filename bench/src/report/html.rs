//! One HTML file that needs nothing else.

use askama::Template;

use super::chart::{Chart, backend_class, charts};
use super::digest::{BASELINE, Digest, groups, multiple};
use super::format::{self, Unit};
use super::table::Table;
use super::terminal::effect;
use crate::results::{Cell, Clock, Edge, Outcome, Results, Verdict, span_name};

/// The HTML report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template.
    #[error("cannot render the HTML report: {0}")]
    Template(#[from] askama::Error),
    /// The results, which are part of the page.
    #[error("cannot put the results into the HTML report: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    digest: &'a Digest<'a>,
    is_virtual: bool,
    charts: Vec<Chart>,
    tiles: Vec<Tile>,
    answers: Vec<Answer<'a>>,
    /// The results file, fit to stand in a script element.
    raw: String,
}

/// A claim as the page shows it.
struct Answer<'a> {
    verdict: &'a Verdict,
    class: &'static str,
    effect: String,
}

/// A backend in one glance.
struct Tile {
    class: String,
    backend: String,
    start_up: String,
    /// `3.35 × the process, `, or nothing for the process itself.
    multiple: String,
    memory: Option<String>,
}

impl<'a> Page<'a> {
    fn new(digest: &'a Digest<'a>) -> Result<Page<'a>, Error> {
        let decided =
            digest.claims.iter().filter(|verdict| verdict.outcome != Outcome::NotMeasured);
        Ok(Page {
            digest,
            is_virtual: digest.results.clock == Clock::Virtual,
            charts: charts(digest.results),
            tiles: tiles(digest.results),
            answers: decided.map(answer).collect(),
            raw: embedded(digest.results)?,
        })
    }

    fn all_tables(&self) -> impl Iterator<Item = &Table> {
        self.digest.tables.iter().chain(&self.digest.appendix)
    }
}

fn tiles(results: &Results) -> Vec<Tile> {
    let groups = groups(results);
    let init = span_name(Edge::Launch, Edge::Init);
    let Some(group) = groups.iter().find(|group| group.is_start_up()) else { return Vec::new() };
    let memory_of = |backend: &str| {
        let mut weighed =
            groups.iter().filter(|group| group.is_weighed()).flat_map(|group| group.measured());
        let cell = weighed.find(|cell| cell.backend == backend)?;
        let value = cell.summary("memory_box_bytes")?.median.value;
        Some(format::value(value, Unit::Size))
    };
    let tile = |cell: &Cell| {
        let times =
            if cell.backend == BASELINE { None } else { multiple(results, group, cell, &init) };
        let times =
            times.map(|times| format!("{} the process, ", format::value(times.value, Unit::Ratio)));
        Some(Tile {
            class: backend_class(results, &cell.backend),
            backend: cell.backend.clone(),
            start_up: format::value(cell.summary(&init)?.median.value, Unit::Time),
            multiple: times.unwrap_or_default(),
            memory: memory_of(&cell.backend),
        })
    };
    group.measured().filter_map(tile).collect()
}

fn answer(verdict: &Verdict) -> Answer<'_> {
    let class = match verdict.outcome {
        Outcome::Supported => "supported",
        Outcome::Refuted => "refuted",
        Outcome::Undecided | Outcome::NotMeasured => "undecided",
    };
    Answer { verdict, class, effect: effect(verdict).unwrap_or_default() }
}

/// The report as one offline HTML file, with the results in it.
///
/// # Errors
/// [`Error`]; results that can be saved can be rendered.
pub fn render_html(results: &Results) -> Result<String, Error> {
    let digest = Digest::new(results);
    Ok(Page::new(&digest)?.render()?)
}

/// JSON that no parser of HTML can take for the end of its element: `<` only occurs in strings,
/// where an escape means the same.
fn embedded(results: &Results) -> Result<String, Error> {
    Ok(serde_json::to_string(results)?.replace('<', "\\u003c"))
}
