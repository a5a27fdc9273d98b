//! Results files: saved whatever happens, compared, exported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tare::results::{Cell, Clock, Edge, Results, Sample, Status};

use crate::common::{alone, is_root, may_run, output, tare, text};

/// A run whose starts take these times, saved.
fn saved(directory: &Path, name: &str, clock: Clock, starts_ns: &[u64]) -> PathBuf {
    let sample = |at_ns: &u64| Sample {
        edges_ns: [(Edge::Launch, 0), (Edge::Init, *at_ns), (Edge::Exit, 2 * at_ns)].into(),
        ..Sample::default()
    };
    let cell = Cell {
        backend: "process".to_owned(),
        workload: "start".to_owned(),
        status: Status::Ok,
        samples: starts_ns.iter().map(sample).collect(),
        ..Cell::default()
    };
    let mut results = Results {
        clock,
        created: "2026-01-02T03:04:05Z".to_owned(),
        order: vec![0; starts_ns.len()],
        cells: vec![cell],
        ..Results::default()
    };
    results.summarise();
    let path = directory.join(name);
    results.save(&path).unwrap();
    path
}

#[test]
fn test_compare_results_says_what_changed_and_its_exit_code_says_it_to_ci() {
    let directory = tempfile::tempdir().unwrap();
    let save = |name: &str, clock: Clock, starts_ns: &[u64]| {
        saved(directory.path(), name, clock, starts_ns)
    };
    let times = |base: u64| -> Vec<u64> { (0..20).map(|index| base + index * 7 % 11).collect() };
    let old = save("old.json", Clock::Wall, &times(1000));
    let slow = save("slow.json", Clock::Wall, &times(1200));
    let few = save("few.json", Clock::Wall, &times(1200)[..3]);
    let lab = save("lab.json", Clock::Virtual, &times(1000));
    let compare = |old: &Path, new: &Path, more: &[&str]| {
        output(tare().arg("compare-results").args(more).args([old, new]))
    };
    for (old, new, code, word) in [
        (&old, &old, 0, "No regression found"),
        (&slow, &old, 0, "faster"),
        (&old, &slow, 6, "slower"),
        (&old, &few, 4, "undecided"),
        (&old, &lab, 1, "lab"),
    ] {
        let shown = compare(old, new, &[]);
        assert_eq!(shown.status.code(), Some(code), "{}", text(&shown));
        assert!(text(&shown).contains(word), "{word}: {}", text(&shown));
    }
    let shown = compare(&old, &slow, &["--json", "--metric", "launch_to_init_ns"]);
    let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let metrics = json["metrics"].as_array().unwrap();
    assert_eq!((metrics.len(), &metrics[0]["finding"]), (1, &Value::from("worse")));
    assert!((metrics[0]["cost"]["value"].as_f64().unwrap() - 1.2).abs() < 0.01, "{json}");
    let shown = compare(&old, &slow, &["--threshold-percent", "50", "--markdown"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    assert!(text(&shown).contains("# No regression found"), "{}", text(&shown));
    let shown = compare(&old, &slow, &["--threshold-percent", "-1"]);
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
}

#[test]
fn test_report_exports_every_sample_and_merges_runs_but_not_clocks() {
    let directory = tempfile::tempdir().unwrap();
    let wall = saved(directory.path(), "wall.json", Clock::Wall, &[10, 11, 12]);
    let lab = saved(directory.path(), "lab.json", Clock::Virtual, &[20, 21, 22]);
    let report =
        |format: &str| output(tare().args(["report", "--format", format]).args([&wall, &lab]));
    let csv = report("csv");
    let rows = String::from_utf8(csv.stdout).unwrap();
    // A header, and of each sample launch to init and to exit, and init to exit.
    assert_eq!(rows.lines().count(), 1 + 2 * 3 * 3, "{rows}");
    assert!(rows.contains(",virtual,") && rows.contains(",launch_to_exit_ns,0,44\r\n"), "{rows}");
    let table = String::from_utf8(report("table").stdout).unwrap();
    let (of_wall, of_lab) = table.split_once("Virtual time: the lab\n").unwrap();
    assert!(of_wall.contains("11.0 ns") && !of_wall.contains("21.0 ns"), "{table}");
    assert!(of_lab.contains("21.0 ns") && !of_lab.contains("11.0 ns"), "{table}");
    let shown = report("html");
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
}

const RUN: &str = "compare --host local --on process --workload start --replicates 200 --seed 7";

#[test]
fn test_results_that_do_not_fit_are_saved_elsewhere_and_the_run_says_where() {
    if !may_run("test_results_that_do_not_fit", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let (full, temporary) = (directory.path().join("full"), directory.path().join("tmp"));
    fs::create_dir(&full).unwrap();
    fs::create_dir(&temporary).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k tmpfs {full} && {tare} {RUN} --out {full}; code=$?; ls -A {full}; exit $code",
        full = full.display(),
        tare = assert_cmd::cargo::cargo_bin!("tare").display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).env("TMPDIR", &temporary);
    let shown = output(&mut command);
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(text(&shown).contains("No space left on device"), "{}", text(&shown));
    let results = crate::common::load_only(&temporary);
    assert_eq!(results.cells[0].samples.len(), 200);
    let name = fs::read_dir(&temporary).unwrap().next().unwrap().unwrap().file_name();
    let said = format!("saved as {}", temporary.join(&name).display());
    assert!(text(&shown).contains(&said), "{}", text(&shown));
    // The full file system holds no half of a file.
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("\n.tare-"), "{}", text(&shown));
}

#[test]
fn test_directory_that_takes_no_files_is_refused_before_anything_is_measured() {
    if !may_run("test_directory_that_takes_no_files", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let tare = assert_cmd::cargo::cargo_bin!("tare").display();
    let script = format!("mount -t tmpfs -o ro tmpfs {place} && exec {tare} {RUN} --out {place}");
    let shown = output(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    for word in ["Read-only file system", "--out"] {
        assert!(text(&shown).contains(word), "{}", text(&shown));
    }
    assert!(shown.stdout.is_empty(), "{}", text(&shown));
}
