//! Every outcome of every rule, on invented figures.

use super::judge;
use crate::results::fixture::synthetic;
use crate::results::{
    Artifact, Better, Cell, Clock, Edge, Ends, MetricSamples, Outcome, Results, Sample, Status,
    Verdict,
};

fn find(results: &Results, id: &str) -> Verdict {
    judge(results).into_iter().find(|verdict| verdict.id == id).unwrap()
}

fn cell<'a>(results: &'a mut Results, backend: &str, workload: &str) -> &'a mut Cell {
    results
        .cells
        .iter_mut()
        .find(|cell| cell.backend == backend && cell.workload == workload)
        .unwrap()
}

/// Sets launch to init of each sample of the plain start cell, one after the other.
fn start(results: &mut Results, backend: &str, times_ns: &[u64]) {
    let cell = cell(results, backend, "start");
    let sample = |init_ns: &u64| Sample {
        edges_ns: [(Edge::Launch, 0), (Edge::Init, *init_ns)].into(),
        ..Sample::default()
    };
    cell.samples = times_ns.iter().map(sample).collect();
}

#[test]
fn test_judge_names_every_claim_once_and_says_what_it_holds_for() {
    let verdicts = judge(&synthetic(Clock::Wall));
    assert_eq!(verdicts.len(), super::CLAIMS.len());
    for (index, verdict) in verdicts.iter().enumerate() {
        assert!(verdicts[..index].iter().all(|other| other.id != verdict.id), "{}", verdict.id);
        assert!(!verdict.why.is_empty() && verdict.holds_for.contains("Synthetic CPU"));
        let is_measured = verdict.outcome != Outcome::NotMeasured;
        assert_eq!(is_measured, !verdict.threshold.is_empty(), "{}", verdict.id);
    }
}

#[test]
fn test_limit_below_is_supported_refuted_or_undecided() {
    let mut results = synthetic(Clock::Wall);
    let id = "container-starts-in-milliseconds";
    assert_eq!(find(&results, id).outcome, Outcome::Supported);
    start(&mut results, "container", &[150_000_000; 8]);
    assert_eq!(find(&results, id).outcome, Outcome::Refuted);
    start(
        &mut results,
        "container",
        &[60, 70, 80, 90, 110, 120, 130, 140].map(|ms| ms * 1_000_000),
    );
    let verdict = find(&results, id);
    assert_eq!(verdict.outcome, Outcome::Undecided);
    assert!(verdict.why.contains("holds the threshold"), "{}", verdict.why);
}

#[test]
fn test_limit_above_is_supported_refuted_or_undecided() {
    let mut results = synthetic(Clock::Wall);
    assert_eq!(find(&results, "vm-needs-minutes").outcome, Outcome::Refuted);
    start(&mut results, "microvm", &[90_000_000_000; 8]);
    assert_eq!(find(&results, "vm-needs-minutes").outcome, Outcome::Supported);
    start(&mut results, "microvm", &[30, 40, 50, 55, 65, 70, 80, 90].map(|s| s * 1_000_000_000));
    assert_eq!(find(&results, "vm-needs-minutes").outcome, Outcome::Undecided);
}

#[test]
fn test_ratio_is_supported_refuted_or_undecided() {
    let mut results = synthetic(Clock::Wall);
    let verdict = find(&results, "container-starts-faster");
    assert_eq!((verdict.outcome, verdict.ends), (Outcome::Supported, Some(Ends::Bootstrap95)));
    assert!(verdict.p_adjusted.unwrap() < 0.05);
    assert!(verdict.why.contains("Cliff's delta +1.00"), "{}", verdict.why);
    assert!(verdict.why.contains("1 of 9 replicates of microvm start failed"), "{}", verdict.why);
    start(&mut results, "microvm", &[400_000; 8]);
    assert_eq!(find(&results, "container-starts-faster").outcome, Outcome::Refuted);
    start(&mut results, "microvm", &[100, 1, 3, 2, 100, 100, 1, 200].map(|n| n * 100_000));
    assert_eq!(find(&results, "container-starts-faster").outcome, Outcome::Undecided);
}

#[test]
fn test_ratio_of_several_metrics_lists_each() {
    let verdict = find(&synthetic(Clock::Wall), "container-file-io-faster-direct");
    assert_eq!(verdict.outcome, Outcome::Supported);
    let effect = verdict.effect.unwrap();
    assert!((2.2..2.6).contains(&effect.value), "{effect:?}");
    assert!(
        verdict.why.contains("fsync 2.") && verdict.why.contains("seqread 2."),
        "{}",
        verdict.why
    );
}

