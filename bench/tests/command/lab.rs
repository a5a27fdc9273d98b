//! The lab: real Linux guests on an emulated host.
//!
//! Guests run in the deterministic flavour, which does the same each time: what passes once passes
//! always, and what fails can be looked at. The functional one serves what boots no guest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Traces, alone, among_labs, load_only, may_run, output, tare, text};
use tare::results::{Clock, Results, Status};

pub(crate) fn has_lab() -> bool {
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    qemu.is_ok_and(|output| output.status.success())
}

pub(crate) fn lab(flavour: &str, out: &Path) -> Command {
    let mut command = tare();
    command.args(["lab", "--flavour", flavour, "--lab-timeout-s", "600", "--out"]).arg(out);
    command
}

/// What a comparison in the lab left under its `results/`, brought back out.
fn results_of(directory: &Path) -> Results {
    load_only(&directory.join("results"))
}

#[test]
fn test_launch_runs_one_command_in_all_three_boxes() {
    if !may_run("test_launch_runs_one_command_in_all_three_boxes", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let script = "echo pid $$; cat /etc/passwd | head -n 1; echo problem >&2; exit 3";
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "launch", "--on", "process,container,microvm", "--", "sh", "-c", script]);
    let shown = output(&mut command);
    assert_eq!(shown.status.code(), Some(3), "{}", text(&shown));
    let (out, err) =
        (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    for backend in ["process", "container", "microvm"] {
        assert!(out.contains(&format!("{backend} | pid ")), "{}", text(&shown));
        assert!(out.contains(&format!("{backend} | root:")), "{}", text(&shown));
        assert!(err.contains(&format!("{backend} | problem")), "{}", text(&shown));
    }
}

#[test]
fn test_command_missing_in_the_microvm_is_said_and_the_lab_ends() {
    if !may_run("test_command_missing_in_the_microvm", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "launch", "--on", "microvm", "--", "/no/such"]);
    let shown = output(&mut command);
    assert_eq!(shown.status.code(), Some(4), "{}", text(&shown));
    assert!(text(&shown).contains("/no/such"), "{}", text(&shown));
}

#[test]
fn test_two_rounds_give_identical_samples_and_beat_qemu() {
    if !may_run("test_two_rounds_give_identical_samples", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let round = || {
        let directory = tempfile::tempdir().unwrap();
        let mut command = lab("deterministic", directory.path());
        command.args(["--", "compare", "--workload", "probe,cpu", "--replicates", "3"]);
        let shown = output(command.args(["--seed", "5"]));
        assert!(shown.status.success(), "{}", text(&shown));
        results_of(directory.path())
    };
    // Side by side: that they disturb each other must not be seen.
    let rounds = std::thread::scope(|scope| {
        let other = scope.spawn(round);
        [round(), other.join().unwrap()]
    });
    assert_eq!(rounds[0].clock, Clock::Virtual);
    assert_eq!(rounds[0].order, rounds[1].order);
    assert_eq!(rounds[0].floors, rounds[1].floors);
    assert_eq!(rounds[0].cells, rounds[1].cells, "every sample, to the nanosecond");
    for cell in &rounds[0].cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
    }
    let init_ns = |backend: &str| {
        let cell =
            rounds[0].cells.iter().find(|cell| cell.backend == backend && cell.workload == "probe");
        cell.unwrap().summary("launch_to_init_ns").unwrap().median.value
    };
    let ratio = init_ns("microvm") / init_ns("qemu");
    assert!(ratio <= 0.5, "microvm takes {ratio} of QEMU's time to init");
}

#[test]
fn test_every_workload_runs_in_the_microvm() {
    if !may_run("test_every_workload_runs_in_the_microvm", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args([
        "--",
        "compare",
        "--on",
        "microvm,container",
        "--replicates",
        "1",
        "--warmups",
        "0",
    ]);
    let shown = output(&mut command);
    assert!(shown.status.success(), "{}", text(&shown));
    for cell in results_of(directory.path()).cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
    }
}

/// The container crate's own integration tests, as the one program on a cgroup v2 host.
#[test]
fn test_containers_pass_their_tests_under_cgroup_v2() {
    if !may_run("test_containers_pass_their_tests_under_cgroup_v2", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("functional", directory.path());
    command.arg("--program").arg(container_tests());
    command.args(["--env", "TARE_TEST_BUSYBOX=/bin/busybox", "--env", "CI=true"]);
    command.args(["--", "--test-threads=1"]);
    let shown = output(&mut command);
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("test result: ok"), "{}", text(&shown));
}

/// Builds the container crate's tests, which is quick where `make test` has built them, and asks
/// cargo where they are.
fn container_tests() -> PathBuf {
    let built = output(Command::new(env!("CARGO")).current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "test",
        "--package",
        "tare-container",
        "--test",
        "container",
        "--no-run",
        "--message-format=json",
    ]));
    assert!(built.status.success(), "{}", text(&built));
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "container")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .unwrap_or_else(|| panic!("cargo names no test program: {}", text(&built)))
}

