//! What the samples say of themselves: whether they drift, and where they vary.

use super::digest::metric_title;
use super::format::{self, Unit};
use super::table::{Datum, Table};
use crate::results::{Cell, Results, series};
use crate::statistics::{drift, holm, median, variation};

/// A trend is told where chance explains it with less than this, over all series together …
const DRIFT_LEVEL: f64 = 0.01;
/// … and it moves the series by at least this share of its median.
const DRIFT_LEAST: f64 = 0.02;

/// A warning for the series that drift.
pub(super) fn warnings(results: &Results) -> Option<String> {
    let mut drifts = Vec::new();
    for cell in &results.cells {
        for metric in cell.headline() {
            let values = series(cell, &metric);
            let middle = median(&values).filter(|value| *value != 0.0);
            if let (Some(found), Some(middle)) = (drift(&values), middle) {
                let name = format!("{}, {}", cell.title(), metric_title(&metric));
                drifts.push((name, found.p, found.change / middle.abs()));
            }
        }
    }
    let adjusted = holm(&drifts.iter().map(|(_, p, _)| *p).collect::<Vec<_>>());
    let found: Vec<String> = drifts
        .iter()
        .zip(adjusted)
        .filter(|((_, _, share), p)| *p <= DRIFT_LEVEL && share.abs() >= DRIFT_LEAST)
        .map(|((name, _, share), _)| format!("{name} {:+.0} %", 100.0 * share))
        .collect();
    (!found.is_empty()).then(|| {
        format!(
            "Figures drift over the run, by the Mann–Kendall test at 1 % over {} series: {}. The machine changed \
             meanwhile; multiples, measured in the same blocks, suffer less than medians. Run again when it is idle.",
            drifts.len(),
            found.join("; ")
        )
    })
}

/// How metrics of which each instance takes several values vary; `None` where there are none.
pub(super) fn variations(results: &Results) -> Option<Table> {
    let rows: Vec<Vec<Datum>> = results.cells.iter().flat_map(cell_rows).collect();
    (!rows.is_empty()).then(|| Table {
        title: "Variation within and between instances".to_owned(),
        caption: "Standard deviations: of values within one instance, and of what instances have beyond that. Where \
                  the second prevails, more values in an instance would not have made the median surer."
            .to_owned(),
        header: ["cell", "metric", "instances", "values in each", "within", "between"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        is_narrow: false,
    })
}

fn cell_rows(cell: &Cell) -> Vec<Vec<Datum>> {
    let mut rows = Vec::new();
    for metric in cell.headline() {
        let reported = cell.samples.iter().flat_map(|sample| &sample.metrics);
        let found: Vec<_> = reported.filter(|reported| reported.name == metric).collect();
        let values: Vec<&[f64]> = found.iter().map(|metric| metric.values.as_slice()).collect();
        let (Some(variation), Some(first)) = (variation(&values), found.first()) else { continue };
        let each = values.iter().map(|values| values.len()).max().unwrap_or(0);
        let middle = median(&series(cell, &metric)).unwrap_or(0.0).abs();
        let shown = |deviation: f64| {
            let value = format::value(deviation, Unit::parse(&first.unit));
            match middle > 0.0 {
                true => Datum::Text(format!("{value} ({:.1} %)", 100.0 * deviation / middle)),
                false => Datum::Text(value),
            }
        };
        rows.push(vec![
            Datum::text(cell.title()),
            Datum::text(metric_title(&metric)),
            Datum::Count(values.len()),
            Datum::Count(each),
            shown(variation.within),
            shown(variation.between),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixture::synthetic;
    use crate::results::{Clock, Edge};

    #[test]
    fn test_drift_is_warned_of_where_there_is_one() {
        let mut results = synthetic(Clock::Wall);
        assert_eq!(warnings(&results), None);
        let cell = &mut results.cells[0];
        let pattern = cell.samples[0].clone();
        cell.samples = (0..40)
            .map(|index| {
                let mut sample = pattern.clone();
                sample.edges_ns = [(Edge::Launch, 0), (Edge::Init, 1000 + 5 * index)].into();
                sample
            })
            .collect();
        let warning = warnings(&results).unwrap();
        assert!(warning.contains("process start, launch_to_init +18 %"), "{warning}");
        assert!(!warning.contains("container"), "{warning}");
    }

    #[test]
    fn test_variation_has_a_row_for_each_metric_of_several_values() {
        let table = variations(&synthetic(Clock::Wall)).unwrap();
        assert!(table.rows.iter().any(|row| row[1] == Datum::text("latency")));
        assert!(table.rows.iter().all(|row| row[3] == Datum::Count(3)));
    }
}
