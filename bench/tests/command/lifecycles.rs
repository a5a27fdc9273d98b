//! Lifecycles on this host, and runs that choose their number of replicates themselves.

use std::path::Path;

use crate::common::{Traces, alone, is_root, load_only, may_run, output, tare, text};
use tare::results::{Cell, Edge, Results, Status, StopReason};

const LIFECYCLES: &str = "isolated:1,sustained:4,open:200,burst:5,grow:12,density:6";

fn run(out: &Path, more: &[&str]) -> Results {
    let mut command = tare();
    command.args(["compare", "--host", "local", "--on", "process,container", "--seed", "7"]);
    let shown = output(command.args(more).arg("--out").arg(out));
    assert!(shown.status.success(), "{}", text(&shown));
    load_only(out)
}

fn values<'a>(cell: &'a Cell, metric: &str) -> Vec<&'a [f64]> {
    let found = cell.samples.iter().map(|sample| {
        sample
            .metrics
            .iter()
            .find(|found| found.name == metric)
            .map(|found| found.values.as_slice())
    });
    found.map(|values| values.unwrap_or_else(|| panic!("{}: no {metric}", cell.title()))).collect()
}

#[test]
fn test_every_lifecycle_gives_its_figures_and_leaves_nothing() {
    if !may_run("test_every_lifecycle", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let before = Traces::of_this_host();
    let directory = tempfile::tempdir().unwrap();
    let results = run(directory.path(), &["--lifecycle", LIFECYCLES, "--replicates", "10"]);
    assert_eq!(results.cells.len(), 2 * 6);
    for cell in &results.cells {
        assert_eq!((&cell.status, cell.failures.len()), (&Status::Ok, 0), "{}", cell.title());
        let lifecycle = cell.variant["lifecycle"].as_str();
        let name = lifecycle.split(':').next().unwrap();
        assert!(cell.state.iter().any(|line| line.contains(name)), "{:?}", cell.state);
        let counts = |metric: &str, count: usize| {
            assert!(values(cell, metric).iter().all(|values| values.len() == count), "{metric}");
        };
        match name {
            "isolated" => assert_eq!(cell.samples.len(), 10),
            "sustained" => assert_eq!(cell.samples.len(), 4 * 6),
            "open" => {
                counts("latency_ns", 40);
                counts("live_count", 40);
                for (latency, delay) in
                    values(cell, "latency_ns").iter().zip(values(cell, "delay_ns"))
                {
                    // Who is launched late has waited for that as well.
                    assert!(latency.iter().zip(delay).all(|(latency, delay)| latency > delay));
                }
            }
            "burst" => {
                counts("latency_ns", 5);
                for (latency, whole) in
                    values(cell, "latency_ns").iter().zip(values(cell, "whole_ns"))
                {
                    assert_eq!(latency.iter().copied().fold(0.0, f64::max), whole[0]);
                }
            }
            "grow" => {
                for metric in ["start_at_1_ns", "start_at_10_ns", "start_at_12_ns"] {
                    counts(metric, 1);
                }
                for metric in ["start_ns", "end_ns", "teardown_ns"] {
                    counts(metric, 12);
                }
            }
            "density" => {
                assert!(values(cell, "boxes_count").iter().all(|count| *count == [6.0]));
                let limits = cell.samples.iter().map(|sample| sample.limit.as_ref().unwrap());
                assert!(limits.into_iter().all(|limit| limit.cause == "asked"));
            }
            _ => panic!("{lifecycle}"),
        }
        let is_launch = ["isolated", "sustained"].contains(&name);
        let has_edges = |sample: &tare::results::Sample| sample.edges_ns.contains_key(&Edge::Clean);
        assert!(cell.samples.iter().all(|sample| has_edges(sample) == is_launch));
    }
    before.assert_nothing_new();
}

#[test]
fn test_density_stops_before_the_host_s_limit_and_names_it() {
    if !may_run("test_density_stops", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().display();
    let script = format!(
        "ulimit -n 110; exec {} compare --host local --on process --lifecycle density --replicates 1 --warmups 0 \
         --out {out}",
        assert_cmd::cargo::cargo_bin!("tare").display()
    );
    let shown = output(std::process::Command::new("sh").args(["-c", &script]));
    assert!(shown.status.success(), "{}", text(&shown));
    let results = load_only(directory.path());
    for sample in &results.cells[0].samples {
        let limit = sample.limit.as_ref().unwrap();
        assert!(limit.cause == "descriptors" && limit.why.contains("110"), "{limit:?}");
    }
    let counts = values(&results.cells[0], "boxes_count");
    assert!(counts.iter().all(|count| (5.0..50.0).contains(&count[0])), "{counts:?}");
}

#[test]
fn test_run_ends_when_it_is_precise_enough_or_its_time_is_over() {
    if !may_run("test_run_ends_when_it_is_precise_enough", "root", is_root()) {
        return;
    }
    let _guard = alone();
    for (percent, budget, reason) in
        [("1000", "60", StopReason::Precision), ("0", "1", StopReason::Budget)]
    {
        let directory = tempfile::tempdir().unwrap();
        let rule = ["--workload", "start", "--precision-percent", percent, "--budget-s", budget];
        let results = run(directory.path(), &rule);
        let stop = results.schedule.stop.unwrap();
        assert_eq!(stop.reason, reason);
        for cell in &results.cells {
            assert!(reason == StopReason::Budget || cell.samples.len() == 10, "{}", cell.title());
        }
    }
}
