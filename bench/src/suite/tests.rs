//! Suites are sane, and every standing comes out of invented figures.

use std::collections::BTreeSet;

use super::{BASELINE, Suite, Target, all, find, rejudge};
use crate::backend;
use crate::harness::{Act, CellPlan};
use crate::recipe::{Recipe, Setting};
use crate::results::{
    Better, Cell, Clock, Edge, Ends, Estimate, Figure, MemoryUsage, MetricSamples, Results, Sample,
    Standing, Status, Yardstick, series,
};

const SETTING: Setting =
    Setting { start_replicates: 40, other_replicates: 4, memory_mib: 128, is_lab: true };

/// A round of a suite whose every cell has `count` samples, all with the same invented figures; those
/// of a backend called `dear` are four times those of others.
pub(crate) fn invented(suite: &Suite, clock: Clock, count: u32, dear: &str) -> Results {
    let mut results = Results { clock, seed: 7, ..Results::default() };
    for plan in suite.cells(&[], SETTING).unwrap() {
        let id = u32::try_from(results.cells.len()).unwrap();
        let backend = plan.backend.name().to_owned();
        let scale = if backend == dear { 4 } else { 1 };
        let sample = |block| sample(&plan, block, scale);
        results.order.extend((0..count).map(|_| id));
        results.cells.push(Cell {
            id,
            backend,
            workload: plan.workload.name().to_owned(),
            variant: plan.variant.clone(),
            samples: (0..count).map(sample).collect(),
            ..Cell::default()
        });
    }
    results.summarise();
    results.suite = Some(suite.judge(&[], &results));
    results
}

fn sample(plan: &CellPlan, block: u32, scale: u64) -> Sample {
    let of_act = |metrics: &[(&str, &str, f64)]| Sample {
        block,
        edges_ns: [(Edge::Launch, 0)].into(),
        metrics: metrics
            .iter()
            .map(|(name, unit, value)| MetricSamples {
                name: (*name).to_owned(),
                unit: (*unit).to_owned(),
                better: Better::Lower,
                values: vec![value * scale as f64],
            })
            .collect(),
        ..Sample::default()
    };
    match plan.act {
        Act::Unpack => return of_act(&[("unpack_ns", "ns", 1e9)]),
        Act::Capture => return of_act(&[("capture_ns", "ns", 1e6)]),
        Act::Crowd(_) => {
            let growth = ("last_start_to_first", "count", 1.0);
            return of_act(&[("each_system_bytes", "bytes", 1e6), growth]);
        }
        Act::Series(_) => return of_act(&[("start_ns", "ns", 1e6), ("run_ns", "ns", 2e6)]),
        Act::Launch | Act::Lifecycle(_) => {}
    }
    let edges = [
        (Edge::Launch, 0),
        (Edge::Enter, 2),
        (Edge::Init, 9),
        (Edge::Ready, 10),
        (Edge::Exit, 12),
        (Edge::Clean, 13),
    ];
    let metric = |spec: &tare_workload::MetricSpec| {
        let metric = tare_workload::Metric {
            name: spec.name.to_owned(),
            unit: spec.unit,
            samples: vec![50e3 * scale as f64],
        };
        MetricSamples {
            better: match spec.better {
                tare_workload::Better::Lower => Better::Lower,
                tare_workload::Better::Higher => Better::Higher,
            },
            ..MetricSamples::from(&metric)
        }
    };
    Sample {
        block,
        edges_ns: edges.map(|(edge, at_ms)| (edge, at_ms * 1_000_000 * scale)).into(),
        metrics: plan.workload.metrics().iter().map(metric).collect(),
        memory: plan.weigh.then(|| MemoryUsage {
            pss_bytes: 1 << 20,
            private_dirty_bytes: 100_000 * scale,
            rss_bytes: 3_000_000 * scale,
            guest_ram_touched_bytes: Some(20 << 20),
            system_delta_bytes: Some(24 << 20),
            ..MemoryUsage::default()
        }),
        ..Sample::default()
    }
}

fn vmm() -> &'static Suite {
    find("vmm").unwrap()
}

fn figure(results: &Results, name: &str) -> Figure {
    let figures = rejudge(results).unwrap().figures;
    figures.into_iter().find(|figure| figure.name == name).unwrap()
}

fn is_close(ratio: Option<Estimate>, expected: f64) -> bool {
    ratio.is_some_and(|ratio| (ratio.value - expected).abs() < 1e-9)
}

/// Sets launch to init of the plain starts of a backend.
fn start(results: &mut Results, backend: &str, times_ms: &[u64]) {
    let is_meant = |cell: &&mut Cell| {
        cell.backend == backend && cell.workload == "start" && cell.variant.is_empty()
    };
    let cell = results.cells.iter_mut().find(is_meant).unwrap();
    let sample = |ms: &u64| Sample {
        edges_ns: [(Edge::Launch, 0), (Edge::Init, ms * 1_000_000)].into(),
        ..Sample::default()
    };
    cell.samples = times_ms.iter().map(sample).collect();
    results.summarise();
}

#[test]
fn test_every_target_is_named_once_and_its_limits_are_in_order() {
    for suite in all() {
        let names: BTreeSet<_> = suite.targets.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), suite.targets.len(), "{}: a name occurs twice", suite.name);
        for target in suite.targets {
            let limits = target.limits;
            assert!(limits.must > 0.0, "{}", target.name);
            assert!(
                limits.aim.is_none_or(|aim| 0.0 < aim && aim <= limits.must),
                "{}",
                target.name
            );
            assert!(!target.what.is_empty() && !target.source.is_empty(), "{}", target.name);
            let is_ratio = limits.yardstick == Yardstick::Ratio;
            assert!(!is_ratio || target.reference.is_some(), "{}", target.name);
            let reference = target.reference.map(|reference| reference.backend);
            for name in [Some(target.backend), reference].into_iter().flatten() {
                assert!(backend::find(name).is_some(), "{}: {name}", target.name);
            }
        }
    }
}

