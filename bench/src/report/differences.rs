//! Two runs side by side: for a terminal, and as the comment of a pull request.

use super::format::{self, Unit};
use super::table::{Datum, Table};
use super::{markdown, terminal};
use crate::differences::{Difference, Differences, Finding, Unmatched};
use crate::results::Clock;

/// What a finding is called where the metric is known.
fn word(metric: &Difference) -> &'static str {
    match (metric.finding, metric.unit.as_str()) {
        (Finding::Better, "ns" | "bytes/s") => "faster",
        (Finding::Worse, "ns" | "bytes/s") => "slower",
        (Finding::Better, "bytes") => "smaller",
        (Finding::Worse, "bytes") => "larger",
        (Finding::Better, _) => "better",
        (Finding::Worse, _) => "worse",
        (Finding::NoDifference, _) => "no difference found",
        (Finding::Undecided, _) => "undecided",
    }
}

/// The comparison as tables for a terminal.
pub fn render_differences(differences: &Differences) -> String {
    let mut text = String::new();
    for line in introduction(differences) {
        text += &terminal::wrapped(&line, "", "");
    }
    for note in &differences.notes {
        text += &terminal::wrapped(note, "! ", "  ");
    }
    for (section, _) in tables(differences) {
        terminal::table(&mut text, &section);
    }
    text
}

/// The comparison as Markdown, with what has changed first.
pub fn render_differences_markdown(differences: &Differences) -> String {
    let mut text = format!("# {}\n", markdown::escaped(&headline(differences)));
    for line in introduction(differences) {
        text += &format!("\n{}\n", markdown::escaped(&line));
    }
    if !differences.notes.is_empty() {
        text.push('\n');
    }
    for note in &differences.notes {
        text += &format!("- {}\n", markdown::escaped(note));
    }
    for (section, is_folded) in tables(differences) {
        let table = markdown::table(&section);
        text += &match is_folded {
            true => {
                format!("\n<details><summary>{}</summary>\n{table}\n</details>\n", section.title)
            }
            false => table,
        };
    }
    text
}

/// The answer in one line.
fn headline(differences: &Differences) -> String {
    let count = |finding| differences.count(finding);
    let lost = differences.unmatched.iter().filter(|cell| cell.is_lost).count();
    let mut parts = vec![
        format!("{} worse", count(Finding::Worse)),
        format!("{} better", count(Finding::Better)),
        format!("{} without a difference", count(Finding::NoDifference)),
        format!("{} undecided", count(Finding::Undecided)),
    ];
    if lost > 0 {
        parts.push(format!("{lost} cells without figures now"));
    }
    let verdict = if differences.has_regression() { "Regression" } else { "No regression found" };
    format!("{verdict}: {}", parts.join(", "))
}

fn introduction(differences: &Differences) -> Vec<String> {
    let clock = match differences.clock {
        Clock::Wall => "",
        Clock::Virtual => " Virtual time: both runs were made in the lab.",
    };
    vec![
        format!("{}.{clock}", headline(differences)),
        format!("old: {}", differences.old),
        format!("new: {}", differences.new),
    ]
}

/// The tables, and whether each may be folded away.
fn tables(differences: &Differences) -> Vec<(Table, bool)> {
    let caption = format!(
        "Medians. cost: of the new run as a multiple of the old one's, above 1 is worse, for rates too, with its 95 % \
         interval (in virtual time with few samples the range of all). A change counts from {} % on, the whole \
         interval beyond it, and p ≤ 0.05 by a permutation test with {}'s correction over {} metrics. shift: \
         Hodges–Lehmann; δ: Cliff's delta of the costs.",
        differences.threshold_percent,
        differences.correction,
        differences.metrics.len()
    );
    let changed: &[Finding] = &[Finding::Worse, Finding::Better];
    let parts = [
        ("Changed", changed, false),
        ("Undecided", &[Finding::Undecided], false),
        ("No difference found", &[Finding::NoDifference], true),
    ];
    let mut tables: Vec<(Table, bool)> = Vec::new();
    for (title, findings, is_folded) in parts {
        let is_meant = |metric: &&Difference| findings.contains(&metric.finding);
        let metrics: Vec<_> = differences.metrics.iter().filter(is_meant).collect();
        if !metrics.is_empty() {
            let caption = if tables.is_empty() { caption.as_str() } else { "" };
            tables.push((table(title, caption, &metrics), is_folded));
        }
    }
    if !differences.unmatched.is_empty() {
        tables.push((unmatched(&differences.unmatched), false));
    }
    tables
}

fn table(title: &str, caption: &str, metrics: &[&Difference]) -> Table {
    let header = ["cell", "metric", "n", "old", "new", "cost", "shift", "δ", "p", "finding"];
    Table {
        title: title.to_owned(),
        caption: caption.to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: metrics.iter().map(|metric| row(metric)).collect(),
        is_narrow: false,
    }
}

fn row(metric: &Difference) -> Vec<Datum> {
    let pairs: Vec<String> =
        metric.variant.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let cell = match pairs.as_slice() {
        [] => format!("{} {}", metric.backend, metric.workload),
        pairs => format!("{} {} ({})", metric.backend, metric.workload, pairs.join(", ")),
    };
    let finding = match metric.finding {
        Finding::Undecided => format!("{}: {}", word(metric), metric.why),
        _ => word(metric).to_owned(),
    };
    let number = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:+.2}") };
    vec![
        Datum::Text(cell),
        Datum::text(&metric.metric),
        Datum::Text(format!("{}, {}", metric.n[0], metric.n[1])),
        Datum::figure(Some(metric.old), &metric.unit),
        Datum::figure(Some(metric.new), &metric.unit),
        Datum::ratio(metric.cost),
        Datum::Text(format::value(metric.shift, Unit::parse(&metric.unit))),
        Datum::Text(number(metric.cliffs_delta)),
        Datum::Text(metric.p_adjusted.map_or_else(|| "–".to_owned(), |p| format!("{p:.4}"))),
        Datum::Text(finding),
    ]
}

fn unmatched(cells: &[Unmatched]) -> Table {
    let row = |cell: &Unmatched| {
        let what = if cell.is_lost { "no figures now" } else { "not compared" };
        vec![Datum::text(&cell.cell), Datum::text(what), Datum::text(&cell.why)]
    };
    Table {
        title: "Not compared".to_owned(),
        caption: String::new(),
        header: ["cell", "what", "why"].map(str::to_owned).to_vec(),
        rows: cells.iter().map(row).collect(),
        is_narrow: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differences::{Question, compare};
    use crate::results::fixture::synthetic;

    #[test]
    fn test_differences_of_synthetic_runs() {
        let old = synthetic(Clock::Wall);
        let mut new = old.clone();
        for sample in new.cells.iter_mut().take(1).flat_map(|cell| &mut cell.samples) {
            sample.edges_ns.values_mut().for_each(|at_ns| *at_ns *= 2);
        }
        new.host.kernel = "6.1.0-<b>".to_owned();
        new.summarise();
        let question = Question { threshold_percent: 5.0, metrics: Vec::new() };
        let found = compare(&old, &new, &question).unwrap();
        insta::assert_snapshot!("differences", render_differences(&found));
        let comment = render_differences_markdown(&found);
        assert!(comment.starts_with("# Regression: 2 worse"), "{comment}");
        assert!(comment.contains("| slower |") && comment.contains("6.1.0-&lt;b&gt;"), "{comment}");
        assert!(!comment.contains("<b>"), "{comment}");
    }
}