#[test]
fn test_equal_speed_is_refuted_on_a_machine_and_undecided_in_virtual_time() {
    assert_eq!(find(&synthetic(Clock::Wall), "vm-computes-slower").outcome, Outcome::Refuted);
    let verdict = find(&synthetic(Clock::Virtual), "vm-computes-slower");
    assert_eq!(verdict.outcome, Outcome::Undecided);
    assert!(verdict.why.contains("virtual time leaves out"), "{}", verdict.why);
}

#[test]
fn test_hardware_cost_is_never_decided_in_virtual_time() {
    let mut results = synthetic(Clock::Virtual);
    for sample in &mut cell(&mut results, "microvm", "cpu").samples {
        for metric in &mut sample.metrics {
            metric
                .values
                .iter_mut()
                .for_each(|value| *value *= if metric.name == "latency_ns" { 90.0 } else { 0.01 });
        }
    }
    assert_eq!(find(&results, "vm-memory-slower").outcome, Outcome::Undecided);
    results.clock = Clock::Wall;
    assert_eq!(find(&results, "vm-memory-slower").outcome, Outcome::Supported);
}

#[test]
fn test_limit_in_virtual_time_must_be_cleared_tenfold() {
    let mut results = synthetic(Clock::Virtual);
    let id = "container-starts-in-milliseconds";
    let verdict = find(&results, id);
    assert_eq!((verdict.outcome, verdict.clock), (Outcome::Supported, Clock::Virtual));
    assert!(verdict.holds_for.contains("virtual time"));
    start(&mut results, "container", &[20_000_000; 8]);
    assert_eq!(find(&results, id).outcome, Outcome::Undecided);
    start(&mut results, "container", &[200_000_000; 8]);
    assert_eq!(find(&results, id).outcome, Outcome::Undecided);
    start(&mut results, "container", &[2_000_000_000; 8]);
    assert_eq!(find(&results, id).outcome, Outcome::Refuted);
}

#[test]
fn test_memory_is_decided_in_virtual_time_too() {
    let verdict = find(&synthetic(Clock::Virtual), "container-needs-less-memory");
    assert_eq!(verdict.outcome, Outcome::Supported);
    assert!(verdict.effect.unwrap().value > 100.0);
}

#[test]
fn test_few_samples_are_undecided_on_a_machine_and_a_range_in_virtual_time() {
    let mut results = synthetic(Clock::Wall);
    start(&mut results, "container", &[800_000, 810_000, 820_000]);
    let verdict = find(&results, "container-starts-faster");
    assert_eq!(
        (verdict.outcome, verdict.ends, verdict.p_adjusted),
        (Outcome::Undecided, None, None)
    );
    assert!(verdict.why.contains("fewer than 6 samples"), "{}", verdict.why);
    results.clock = Clock::Virtual;
    let verdict = find(&results, "container-starts-faster");
    assert_eq!((verdict.outcome, verdict.ends), (Outcome::Supported, Some(Ends::Range)));
}

#[test]
fn test_missing_failed_and_unsupported_cells_are_undecided_with_their_reason() {
    let mut results = synthetic(Clock::Wall);
    let broken = cell(&mut results, "microvm", "start");
    broken.samples.clear();
    broken.status = Status::Unsupported { why: "no /dev/kvm".to_owned(), remedy: String::new() };
    results.cells.retain(|cell| cell.workload != "cpu" && !cell.variant.contains_key("weighed"));
    let verdict = find(&results, "vm-needs-minutes");
    assert_eq!(verdict.outcome, Outcome::Undecided);
    assert_eq!(verdict.why, "microvm start cannot run here: no /dev/kvm");
    let verdict = find(&results, "vm-computes-slower");
    assert_eq!(verdict.why, "this run has no cell 'microvm cpu'");
    assert_eq!((verdict.outcome, verdict.effect), (Outcome::Undecided, None));
    let verdict = find(&results, "container-needs-less-memory");
    assert_eq!(verdict.outcome, Outcome::Undecided);
}

#[test]
fn test_difference_that_chance_explains_is_undecided() {
    let mut results = synthetic(Clock::Wall);
    // The medians differ, the samples hardly do: the correction over eight tests decides.
    start(&mut results, "container", &[100, 100, 100, 100, 100, 110, 110, 110].map(|n| n * 10_000));
    start(&mut results, "microvm", &[100, 110, 110, 110, 110, 110, 110, 110].map(|n| n * 10_000));
    let verdict = find(&results, "container-starts-faster");
    assert_ne!(verdict.outcome, Outcome::Supported, "{}", verdict.why);
}

