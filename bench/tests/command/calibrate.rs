//! `tare calibrate`: each check is carried out for real, and what it says is what its figures are.

use std::process::Command;

use serde_json::Value;

use crate::common::{alone, may_run, output, tare, text};

fn has_programs() -> bool {
    ["hyperfine", "fio", "sysbench"]
        .iter()
        .all(|program| Command::new(program).arg("--version").output().is_ok())
}

fn calibrate(more: &[&str]) -> (Value, i32) {
    let shown = output(tare().args(["calibrate", "--json", "--quick", "--seed", "7"]).args(more));
    let code = shown.status.code().unwrap();
    let json = serde_json::from_slice(&shown.stdout);
    (json.unwrap_or_else(|error| panic!("{error}: {}", text(&shown))), code)
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn test_twenty_real_pairs_raise_no_more_alarms_than_promised_and_a_launch_costs_little() {
    let _guard = alone();
    let (report, code) = calibrate(&["--only", "aa,overhead"]);
    assert_eq!(check(&report, "aa")["outcome"], "passed", "{report}");
    // A loaded machine leaves the cost of a launch undecided; it does not make it ten times dearer.
    let overhead = check(&report, "overhead");
    assert_ne!(overhead["outcome"], "failed", "{report}");
    assert!([0, 4].contains(&code), "{code}: {report}");
}

#[test]
fn test_injected_delay_is_recovered_or_the_machine_called_too_noisy() {
    let _guard = alone();
    let (report, _) = calibrate(&["--only", "delay", "--budget-s", "10"]);
    let delay = check(&report, "delay");
    let figures = delay["figures"].as_array().unwrap();
    let value = |index: usize| figures[index]["value"]["value"].as_f64().unwrap();
    assert!(value(0) > 0.0, "{report}");
    match delay["outcome"].as_str().unwrap() {
        "passed" => assert!(value(1) > 0.0, "{report}"),
        "undecided" => assert!(delay["why"].as_str().unwrap().contains("--budget-s"), "{report}"),
        _ => panic!("{report}"),
    }
}

#[test]
fn test_programs_of_others_are_run_and_compared_with() {
    if !may_run("test_programs_of_others", "hyperfine, fio or sysbench", has_programs()) {
        return;
    }
    let _guard = alone();
    let (report, code) = calibrate(&["--only", "hyperfine,fio,sysbench", "--budget-s", "1"]);
    let outcomes: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes.len(), 1 + 3 + 1, "{report}");
    assert!(!outcomes.contains(&"skipped"), "{report}");
    assert_eq!(check(&report, "sysbench")["outcome"], "shown");
    assert_eq!(check(&report, "sysbench")["figures"].as_array().unwrap().len(), 4);
    // However noisy the machine: what is compared is of one kind.
    for check in
        report["checks"].as_array().unwrap().iter().filter(|check| check["name"] != "sysbench")
    {
        let ratio = check["figures"][0]["value"]["value"].as_f64().unwrap();
        assert!((0.2..5.0).contains(&ratio), "{check}");
    }
    let is_failed = outcomes.contains(&"failed");
    assert_eq!(code == 6, is_failed, "{code}: {report}");
}

#[test]
fn test_missing_program_is_a_check_that_was_skipped_with_its_remedy() {
    let _guard = alone();
    let mut command = tare();
    command.args(["calibrate", "--quick", "--only", "hyperfine"]).env("PATH", "/nonexistent");
    let shown = output(&mut command);
    assert_eq!(shown.status.code(), Some(4), "{}", text(&shown));
    for word in ["skipped", "apt-get install hyperfine"] {
        assert!(text(&shown).contains(word), "{}", text(&shown));
    }
}
