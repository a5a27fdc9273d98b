//! The table under the output of `tare launch`.

use crate::results::{Edge, Sample};

/// Phases of a start-up, peak memory and exit code, a row for each box.
///
/// *Command peak* is what the command itself had resident, by the agent's word; *host peak* is the
/// box's first host process, where its own peak is known: for a microVM the VMM with the RAM that
/// the guest touched.
pub(super) fn phases<'a>(
    outcomes: impl Iterator<Item = (&'static str, Result<&'a Sample, &'a String>)>,
) -> String {
    const EDGES: [Edge; 5] = [Edge::Enter, Edge::Init, Edge::Ready, Edge::Done, Edge::Exit];
    let mut text = format!("{:<10}", "from launch");
    for edge in EDGES {
        text += &format!("{:>12}", edge.name());
    }
    text += &format!("{:>14}{:>14}{:>6}\n", "command peak", "host peak", "exit");
    for (backend, outcome) in outcomes {
        text += &format!("{backend:<11}");
        match outcome {
            Ok(sample) => {
                for edge in EDGES {
                    let cell = sample
                        .edges_ns
                        .get(&edge)
                        .map_or_else(|| "-".to_owned(), |ns| duration(*ns));
                    text += &format!("{cell:>12}");
                }
                let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), mebibytes);
                let (command, host) = (size(command_peak(sample)), size(sample.peak_rss_bytes));
                text += &format!("{command:>14}{host:>14}{:>6}\n", sample.exit_code);
            }
            Err(why) => text += &format!("  failed: {why}\n"),
        }
    }
    text
}

fn command_peak(sample: &Sample) -> Option<u64> {
    let metric = sample.metrics.iter().find(|metric| metric.name == "command_resident_bytes")?;
    Some(*metric.values.first()? as u64)
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_phases_shows_absent_edges_failures_and_exit_codes() {
        let mut sample =
            Sample { exit_code: 7, peak_rss_bytes: Some(3 << 19), ..Sample::default() };
        sample.edges_ns.insert(Edge::Init, 345_678);
        sample.edges_ns.insert(Edge::Exit, 12_345_678);
        let why = "no such command".to_owned();
        let table = phases([("process", Ok(&sample)), ("container", Err(&why))].into_iter());
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[1].contains("345.7 µs") && lines[1].contains("12.35 ms"), "{table}");
        assert!(lines[1].contains("1.5 MiB") && lines[1].ends_with('7'), "{table}");
        assert!(lines[2].contains("failed: no such command"), "{table}");
    }
}
