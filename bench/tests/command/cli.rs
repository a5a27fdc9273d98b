//! The command line: help, exit codes, and what it says to bad input. Needs no privilege.

use std::fs;

use crate::common::{output, tare, text};
use predicates::prelude::*;

#[test]
fn test_help_names_every_command_and_its_exit_codes() {
    let shown = output(tare().arg("--help"));
    assert!(shown.status.success(), "{}", text(&shown));
    let help = String::from_utf8(shown.stdout).unwrap();
    for word in [
        "doctor",
        "compare",
        "compare-results",
        "bench",
        "calibrate",
        "launch",
        "report",
        "lab",
        "kernel",
        "snapshot",
        "completions",
        "Exit codes",
    ] {
        assert!(help.contains(word), "'{word}' is missing in:\n{help}");
    }
}

#[test]
fn test_every_command_s_help_has_an_example() {
    for command in [
        "doctor",
        "compare",
        "compare-results",
        "bench",
        "launch",
        "report",
        "lab",
        "snapshot",
        "completions",
    ] {
        let shown = output(tare().args([command, "--help"]));
        let help = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(help.contains("Example"), "{command}:\n{help}");
    }
}

#[test]
fn test_unknown_backend_is_a_usage_error() {
    let shown = output(tare().args(["compare", "--on", "zone"]));
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
    assert!(text(&shown).contains("container"), "the known ones are listed: {}", text(&shown));
}

#[test]
fn test_completions_are_printed_for_bash_and_zsh() {
    for shell in ["bash", "zsh", "fish"] {
        let shown = output(tare().args(["completions", shell]));
        assert!(predicate::str::contains("compare").eval(&String::from_utf8_lossy(&shown.stdout)));
    }
}

#[test]
fn test_doctor_json_is_json_and_lists_checks_and_backends() {
    let shown = output(tare().args(["doctor", "--json"]));
    assert!(shown.status.success(), "{}", text(&shown));
    let json: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(json["checks"].as_array().unwrap().len() >= 15, "{json}");
    let names: Vec<_> = json["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| backend["name"].as_str().unwrap())
        .collect();
    let all = [
        "process",
        "container",
        "namespaces",
        "crun",
        "crun:nocgroup",
        "runc",
        "bwrap",
        "microvm",
        "microvm:pooled",
        "microvm:snapshot",
        "microvm:clone",
        "qemu",
        "images",
        "umoci",
    ];
    assert_eq!(names, all);
}

#[test]
fn test_bench_ls_lists_every_figure_with_its_limits() {
    let shown = output(tare().args(["bench", "ls"]));
    assert!(shown.status.success(), "{}", text(&shown));
    let is_limit =
        |line: &str| line.split_whitespace().take(4).eq(["start-same-kernel", "≤", "0.300", "×"]);
    assert!(text(&shown).lines().any(is_limit), "{}", text(&shown));
    let shown = output(tare().args(["bench", "ls", "--json"]));
    let json: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let figures = json[0]["figures"].as_array().unwrap();
    assert!(figures.iter().all(|figure| figure["must"].is_number()), "{json}");
    assert_eq!(json[0]["name"], "vmm");
}

#[test]
fn test_bench_of_unknown_names_is_a_usage_error() {
    for arguments in [["bench", "all", "--only", "restore"], ["bench", "vmm", "--only", "speed"]] {
        let shown = output(tare().args(arguments));
        assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
        assert!(text(&shown).contains("[possible values: "), "{}", text(&shown));
    }
}

#[test]
fn test_report_of_bad_files_says_what_and_where() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("missing.json", None, "missing.json"),
        ("cut.json", Some("{\"schema\": \"tare-results\", \"schema_ver"), "cut"),
        ("other.json", Some("{\"schema\": \"something\", \"schema_version\": 1}"), "something"),
        ("newer.json", Some("{\"schema\": \"tare-results\", \"schema_version\": 99}"), "99"),
        ("text.json", Some("hello"), "JSON"),
    ];
    for (name, contents, word) in cases {
        let path = directory.path().join(name);
        if let Some(contents) = contents {
            fs::write(&path, contents).unwrap();
        }
        let shown = output(tare().arg("report").arg(&path));
        assert_eq!(shown.status.code(), Some(1), "{name}: {}", text(&shown));
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(said.contains(name) && said.contains(word), "{name}: {said}");
    }
}

#[test]
fn test_launch_without_a_command_is_a_usage_error() {
    let shown = output(tare().arg("launch"));
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
}

#[test]
fn test_compare_into_a_directory_that_cannot_be_made_fails_before_measuring() {
    let shown = output(tare().args(["compare", "--host", "local", "--out", "/proc/none/results"]));
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(text(&shown).contains("/proc/none/results"), "{}", text(&shown));
}

#[test]
fn test_snapshot_of_what_is_none_says_so_and_every_one_has_an_example() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["create", "ls", "inspect", "verify", "restore", "rebase", "rm"] {
        let help = output(tare().args(["snapshot", command, "--help"]));
        assert!(text(&help).contains("Example"), "{}", text(&help));
    }
    for command in ["inspect", "verify", "rm"] {
        let shown = output(tare().args(["snapshot", command]).arg(directory.path()));
        assert_eq!(shown.status.code(), Some(1), "{command}: {}", text(&shown));
        let name = directory.path().display().to_string();
        assert!(text(&shown).contains(&name), "{command}: {}", text(&shown));
    }
    assert!(directory.path().exists());
    let shown = output(tare().args(["snapshot", "ls", "--json"]).arg(directory.path()));
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "[]\n");
}
