//! Several runs in one report: machines side by side, and never two clocks in one table.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::format::{self, Unit};
use super::table::{Datum, Table};
use super::{markdown, terminal};
use crate::results::{Cell, Clock, Results};

/// A run, and the name that its figures go by.
type Named<'a> = (String, &'a Results);

/// Several runs as tables for a terminal.
pub fn render_merged_table(runs: &[(String, &Results)]) -> String {
    let mut text = terminal::wrapped(INTRODUCTION, "", "");
    for section in sections(runs) {
        let _ =
            write!(text, "\n{}\n{}\n", section.title, "═".repeat(section.title.chars().count()));
        for table in &section.tables {
            terminal::table(&mut text, table);
        }
    }
    text
}

/// The same as Markdown.
pub fn render_merged_markdown(runs: &[(String, &Results)]) -> String {
    let mut text = format!("# tare: several runs\n\n{INTRODUCTION}\n");
    for section in sections(runs) {
        let _ = write!(text, "\n# {}\n", section.title);
        text.extend(section.tables.iter().map(markdown::table));
    }
    text
}

const INTRODUCTION: &str = "Medians with their 95 % intervals, or margins. Columns are runs, by the letter in the table \
                            of runs; each holds for its own machine. Runs in wall-clock time and runs in virtual time \
                            (the lab) stand in sections of their own, for their figures cannot be compared.";

/// Runs of one clock.
struct Section {
    title: String,
    tables: Vec<Table>,
}

fn sections(runs: &[Named<'_>]) -> Vec<Section> {
    let of_clock = |clock: Clock| -> Vec<(String, &Named<'_>)> {
        let all = runs.iter().enumerate().map(|(index, run)| (letter(index), run));
        all.filter(|(_, (_, results))| results.clock == clock).collect()
    };
    [(Clock::Wall, "Wall-clock time"), (Clock::Virtual, "Virtual time: the lab")]
        .into_iter()
        .map(|(clock, title)| (of_clock(clock), title.to_owned()))
        .filter(|(runs, _)| !runs.is_empty())
        .map(|(runs, title)| {
            let mut tables = vec![machines(&runs)];
            tables.extend(workloads(&runs));
            Section { title, tables }
        })
        .collect()
}

/// A, B, … Z, then by number.
fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => char::from(b'A' + index).to_string(),
        _ => format!("run {}", index + 1),
    }
}

type Lettered<'a> = (String, &'a Named<'a>);

fn machines(runs: &[Lettered<'_>]) -> Table {
    let row = |(letter, (name, results)): &Lettered<'_>| {
        let host = &results.host;
        let commit = results.tool.commit.as_deref().unwrap_or_default();
        let cpus = if host.cpus == 1 { "CPU" } else { "CPUs" };
        vec![
            Datum::text(letter),
            Datum::text(name),
            Datum::text(&results.created),
            Datum::Text(format!(
                "{}, {} {cpus}, {}, Linux {}, {}",
                host.cpu_model,
                host.cpus,
                format::value(host.memory_bytes as f64, Unit::Size),
                host.kernel,
                host.virtualization
            )),
            Datum::Text(format!(
                "{} {}",
                results.tool.version,
                &commit.chars().take(12).collect::<String>()
            )),
        ]
    };
    Table {
        title: "Runs".to_owned(),
        caption: String::new(),
        header: ["", "file", "begun", "machine", "tare"].map(str::to_owned).to_vec(),
        rows: runs.iter().map(row).collect(),
        is_narrow: true,
    }
}

/// A table for each workload and variant: what the cells were measured for, by run.
fn workloads(runs: &[Lettered<'_>]) -> Vec<Table> {
    let mut groups: Vec<(&str, String)> = Vec::new();
    for cell in runs.iter().flat_map(|(_, (_, results))| &results.cells) {
        let group = (cell.workload.as_str(), cell.variant_text());
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let table = |(workload, variant): &(&str, String)| {
        let is_meant = |cell: &&Cell| cell.workload == *workload && cell.variant_text() == *variant;
        let cells: Vec<Vec<&Cell>> = runs
            .iter()
            .map(|(_, (_, results))| results.cells.iter().filter(is_meant).collect())
            .collect();
        group_table(workload, variant, runs, &cells)
    };
    groups.iter().map(table).filter(|table| !table.rows.is_empty()).collect()
}

fn group_table(
    workload: &str,
    variant: &str,
    runs: &[Lettered<'_>],
    cells: &[Vec<&Cell>],
) -> Table {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut seen = BTreeSet::new();
    for cell in cells.iter().flatten() {
        for metric in cell.headline() {
            let row = (cell.backend.clone(), metric);
            if seen.insert(row.clone()) {
                rows.push(row);
            }
        }
    }
    // The rows of a metric stand together, backends in the order of the files.
    let mut metrics: Vec<&String> = Vec::new();
    rows.iter().for_each(|(_, metric)| {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    });
    let place = |row: &(String, String)| metrics.iter().position(|metric| **metric == row.1);
    let mut sorted = rows.clone();
    sorted.sort_by_key(place);
    let figure = |cells: &Vec<&Cell>, backend: &str, metric: &str| {
        let summary =
            cells.iter().find(|cell| cell.backend == backend).and_then(|cell| cell.summary(metric));
        summary.map_or(Datum::Absent, |found| Datum::figure(Some(found.median), &found.unit))
    };
    let row = |(backend, metric): &(String, String)| {
        let names = [Datum::text(metric), Datum::text(backend)];
        let figures = cells.iter().map(|cells| figure(cells, backend, metric));
        names.into_iter().chain(figures).collect()
    };
    let variant = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
    Table {
        title: format!("Workload {workload}{variant}"),
        caption: String::new(),
        header: ["metric", "backend"]
            .into_iter()
            .map(str::to_owned)
            .chain(runs.iter().map(|(letter, _)| letter.clone()))
            .collect(),
        rows: sorted.iter().map(row).collect(),
        is_narrow: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixture::synthetic;

    #[test]
    fn test_merged_report_keeps_clocks_apart_and_machines_side_by_side() {
        let (wall, mut other, lab) =
            (synthetic(Clock::Wall), synthetic(Clock::Wall), synthetic(Clock::Virtual));
        other.host.cpu_model = "Another CPU".to_owned();
        other.cells.retain(|cell| cell.workload == "start");
        let runs = [
            ("a.json".to_owned(), &wall),
            ("lab.json".to_owned(), &lab),
            ("b.json".to_owned(), &other),
        ];
        let text = render_merged_table(&runs);
        let (of_wall, of_lab) = text.split_once("Virtual time: the lab\n").unwrap();
        assert!(of_wall.contains("Another CPU") && !of_lab.contains("Another CPU"), "{text}");
        assert!(of_lab.contains("lab.json") && !of_wall.contains("lab.json"), "{text}");
        let header = of_wall.lines().find(|line| line.starts_with("metric")).unwrap();
        assert!(header.split_whitespace().eq(["metric", "backend", "A", "C"]), "{header}");
        insta::assert_snapshot!("merged", render_merged_markdown(&runs[..2]));
    }

    #[test]
    fn test_letters_end_and_numbers_begin() {
        assert_eq!(
            [letter(0), letter(25), letter(26), letter(300)],
            ["A", "Z", "run 27", "run 301"]
        );
    }
}
