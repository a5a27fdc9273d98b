//! The answer, before any table: what a box costs here, and what became of the claims.

use super::chart::backend_class;
use super::digest::{BASELINE, Group, groups, multiple};
use super::table::Datum;
use super::terminal::{Shown, shown};
use crate::claims;
use crate::results::{Cell, Edge, Outcome, Results, Verdict, span_name};

/// A backend in one glance.
pub(super) struct Tile {
    pub(super) class: String,
    pub(super) backend: String,
    pub(super) start_up: Datum,
    /// `3.35 ×`, or nothing for the process itself.
    pub(super) multiple: Option<Datum>,
    pub(super) memory: Option<Datum>,
}

/// A claim as a page shows it.
pub(super) struct Answer<'a> {
    pub(super) verdict: &'a Verdict,
    pub(super) class: &'static str,
    /// Tells verdicts apart without colour.
    pub(super) symbol: &'static str,
    /// What was found, for who has never seen an interval.
    pub(super) words: String,
    pub(super) shown: Option<Shown>,
}

const BOX: &str = "memory_box_bytes";

fn start_group<'a, 'b>(groups: &'b [Group<'a>]) -> Option<&'b Group<'a>> {
    groups.iter().find(|group| group.is_start_up())
}

fn weighed<'a>(groups: &[Group<'a>], backend: &str) -> Option<&'a Cell> {
    let mut cells = groups.iter().filter(|group| group.is_weighed()).flat_map(Group::measured);
    cells.find(|cell| cell.backend == backend)
}

fn of(cell: &Cell, metric: &str) -> Option<Datum> {
    let summary = cell.summary(metric)?;
    Some(Datum::figure(Some(summary.median), &summary.unit).of(cell.id, metric, None))
}

/// What each backend costs.
pub(super) fn tiles(results: &Results) -> Vec<Tile> {
    let groups = groups(results);
    let init = span_name(Edge::Launch, Edge::Init);
    let Some(group) = start_group(&groups) else { return Vec::new() };
    let tile = |cell: &Cell| {
        let times =
            if cell.backend == BASELINE { None } else { multiple(results, group, cell, &init) };
        let base = group.baseline().map(|base| base.id);
        Some(Tile {
            class: backend_class(results, &cell.backend),
            backend: cell.backend.clone(),
            start_up: of(cell, &init)?,
            multiple: times.map(|times| Datum::ratio(Some(times)).of(cell.id, &init, base)),
            memory: weighed(&groups, &cell.backend).and_then(|cell| of(cell, BOX)),
        })
    };
    group.measured().filter_map(tile).collect()
}

/// One sentence for each of the boxes that people ask about.
pub(super) fn headline(results: &Results) -> String {
    let tiles = tiles(results);
    let sentence = |(backend, name): (&str, &str)| {
        let tile = tiles.iter().find(|tile| tile.backend == backend)?;
        let times = tile.multiple.as_ref().map(|times| {
            format!(", {} what a plain process takes", times.main().replace(" ×", " times"))
        });
        let memory = tile
            .memory
            .as_ref()
            .map(|memory| format!(", and holds {} of memory while idle", memory.main()));
        Some(format!(
            "{name} is up after {}{}{}.",
            tile.start_up.main(),
            times.unwrap_or_default(),
            memory.unwrap_or_default()
        ))
    };
    let asked =
        [(BASELINE, "A plain process"), ("container", "A container"), ("microvm", "A microVM")];
    asked.into_iter().filter_map(sentence).collect::<Vec<_>>().join(" ")
}

/// How many claims came out how.
pub(super) fn tally(claims: &[Verdict]) -> String {
    let count = |outcome| claims.iter().filter(|verdict| verdict.outcome == outcome).count();
    let named = [Outcome::Supported, Outcome::Refuted, Outcome::Undecided, Outcome::NotMeasured]
        .map(|outcome| (count(outcome), outcome.name()));
    let parts: Vec<String> = named
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    format!("Of {} claims: {}.", claims.len(), parts.join(", "))
}

/// The claims that the run has an experiment for.
pub(super) fn answers(claims: &[Verdict]) -> Vec<Answer<'_>> {
    claims.iter().filter(|verdict| verdict.outcome != Outcome::NotMeasured).map(answer).collect()
}

fn answer(verdict: &Verdict) -> Answer<'_> {
    let (class, symbol) = match verdict.outcome {
        Outcome::Supported => ("supported", "✓"),
        Outcome::Refuted => ("refuted", "✗"),
        Outcome::Undecided | Outcome::NotMeasured => ("undecided", "?"),
    };
    Answer { verdict, class, symbol, words: words(verdict), shown: shown(verdict) }
}

/// What was found in a plain sentence, and for an undecided claim why that settles nothing.
pub(super) fn words(verdict: &Verdict) -> String {
    let claim = claims::CLAIMS.iter().find(|claim| claim.id == verdict.id);
    let value = shown(verdict).map(|shown| shown.value.replace(" ×", " times"));
    let found = claim.zip(value).map(|(claim, value)| claim.words.replace("{}", &value));
    let reason = verdict.why.split("; ").next().unwrap_or_default();
    match (found, verdict.outcome) {
        (Some(found), Outcome::Supported | Outcome::Refuted) => found,
        (Some(found), _) => format!("{found} That settles nothing: {reason}."),
        (None, _) => format!("Not settled: {reason}."),
    }
}