#[test]
fn test_judge_of_empty_results_decides_nothing() {
    for verdict in judge(&Results::default()) {
        assert!(matches!(verdict.outcome, Outcome::Undecided | Outcome::NotMeasured));
        assert_eq!(verdict.effect, None);
    }
}

#[test]
fn test_judge_is_repeatable() {
    let results = synthetic(Clock::Wall);
    assert_eq!(judge(&results), judge(&results));
}

/// A cell of the workload `reach`: whose kernel answers, and to how many calls.
fn reach(results: &mut Results, backend: &str, kernel: f64, calls: f64) {
    let id = u32::try_from(results.cells.len()).unwrap();
    let count = |name: &str, value| MetricSamples {
        name: name.to_owned(),
        unit: "count".to_owned(),
        better: Better::Lower,
        values: vec![value],
    };
    let metrics = vec![count("kernel_id_count", kernel), count("system_calls_count", calls)];
    results.cells.push(Cell {
        id,
        backend: backend.to_owned(),
        workload: "reach".to_owned(),
        samples: vec![Sample { metrics, ..Sample::default() }; 3],
        ..Cell::default()
    });
}

#[test]
fn test_reach_counts_calls_of_the_host_s_kernel_only() {
    let id = "vm-isolates-better";
    let mut results = synthetic(Clock::Virtual);
    assert_eq!(find(&results, id).why, "this run has no cell 'process reach'");
    reach(&mut results, "process", 7.0, 340.0);
    reach(&mut results, "container", 7.0, 290.0);
    reach(&mut results, "microvm", 8.0, 280.0);
    let verdict = find(&results, id);
    assert_eq!((verdict.outcome, verdict.ends), (Outcome::Supported, Some(Ends::Range)));
    assert_eq!(verdict.effect.unwrap().value, 0.0);
    assert!(verdict.why.contains("kernel of its own"), "{}", verdict.why);
    results.cells.pop();
    reach(&mut results, "microvm", 7.0, 280.0);
    let verdict = find(&results, id);
    assert_eq!(verdict.outcome, Outcome::Refuted, "{}", verdict.why);
    // A container that runs on another kernel than the process is none.
    results.cells[6 * 4 + 1]
        .samples
        .iter_mut()
        .for_each(|sample| sample.metrics[0].values = vec![9.0]);
    assert_eq!(find(&results, id).outcome, Outcome::Undecided);
}

#[test]
fn test_what_is_shipped_is_the_kernel_with_the_initramfs_against_the_program() {
    let id = "vm-ships-an-os";
    let mut results = synthetic(Clock::Wall);
    let verdict = find(&results, id);
    assert_eq!(verdict.outcome, Outcome::Undecided);
    assert!(verdict.why.contains("no size of the initramfs"), "{}", verdict.why);
    let initramfs = Artifact { name: "initramfs".to_owned(), bytes: 61_440, ..Artifact::default() };
    results.artifacts.push(initramfs);
    let verdict = find(&results, id);
    assert_eq!(verdict.outcome, Outcome::Supported);
    assert!((verdict.effect.unwrap().value - 120.5).abs() < 0.1, "{:?}", verdict.effect);
    results.artifacts.iter_mut().find(|it| it.name == "agent").unwrap().bytes = 1 << 40;
    assert_eq!(find(&results, id).outcome, Outcome::Refuted);
}

#[test]
fn test_density_compares_what_each_of_many_adds() {
    let mut results = synthetic(Clock::Wall);
    for (backend, bytes) in [("container", 50e3), ("microvm", 15e6)] {
        let id = u32::try_from(results.cells.len()).unwrap();
        let sample = |step: u32| Sample {
            metrics: vec![MetricSamples {
                name: "each_system_bytes".to_owned(),
                unit: "bytes".to_owned(),
                better: Better::Lower,
                values: vec![bytes * (1.0 + f64::from(step) / 1000.0)],
            }],
            ..Sample::default()
        };
        results.cells.push(Cell {
            id,
            backend: backend.to_owned(),
            workload: "start".to_owned(),
            variant: [("live".to_owned(), "10".to_owned())].into(),
            samples: (0..8).map(sample).collect(),
            ..Cell::default()
        });
    }
    let verdict = find(&results, "more-containers-fit");
    assert_eq!(verdict.outcome, Outcome::Supported, "{}", verdict.why);
    assert!((verdict.effect.unwrap().value - 300.0).abs() < 0.1);
}

#[test]
fn test_every_measured_claim_has_words_for_its_effect() {
    for claim in super::CLAIMS {
        let is_measured = !claim.threshold.is_empty();
        assert_eq!(claim.words.contains("{}"), is_measured, "{}", claim.id);
    }
}
