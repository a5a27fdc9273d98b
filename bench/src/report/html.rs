//! One HTML file that needs nothing else.

use askama::Template;

use super::answer::{Answer, Tile, answers, headline, tally, tiles};
use super::digest::Digest;
use super::section::{Block, Missing, Section, sections};
use super::table::{Datum, Origin};
use crate::results::{Clock, Results};

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
    headline: String,
    tiles: Vec<Tile>,
    tally: String,
    answers: Vec<Answer<'a>>,
    sections: Vec<Section>,
    missing: Vec<Missing>,
    samples: String,
    /// The results file, fit to stand in a script element.
    raw: String,
}

impl<'a> Page<'a> {
    fn new(digest: &'a Digest<'a>) -> Result<Page<'a>, Error> {
        let (sections, missing) = sections(digest);
        let samples: usize = digest.results.cells.iter().map(|cell| cell.samples.len()).sum();
        Ok(Page {
            digest,
            is_virtual: digest.results.clock == Clock::Virtual,
            headline: headline(digest.results),
            tiles: tiles(digest.results),
            tally: tally(&digest.claims),
            answers: answers(&digest.claims),
            sections,
            missing,
            samples: super::format::count(samples),
            raw: embedded(digest.results)?,
        })
    }
}

/// Attributes by which whoever has the page finds the samples behind a figure.
fn traced(datum: &Datum) -> String {
    datum.origin().map(attributes).unwrap_or_default()
}

fn attributes(origin: &Origin) -> String {
    let base = origin.base.map(|base| format!(" data-base=\"{base}\"")).unwrap_or_default();
    // Metrics' names come from the file.
    let metric = super::svg::escaped(&origin.metric);
    format!(" data-cell=\"{}\" data-metric=\"{metric}\"{base}", origin.cell)
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
