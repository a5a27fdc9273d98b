//! Foreign runtimes on this host, and what becomes of those that misbehave; boxes on a bridge.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Traces, alone, is_root, load_only, may_run, output, tare, text};
use tare::results::{Cell, Results, Status};

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn compare(out: &Path) -> Command {
    let mut command = tare();
    command.args(["compare", "--host", "local", "--replicates", "1", "--warmups", "0", "--out"]);
    command.arg(out);
    command
}

fn cell<'a>(results: &'a Results, backend: &str, key: &str, value: &str) -> &'a Cell {
    let is_meant = |cell: &&Cell| {
        cell.backend == backend && (cell.variant.get(key).is_some_and(|found| found == value))
    };
    results.cells.iter().find(is_meant).unwrap()
}

#[test]
fn test_foreign_runtimes_start_the_agent_and_leave_nothing() {
    let all = is_root() && ["crun", "runc", "bwrap"].into_iter().all(is_installed);
    if !may_run("test_foreign_runtimes_start_the_agent", "root, or crun, runc and bwrap", all) {
        return;
    }
    let _guard = alone();
    let traces = Traces::of_this_host();
    let directory = tempfile::tempdir().unwrap();
    let mut command = compare(directory.path());
    command.args(["--on", "container,crun,crun:nocgroup,runc,bwrap", "--workload", "start"]);
    let shown = output(command.args(["--network", "loopback"]));
    assert!(shown.status.success(), "{}", text(&shown));
    for cell in load_only(directory.path()).cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
    }
    traces.assert_nothing_new();
}

#[test]
fn test_runtime_that_hangs_crashes_or_talks_rubbish_is_a_failure_with_its_words() {
    if !may_run("test_runtime_that_hangs_crashes_or_talks_rubbish", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let traces = Traces::of_this_host();
    for (behaviour, why) in [
        ("sleep 1000 & exec sleep 1000", "no end after 1 s"),
        ("kill -SEGV $$", "exit code 139"),
        ("echo it will not do >&2; exit 9", "it will not do"),
        ("head -c 100000 /dev/urandom >&3", "the box"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("crun");
        let script =
            format!("#!/bin/sh\ncase \"$*\" in *version*) echo fake 1.0;; *) {behaviour};; esac\n");
        fs::write(&runtime, script).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let out = directory.path().join("out");
        let mut command = compare(&out);
        command.args(["--on", "crun", "--workload", "probe", "--timeout-s", "1"]);
        let shown = output(command.env("TARE_CRUN", &runtime));
        assert_eq!(shown.status.code(), Some(4), "{behaviour}: {}", text(&shown));
        let results = load_only(&out);
        let failures = &results.cells[0].failures;
        // Given up after the third.
        assert_eq!(failures.len(), 3, "{behaviour}: {failures:?}");
        assert!(failures.iter().all(|it| it.why.contains(why)), "{behaviour}: {failures:?}");
    }
    traces.assert_nothing_new();
}

#[test]
fn test_container_talks_with_the_host_over_a_bridge_that_is_gone_then() {
    if !may_run("test_container_talks_with_the_host_over_a_bridge", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let interfaces = || fs::read_dir("/sys/class/net").unwrap().count();
    let before = interfaces();
    let directory = tempfile::tempdir().unwrap();
    let mut command = compare(directory.path());
    let shown = output(command.args(["--on", "container", "--workload", "roundtrip"]));
    // A container has no virtual socket.
    assert_eq!(shown.status.code(), Some(4), "{}", text(&shown));
    let results = load_only(directory.path());
    let net = cell(&results, "container", "transport", "net");
    assert_eq!((&net.status, net.failures.len()), (&Status::Ok, 0), "{:?}", net.failures);
    assert!(net.state.iter().any(|line| line.contains("on a bridge")), "{:?}", net.state);
    assert_eq!(interfaces(), before, "an interface was left");
}
