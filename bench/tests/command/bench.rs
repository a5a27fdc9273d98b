//! `tare bench`: a round in the lab, and what its figures say to a script.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::common::{among_labs, load_only, may_run, output, tare, text};
use crate::lab::has_lab;
use tare::results::{Clock, Results, Standing};

/// A ratio, a value, and one that is no launch.
const FIGURES: [&str; 3] = ["start-same-kernel", "restore", "capture"];
/// Those that depend on when the guest's first mark came.
const STARTS: &str = "start-same-kernel,restore";

#[test]
fn test_bench_measures_figures_in_the_lab_and_makes_them_anew_from_samples() {
    if !may_run("test_bench_measures_figures_in_the_lab", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = tare();
    command.args(["bench", "vmm", "--host", "lab", "--only", &FIGURES.join(",")]);
    let shown = output(command.arg("--out").arg(directory.path()));
    let results = load_only(directory.path());
    assert_eq!(shown.status.code(), Some(code_of(&results)), "{}", text(&shown));
    assert_eq!(results.clock, Clock::Virtual);
    let suite = results.suite.as_ref().unwrap();
    assert_eq!(suite.name, "vmm");
    let names: Vec<&str> = suite.figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names, FIGURES);
    for figure in &suite.figures {
        assert_eq!(figure.n, 3, "{figure:?}");
        assert_ne!(figure.standing, Standing::NotMeasured, "{figure:?}");
    }
    assert!(!results.floors.is_empty(), "floors are measured in the same round");
    let marks = results.cells.iter().filter(|cell| cell.workload == "probe");
    assert_eq!(marks.count(), 4, "and what a mark costs in each backend");

    let file = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|it| it == "json"));
    let document: Value = serde_json::from_slice(&fs::read(file.unwrap()).unwrap()).unwrap();
    // The guest's first mark came at once, or after a minute.
    for (init_ns, code) in [(1_u64, 0), (60_000_000_000, 6)] {
        let shown = anew(directory.path(), &moved(&document, init_ns));
        assert_eq!(shown.status.code(), Some(code), "{init_ns}: {}", text(&shown));
    }
    // Without QEMU there is nothing to compare with.
    let mut lonely = document.clone();
    for cell in lonely["cells"].as_array_mut().unwrap() {
        if cell["backend"] == "qemu" {
            cell["backend"] = "zemu".into();
        }
    }
    let shown = anew(directory.path(), &lonely);
    let stands =
        text(&shown).contains("start-same-kernel  3") && text(&shown).contains("no such cell");
    assert!(stands, "{}", text(&shown));
    assert!([4, 6].contains(&shown.status.code().unwrap()), "{}", text(&shown));
}

#[test]
fn test_bench_from_another_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("compare.json");
    Results { created: "2026-01-02T03:04:05Z".to_owned(), ..Results::default() }
        .save(&path)
        .unwrap();
    let shown = output(tare().args(["bench", "vmm", "--from"]).arg(&path));
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(text(&shown).contains("compare.json is no results file of `tare bench vmm`"));
}

/// What the figures of a results file say to a script.
fn code_of(results: &Results) -> i32 {
    let figures = &results.suite.as_ref().unwrap().figures;
    if figures.iter().any(|figure| figure.standing == Standing::Missed) { 6 } else { 0 }
}

/// The document as it were had every start of a microVM taken so long; its summaries are left to
/// the reader.
fn moved(document: &Value, init_ns: u64) -> Value {
    let mut document = document.clone();
    for cell in document["cells"].as_array_mut().unwrap() {
        let is_microvm = cell["backend"].as_str().unwrap().starts_with("microvm");
        if is_microvm && cell["workload"] == "start" {
            for sample in cell["samples"].as_array_mut().unwrap() {
                sample["edges_ns"] = serde_json::json!({ "launch": 0, "init": init_ns });
            }
        }
    }
    let mut results: Results = serde_json::from_value(document).unwrap();
    results.summarise();
    serde_json::to_value(&results).unwrap()
}

/// Makes the figures of a document anew.
fn anew(directory: &Path, document: &Value) -> Output {
    let path = directory.join("changed");
    fs::write(&path, document.to_string()).unwrap();
    output(tare().args(["bench", "vmm", "--only", STARTS, "--from"]).arg(&path))
}
