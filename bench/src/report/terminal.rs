//! Fixed-width text for a terminal, a log or a mail: no colour, no control characters.

use std::fmt::Write;

use super::digest::Digest;
use super::figures;
use super::format::{self, Unit};
use super::table::{Datum, Table};
use crate::results::{Ends, Outcome, Results, Verdict};
use crate::suite::Suite;

/// Width for running text.
const WIDTH: usize = 100;

/// The report as tables for a terminal.
pub fn render_table(results: &Results) -> String {
    let digest = Digest::new(results);
    let mut text = String::new();
    for line in &digest.introduction {
        text += &wrapped(line, "", "");
    }
    for warning in &digest.warnings {
        text += &wrapped(warning, "! ", "  ");
    }
    if !digest.claims.is_empty() {
        heading(&mut text, "Claims");
    }
    for verdict in &digest.claims {
        claim(&mut text, verdict);
    }
    let not_measured: Vec<&str> =
        digest.not_measured().map(|verdict| verdict.statement.as_str()).collect();
    if !not_measured.is_empty() {
        text +=
            &wrapped(&format!("not measured  {}", not_measured.join(" ")), "", "              ");
    }
    for section in &digest.tables {
        table(&mut text, section);
    }
    heading(&mut text, "Reproduce");
    for (name, value) in &digest.reproduce {
        let _ = writeln!(text, "{name:<14}{}", plain(value));
    }
    text
}

/// What suites there are, and what their figures must be.
pub fn render_suites(suites: &[&Suite]) -> String {
    let mut text = String::new();
    for suite in suites {
        table(&mut text, &figures::limits(suite));
    }
    text
}

fn claim(text: &mut String, verdict: &Verdict) {
    if verdict.outcome == Outcome::NotMeasured {
        return;
    }
    let indent = " ".repeat(14);
    *text += &wrapped(&format!("{:<14}{}", verdict.outcome.name(), verdict.statement), "", &indent);
    if let Some(effect) = effect(verdict) {
        *text += &wrapped(&effect, &indent, &indent);
    }
    *text += &wrapped(&verdict.why, &indent, &indent);
}

/// The effect behind a verdict, its parts as they are shown.
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) value: String,
    /// What the ends are, and the ends; empty where there are none.
    pub(super) ends: String,
    pub(super) threshold: String,
}

pub(super) fn shown(verdict: &Verdict) -> Option<Shown> {
    let (name, unit) = verdict.effect_name.as_deref()?.rsplit_once(", ")?;
    let unit = if unit == "×" { Unit::Ratio } else { Unit::parse(unit) };
    let estimate = verdict.effect.as_ref()?;
    let kind = match verdict.ends {
        Some(Ends::Range) => "range of all samples ",
        Some(Ends::Bootstrap95) | None => "",
    };
    Some(Shown {
        name: name.to_owned(),
        value: format::value(estimate.value, unit),
        ends: format::ends(estimate, unit).map(|ends| format!("{kind}{ends}")).unwrap_or_default(),
        threshold: verdict.threshold.split(':').next().unwrap_or_default().to_owned(),
    })
}

/// `microVM ÷ container: 3.1 × [2.9–3.4 ×]; threshold 1.05 ×`.
pub(super) fn effect(verdict: &Verdict) -> Option<String> {
    let Shown { name, value, ends, threshold } = shown(verdict)?;
    let ends = if ends.is_empty() { ends } else { format!(" [{ends}]") };
    Some(format!("{name}: {value}{ends}; threshold {threshold}"))
}

fn heading(text: &mut String, title: &str) {
    let title = plain(title);
    let rule = "─".repeat(title.chars().count());
    let _ = write!(text, "\n{title}\n{rule}\n");
}

pub(super) fn table(text: &mut String, table: &Table) {
    heading(text, &table.title);
    if !table.caption.is_empty() {
        *text += &wrapped(&table.caption, "", "");
    }
    let rows: Vec<Vec<String>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(|datum| plain(&in_terminal(table, datum))).collect())
        .collect();
    let widths: Vec<usize> = (0..table.header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
            cells.chain([width(&table.header[column])]).max().unwrap_or(0)
        })
        .collect();
    let header: Vec<String> = table.header.iter().map(|name| plain(name)).collect();
    for row in std::iter::once(&header).chain(&rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding =
                " ".repeat(widths.get(column).copied().unwrap_or(0).saturating_sub(width(cell)));
            line += &if table.is_number(column) {
                format!("{padding}{cell}  ")
            } else {
                format!("{cell}{padding}  ")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// A figure with its interval where the table is narrow, with its margin where it is not.
fn in_terminal(table: &Table, datum: &Datum) -> String {
    match datum.ends() {
        Some(ends) if table.is_narrow => {
            // The unit stands with the value already.
            let numbers = ends.rsplit_once(' ').map_or(ends.as_str(), |(numbers, _)| numbers);
            format!("{} [{numbers}]", datum.main())
        }
        _ => datum.short(),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Text from a file must not steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn wrapped(text: &str, first: &str, rest: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_fresh = true;
    // Runs of spaces at the start of a line are its layout.
    let text = plain(text);
    for word in text.split(' ') {
        if !is_fresh && width(&line) + 1 + width(word) > WIDTH {
            let _ = writeln!(lines, "{}", line.trim_end());
            line = rest.to_owned();
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line += word;
        is_fresh = false;
    }
    let _ = writeln!(lines, "{}", line.trim_end());
    lines
}
