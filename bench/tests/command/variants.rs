//! The guest kernels by name, each booted in the lab.

use crate::common::{among_labs, load_only, may_run, output, tare, text};
use crate::lab::{has_lab, lab};
use tare::results::{Cell, Results, Status};

/// One round of a workload with a kernel, taken into the lab by its name.
fn round(workload: &str, kernel: &str, backends: &str, vcpus: &str) -> Results {
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "compare", "--workload", workload, "--replicates", "1", "--warmups", "0"]);
    let shown = output(command.args(["--on", backends, "--kernel", kernel, "--vcpus", vcpus]));
    assert!(shown.status.success(), "{}", text(&shown));
    let results = load_only(&directory.path().join("results"));
    for cell in &results.cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
        let names_it = |state: &String| state.starts_with(&format!("guest kernel {kernel}-"));
        assert!(cell.state.iter().any(names_it), "{}: {:?}", cell.title(), cell.state);
    }
    results
}

#[test]
fn test_bare_runs_to_its_end_in_our_vmm_and_in_qemu_s() {
    if !may_run("test_bare_runs_to_its_end", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let results = round("probe", "bare", "microvm,qemu", "1");
    let init_ns = |backend: &str| {
        let is_plain = |cell: &&Cell| cell.backend == backend && cell.variant.is_empty();
        let cell = results.cells.iter().find(is_plain).unwrap();
        cell.summary("launch_to_init_ns").unwrap().median.value
    };
    let ratio = init_ns("microvm") / init_ns("qemu");
    assert!(ratio <= 0.3, "microvm takes {ratio} of QEMU's time to init");
    // Virtual time, and a build for tests: a release build is faster.
    assert!(init_ns("microvm") <= 14e6, "launch to init takes {} ns", init_ns("microvm"));
}

#[test]
fn test_full_runs_with_several_vcpus_in_every_vmm() {
    if !may_run("test_full_runs_with_several_vcpus", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    round("probe", "full", "microvm,microvm:snapshot,qemu", "2");
}

#[test]
fn test_kernel_ls_lists_every_variant() {
    let shown = output(tare().args(["kernel", "ls"]));
    assert!(shown.status.success(), "{}", text(&shown));
    let listed = String::from_utf8_lossy(&shown.stdout).into_owned();
    for variant in tare_kernels::VARIANTS {
        assert!(listed.lines().any(|line| line.starts_with(variant.name)), "{listed}");
    }
}

#[test]
fn test_kernel_build_unknown_variant_is_a_usage_error_that_lists_the_known() {
    let shown = output(tare().args(["kernel", "build", "huge"]));
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
    assert!(text(&shown).contains("practical"), "{}", text(&shown));
}
