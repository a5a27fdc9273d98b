//! Files: good ones come back as they were, bad ones are refused for the right reason.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fixture::synthetic;
use super::{Clock, Edge, Error, FILE_MAX_BYTES, Inconsistency, Results, Sample};

fn load(text: &[u8]) -> Result<Results, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Results::load(file.path())
}

fn text() -> String {
    synthetic(Clock::Wall).to_json(Path::new("x")).unwrap()
}

/// The synthetic file with one change.
fn changed(change: impl FnOnce(&mut Value)) -> Error {
    let mut value: Value = serde_json::from_str(&text()).unwrap();
    change(&mut value);
    load(value.to_string().as_bytes()).unwrap_err()
}

fn inconsistency(change: impl FnOnce(&mut Results)) -> Inconsistency {
    let mut results = synthetic(Clock::Wall);
    change(&mut results);
    results.check().unwrap_err()
}

fn move_edge(sample: &mut Sample, edge: Edge, at_ns: u64) {
    sample.edges_ns.insert(edge, at_ns);
}

#[test]
fn test_saved_results_load_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.json");
    let results = synthetic(Clock::Virtual);
    results.save(&path).unwrap();
    let loaded = Results::load(&path).unwrap();
    // Not assert_eq: nobody wants to read a difference of these lengths.
    assert!(loaded == results, "a loaded document differs from the one that was saved");
    assert!(
        loaded.to_json(&path).unwrap() == fs::read_to_string(&path).unwrap(),
        "its text differs"
    );
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "a temporary file was left behind"
    );
}

#[test]
fn test_save_of_inconsistent_results_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.json");
    let mut results = synthetic(Clock::Wall);
    results.cells[0].samples.pop();
    assert!(matches!(results.save(&path), Err(Error::Inconsistent { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn test_save_into_missing_directory_names_the_file() {
    let error = synthetic(Clock::Wall).save(Path::new("/nonexistent/results.json")).unwrap_err();
    assert!(error.to_string().contains("cannot write /nonexistent/results.json"), "{error}");
}

#[test]
fn test_load_missing_file_returns_io() {
    let error = Results::load(Path::new("/nonexistent.json")).unwrap_err();
    assert!(error.to_string().contains("cannot read /nonexistent.json"), "{error}");
}

#[test]
fn test_load_file_cut_short_anywhere_returns_cut_short() {
    let text = text();
    for end in [0, 1, 30, text.len() / 3, text.len() / 2, text.len() - 3] {
        let error = load(&text.as_bytes()[..end]).unwrap_err();
        assert!(matches!(error, Error::CutShort { .. }), "{end}: {error}");
        assert!(error.to_string().contains("line"), "{error}");
    }
}

#[test]
fn test_load_something_else_returns_not_json() {
    for text in ["<!DOCTYPE html>", "# tare", "{\"schema\": tare}", "\u{0}\u{1}"] {
        let error = load(text.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::NotJson { .. }), "{text}: {error}");
    }
}

#[test]
fn test_load_other_json_returns_other_schema() {
    for text in
        ["{}", "[]", "7", "{\"schema\": \"hyperfine\", \"schema_version\": 1}", "{\"schema\": 1}"]
    {
        let error = load(text.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::OtherSchema { .. }), "{text}: {error}");
    }
}

#[test]
fn test_load_other_version_returns_other_version() {
    for version in [0.into(), 2.into(), "1".into(), Value::Null] {
        let error = changed(|value| value["schema_version"] = version);
        assert!(matches!(error, Error::OtherVersion { .. }), "{error}");
        assert!(error.to_string().contains("this tare reads version 1"), "{error}");
    }
}

#[test]
fn test_load_wrong_field_returns_malformed_with_its_place() {
    let text = text().replacen("\"seed\": 7", "\"seed\": -7", 1);
    let error = load(text.as_bytes()).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }));
    assert!(error.to_string().contains("line") && error.to_string().contains("-7"), "{error}");
    let error = changed(|value| drop(value.as_object_mut().unwrap().remove("cells")));
    assert!(error.to_string().contains("missing field `cells`"), "{error}");
}

