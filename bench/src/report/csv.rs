//! Every sample of one or more runs as comma-separated values (RFC 4180), for other tools.
//!
//! One row is one value of one metric of one instance; names of metrics end in their units. Spans
//! from `launch` and the phases between neighbouring edges are metrics too, as in the summaries.

use std::fmt::Write;

use crate::results::{Cell, Clock, Edge, Results, Sample, memory_metrics, span_name};

const HEADER: &str =
    "run,clock,machine,cell,backend,workload,variant,kind,block,instance,metric,index,value\r\n";

/// The rows of these runs, each with the name that it goes by.
pub fn render_csv(runs: &[(String, &Results)]) -> String {
    let mut text = HEADER.to_owned();
    for (name, results) in runs {
        let clock = match results.clock {
            Clock::Wall => "wall",
            Clock::Virtual => "virtual",
        };
        let run = [field(name), clock.to_owned(), field(&results.host.cpu_model)].join(",");
        for cell in &results.cells {
            cell_rows(&mut text, &run, cell);
        }
    }
    text
}

fn cell_rows(text: &mut String, run: &str, cell: &Cell) {
    let variant: Vec<String> =
        cell.variant.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let place = format!(
        "{run},{},{},{},{}",
        cell.id,
        field(&cell.backend),
        field(&cell.workload),
        field(&variant.join(";"))
    );
    for (kind, samples) in [("warmup", &cell.warmups), ("sample", &cell.samples)] {
        for (instance, sample) in samples.iter().enumerate() {
            for (metric, index, value) in values(sample) {
                let (block, metric) = (sample.block, field(&metric));
                let _ =
                    write!(text, "{place},{kind},{block},{instance},{metric},{index},{value}\r\n");
            }
        }
    }
}

/// Every value of a sample: its metric, its index within the instance, itself.
fn values(sample: &Sample) -> Vec<(String, usize, f64)> {
    let mut values = Vec::new();
    let edges: Vec<(Edge, u64)> =
        sample.edges_ns.iter().map(|(edge, at_ns)| (*edge, *at_ns)).collect();
    for (edge, at_ns) in edges.iter().skip(1) {
        values.push((span_name(Edge::Launch, *edge), 0, *at_ns as f64));
    }
    for pair in edges.windows(2).skip(1) {
        let span_ns = pair[1].1.saturating_sub(pair[0].1);
        values.push((span_name(pair[0].0, pair[1].0), 0, span_ns as f64));
    }
    values.extend(memory_metrics(sample).map(|(name, value)| (name.to_owned(), 0, value)));
    for metric in &sample.metrics {
        let each = metric.values.iter().enumerate();
        values.extend(each.map(|(index, value)| (metric.name.clone(), index, *value)));
    }
    values
}

/// Text as a field: quoted where it has to be. What a spreadsheet would take for a formula gets an
/// apostrophe first, for a results file is outside input.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::fixture::synthetic;
    use crate::results::series;

    /// The fields of a row that has no quotes.
    fn rows(text: &str) -> Vec<Vec<&str>> {
        text.split("\r\n")
            .filter(|row| !row.is_empty())
            .map(|row| row.split(',').collect())
            .collect()
    }

    #[test]
    fn test_csv_has_every_sample_of_every_metric() {
        let mut results = synthetic(Clock::Wall);
        results.host.cpu_model = "a CPU".to_owned();
        let text = render_csv(&[("run.json".to_owned(), &results)]);
        let rows = rows(&text);
        assert_eq!(rows[0].join(",") + "\r\n", HEADER);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
        for cell in &results.cells {
            for summary in &cell.summaries {
                let found: Vec<f64> = rows[1..]
                    .iter()
                    .filter(|row| row[3] == cell.id.to_string() && row[7] == "sample")
                    .filter(|row| row[10] == summary.metric)
                    .map(|row| row[12].parse().unwrap())
                    .collect();
                let reported = cell.samples.iter().flat_map(|sample| &sample.metrics);
                let own: Vec<f64> = reported
                    .filter(|metric| metric.name == summary.metric)
                    .flat_map(|metric| metric.values.clone())
                    .collect();
                let expected = if own.is_empty() { series(cell, &summary.metric) } else { own };
                assert_eq!(found, expected, "{} {}", cell.title(), summary.metric);
            }
        }
        assert!(rows.iter().any(|row| row[7] == "warmup"));
    }

    #[test]
    fn test_field_is_quoted_where_it_has_to_be() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(field("=1+1"), "'=1+1");
    }
}