#[test]
fn test_every_target_s_metric_is_one_that_its_recipe_shows() {
    for suite in all() {
        let results = invented(suite, Clock::Virtual, 3, "");
        for figure in results.suite.as_ref().map_or(&[][..], |suite| &suite.figures) {
            assert_ne!(figure.standing, Standing::NotMeasured, "{}: {}", figure.name, figure.why);
            let cell = &results.cells[figure.cell.unwrap() as usize];
            assert_eq!(series(cell, &figure.metric).len(), 3, "{}", figure.name);
            assert_eq!(cell.summary(&figure.metric).unwrap().unit, figure.unit, "{}", figure.name);
        }
    }
}

#[test]
fn test_recipes_that_look_alike_in_results_are_alike() {
    for suite in all() {
        let referred = |target: &Target| target.reference.and_then(|reference| reference.recipe);
        let recipes: Vec<&Recipe> = suite
            .targets
            .iter()
            .flat_map(|target| [Some(target.recipe), referred(target)])
            .flatten()
            .collect();
        for one in &recipes {
            for other in &recipes {
                let looks_alike = one.workload == other.workload && one.variant == other.variant;
                assert!(!looks_alike || one == other, "{one:?} and {other:?}");
            }
        }
    }
}

#[test]
fn test_cells_of_one_figure_are_what_it_needs_and_each_once() {
    let only = ["start-same-kernel".to_owned()];
    let cells = vmm().cells(&only, SETTING).unwrap();
    let titles: BTreeSet<_> = cells
        .iter()
        .map(|cell| format!("{} {}", cell.backend.name(), cell.workload.name()))
        .collect();
    let backends = ["microvm", "qemu", BASELINE];
    let expected: BTreeSet<_> = backends
        .iter()
        .flat_map(|name| [format!("{name} start"), format!("{name} probe")])
        .collect();
    assert_eq!(titles, expected);
    assert_eq!(cells.len(), expected.len());
}

#[test]
fn test_ratio_is_held_against_its_limits() {
    let mut results = invented(vmm(), Clock::Virtual, 3, "qemu");
    let name = "start-same-kernel";
    let found = figure(&results, name);
    assert_eq!(found.standing, Standing::Aim, "{}", found.why);
    assert!(is_close(found.ratio, 0.25), "{:?}", found.ratio);
    assert_eq!(found.ends, Some(Ends::Range));
    for (times_ms, standing) in [
        ([10, 10, 10], Standing::Must),
        ([10, 10, 12], Standing::Undecided),
        ([12, 13, 14], Standing::Missed),
    ] {
        start(&mut results, "microvm", &times_ms);
        let found = figure(&results, name);
        assert_eq!(found.standing, standing, "{times_ms:?}: {}", found.why);
    }
}

#[test]
fn test_rate_counts_as_a_cost() {
    let results = invented(vmm(), Clock::Virtual, 3, "microvm");
    let found = figure(&results, "block-sequential");
    assert!(is_close(found.ratio, 0.25) && found.standing == Standing::Aim, "{found:?}");
    let found = figure(&results, "block-random");
    assert!(is_close(found.ratio, 4.0) && found.standing == Standing::Missed, "{found:?}");
}

#[test]
fn test_value_is_judged_without_its_reference() {
    let mut results = invented(vmm(), Clock::Virtual, 3, "qemu");
    results.cells.retain(|cell| cell.backend != "qemu");
    let found = figure(&results, "memory-private");
    assert_eq!((found.standing, found.referred, found.ratio), (Standing::Aim, None, None));
    let found = figure(&results, "start-same-kernel");
    assert_eq!(found.standing, Standing::NotMeasured);
    assert!(found.why.contains("qemu"), "{}", found.why);
}

#[test]
fn test_absent_backend_and_failed_cell_are_figures_with_their_reason() {
    let mut results = invented(vmm(), Clock::Virtual, 3, "");
    for cell in results.cells.iter_mut().filter(|cell| cell.backend.starts_with("microvm")) {
        cell.samples.clear();
        cell.status = match cell.backend.as_str() {
            "microvm" => Status::Failed { why: "it hung".to_owned() },
            _ => Status::Unsupported { why: "no KVM".to_owned(), remedy: String::new() },
        };
    }
    for (name, why) in [("start-practical", "it hung"), ("restore", "no KVM")] {
        let found = figure(&results, name);
        assert_eq!(found.standing, Standing::NotMeasured);
        assert!(found.why.contains(why), "{}", found.why);
    }
}

#[test]
fn test_too_few_samples_decide_nothing_on_a_machine() {
    let results = invented(vmm(), Clock::Wall, 5, "qemu");
    assert_eq!(figure(&results, "start-practical").standing, Standing::Undecided);
    let results = invented(vmm(), Clock::Wall, 6, "qemu");
    let found = figure(&results, "start-practical");
    assert_eq!((found.standing, found.ends), (Standing::Aim, Some(Ends::Bootstrap95)));
}

#[test]
fn test_rejudge_takes_limits_from_the_code_and_values_from_the_samples() {
    let mut results = invented(vmm(), Clock::Virtual, 3, "qemu");
    let figures = results.suite.clone();
    let stored = results.suite.as_mut().unwrap();
    stored.figures.iter_mut().for_each(|figure| {
        figure.must = 0.0;
        figure.measured = None;
        figure.standing = Standing::Missed;
    });
    assert_eq!(rejudge(&results), figures);
    results.suite.as_mut().unwrap().name = "another".to_owned();
    assert_eq!(rejudge(&results), None);
}