#[test]
fn test_load_number_out_of_range_is_refused() {
    let text = text().replacen("\"prepare_ns\": 3200000", "\"prepare_ns\": 1e999", 1);
    assert!(load(text.as_bytes()).is_err());
}

#[test]
fn test_load_too_large_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(FILE_MAX_BYTES + 1).unwrap();
    assert!(matches!(Results::load(file.path()), Err(Error::TooLarge { .. })));
}

#[test]
fn test_load_edited_summary_returns_inconsistent_naming_the_cell() {
    let error = changed(|value| value["cells"][0]["summaries"][0]["median"]["value"] = 1.into());
    let message = error.to_string();
    assert!(
        message.contains("cell 0 (process start)") && message.contains("launch_to_init_ns"),
        "{message}"
    );
}

#[test]
fn test_load_edited_sample_returns_inconsistent() {
    let error = changed(|value| value["cells"][0]["samples"][0]["edges_ns"]["init"] = 1.into());
    assert!(matches!(error, Error::Inconsistent { .. }), "{error}");
}

#[test]
fn test_load_ignores_fields_of_the_same_version_that_it_does_not_know() {
    let mut value: Value = serde_json::from_str(&text()).unwrap();
    value["novelty"] = true.into();
    load(value.to_string().as_bytes()).unwrap();
}

#[test]
fn test_check_finds_each_inconsistency() {
    assert!(matches!(
        inconsistency(|results| results.order.push(99)),
        Inconsistency::OrderIndex { index: 99, .. }
    ));
    assert!(matches!(
        inconsistency(|results| results.order.push(0)),
        Inconsistency::OrderCount { cell: 0, .. }
    ));
    assert!(matches!(
        inconsistency(|results| results.cells[1].id = 0),
        Inconsistency::CellId { index: 1, id: 0 }
    ));
    assert!(matches!(
        inconsistency(
            |results| results.cells[0].status = super::Status::Failed { why: String::new() }
        ),
        Inconsistency::Status { cell: 0, .. }
    ));
    assert!(matches!(
        inconsistency(|results| drop(results.cells[0].summaries.pop())),
        Inconsistency::Summary { cell: 0, .. }
    ));
    assert!(matches!(
        inconsistency(|results| move_edge(&mut results.cells[0].samples[0], Edge::Launch, 5)),
        Inconsistency::Edges { edge: "launch", .. }
    ));
    assert!(matches!(
        inconsistency(|results| move_edge(&mut results.cells[0].warmups[0], Edge::Exit, 1)),
        Inconsistency::Edges { list: "warmups", edge: "exit", .. }
    ));
    assert!(matches!(
        inconsistency(|results| results.cells[2].samples[3].metrics[0].values[0] = f64::NAN),
        Inconsistency::NotFinite { cell: 2, sample: 3, .. }
    ));
}

#[test]
fn test_interrupted_run_may_lack_the_outcome_of_its_last_launch() {
    let mut results = synthetic(Clock::Wall);
    results.order.push(0);
    results.interrupted = true;
    results.check().unwrap();
    results.order.push(0);
    assert!(results.check().is_err());
}

#[test]
fn test_values_at_the_ends_of_all_numbers_are_saved_and_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.json");
    let mut results = synthetic(Clock::Wall);
    for cell in &mut results.cells {
        for (index, sample) in cell.samples.iter_mut().enumerate() {
            let extreme = [f64::MAX, -f64::MAX, f64::MIN_POSITIVE, 5e-324][index % 4];
            sample.metrics.iter_mut().for_each(|metric| metric.values = vec![extreme, f64::MAX]);
            if let Some(memory) = &mut sample.memory {
                memory.pss_bytes = u64::MAX;
                memory.guest_ram_touched_bytes = Some(u64::MAX);
            }
        }
    }
    results.summarise();
    results.claims = crate::claims::judge(&results);
    results.save(&path).unwrap();
    let loaded = Results::load(&path).unwrap();
    assert!(loaded == results, "extreme values do not survive");
    crate::report::render_html(&loaded).unwrap();
    crate::report::render_table(&loaded);
}