/// What a user can get wrong about a microVM, in one lab: each is said with its remedy, ends with
/// exit code 4 (a box failed), and leaves mounts and temporary files as they were.
#[test]
fn test_bad_input_to_the_microvm_is_said_and_leaves_nothing() {
    if !may_run("test_bad_input_to_the_microvm", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let tare = assert_cmd::cargo::cargo_bin!("tare");
    let script = format!(
        "try() {{ name=$1; shift; {tare} launch --on microvm \"$@\" -- true >/tmp/said 2>&1; \
           echo \"$name: exit $?: $(tr '\\n' ' ' </tmp/said)\"; rm /tmp/said; }}
         before=$(cat /proc/mounts; ls -a $TMPDIR; ls /sys/fs/cgroup)
         try good
         echo hello >text; try text --kernel text
         head -c 100000 $TARE_KERNEL >cut; try cut --kernel cut
         try absent --kernel /no/such/kernel
         try little --memory-mib 4
         try much --memory-mib 100000000
         mv /dev/kvm /dev/other; try device; mv /dev/other /dev/kvm
         mkdir empty; try command --rootfs empty
         [ \"$before\" = \"$(cat /proc/mounts; ls -a $TMPDIR; ls /sys/fs/cgroup)\" ] && echo clean",
        tare = tare.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--with").arg(tare).args(["--program", "/bin/busybox", "--", "sh", "-c", &script]);
    let shown = output(&mut command);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    for (name, code, word) in [
        ("good", 0, "microvm"),
        ("text", 4, "ELF"),
        ("cut", 4, "cut"),
        ("absent", 4, "/no/such/kernel"),
        ("little", 4, "memory"),
        ("much", 4, "memory"),
        ("device", 4, "/dev/kvm"),
        ("command", 4, "true"),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("{name}: ")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing: {}", text(&shown)));
        assert!(line.starts_with(&format!("{name}: exit {code}: ")), "{line}");
        assert!(line.contains(word), "'{word}' is missing: {line}");
    }
    assert!(said.lines().any(|line| line == "clean"), "{}", text(&shown));
}

/// A distribution's bzImage as the guest: unpacked by the VMM, it comes up to `init`.
#[test]
fn test_debian_cloud_kernel_boots_to_init_from_its_bzimage() {
    if !may_run("test_debian_cloud_kernel_boots_to_init", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let cache = tare_kernels::Cache::open().unwrap();
    let kernel = tare_kernels::lab::kernel(&cache, &tare_kernels::Stderr::new()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--with").arg(&kernel.vmlinuz).args(["--", "compare", "--on", "microvm"]);
    command.args([
        "--workload",
        "start",
        "--replicates",
        "1",
        "--warmups",
        "0",
        "--memory-mib",
        "256",
    ]);
    let shown = output(command.arg("--kernel").arg(&kernel.vmlinuz));
    assert!(shown.status.success(), "{}", text(&shown));
    let results = results_of(directory.path());
    for cell in &results.cells {
        assert!(matches!(cell.status, Status::Ok), "{:?}", cell.status);
    }
    assert!(!results.cells.is_empty(), "{}", text(&shown));
}

#[test]
fn test_files_left_in_out_come_back_and_nothing_else_stays() {
    if !may_run("test_files_left_in_out_come_back", "QEMU", has_lab()) {
        return;
    }
    let _guard = alone();
    let before = Traces::of_this_host();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("functional", directory.path());
    command.args(["--program", "/bin/busybox", "--", "sh", "-c", "echo kept > kept.txt; exit 6"]);
    let shown = output(&mut command);
    assert_eq!(shown.status.code(), Some(6), "{}", text(&shown));
    assert_eq!(fs::read_to_string(directory.path().join("kept.txt")).unwrap(), "kept\n");
    before.assert_nothing_new();
}

#[test]
fn test_program_that_is_not_static_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("functional", directory.path());
    let shown = output(command.args(["--program", "/bin/ls", "--", "/"]));
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(text(&shown).contains("static"), "{}", text(&shown));
}

#[test]
fn test_interrupted_round_in_the_lab_hands_over_what_it_has() {
    if !may_run("test_interrupted_round_in_the_lab", "QEMU", has_lab()) {
        return;
    }
    let _guard = alone();
    let before = Traces::of_this_host();
    let directory = tempfile::tempdir().unwrap();
    let mut command = tare();
    command.args(["compare", "--host", "lab", "--on", "process", "--workload", "start"]);
    command.args(["--replicates", "100000", "--out"]).arg(directory.path());
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("the lab is up")), "it got nowhere");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let rest: Vec<String> = said.collect();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{rest:#?}");
    let results = load_only(directory.path());
    assert!(results.interrupted && results.clock == Clock::Virtual, "{rest:#?}");
    before.assert_nothing_new();
}
