//! Differences of invented runs.

use std::sync::LazyLock;

use super::{Error, Finding, Question, compare};
use crate::results::fixture::synthetic;
use crate::results::{Clock, Edge, Results, Status};
use crate::statistics::Rng;

fn question(threshold_percent: f64) -> Question {
    Question { threshold_percent, metrics: Vec::new() }
}

/// A run of one cell whose starts take these times, in nanoseconds.
fn run(clock: Clock, times_ns: &[u64]) -> Results {
    static BASE: LazyLock<Results> = LazyLock::new(|| {
        let mut results = synthetic(Clock::Wall);
        results.cells.truncate(1);
        results
    });
    let mut results = Results { clock, ..BASE.clone() };
    let cell = &mut results.cells[0];
    cell.failures.clear();
    cell.status = Status::Ok;
    let pattern = cell.samples[0].clone();
    cell.samples = times_ns
        .iter()
        .map(|&at_ns| {
            let mut sample = pattern.clone();
            sample.edges_ns = [(Edge::Launch, 0), (Edge::Init, at_ns)].into();
            sample
        })
        .collect();
    results.summarise();
    results
}

fn finding(clock: Clock, old: &[u64], new: &[u64], threshold_percent: f64) -> Finding {
    let question =
        Question { metrics: vec!["launch_to_init_ns".to_owned()], ..question(threshold_percent) };
    let found = compare(&run(clock, old), &run(clock, new), &question).unwrap();
    assert_eq!(found.metrics.len(), 1);
    found.metrics[0].finding
}

fn times(rng: &mut Rng, base: f64, count: usize) -> Vec<u64> {
    (0..count).map(|_| (base * (1.0 - 0.05 * (1.0 - rng.unit()).ln())) as u64).collect()
}

#[test]
fn test_run_compared_with_itself_shows_no_difference() {
    for clock in [Clock::Wall, Clock::Virtual] {
        let results = synthetic(clock);
        let found = compare(&results, &results, &question(20.0)).unwrap();
        assert!(!found.has_regression() && found.unmatched.is_empty(), "{found:?}");
        assert!(
            found.notes.len() == 1 && found.notes[0].contains("qemu start"),
            "{:?}",
            found.notes
        );
        assert!(found.metrics.len() > 20);
        assert!(found.metrics.iter().all(|metric| metric.cliffs_delta == 0.0));
        assert!(found.metrics.iter().all(|metric| metric.shift == 0.0));
    }
}

#[test]
fn test_slower_and_faster_starts_are_found_and_small_changes_are_not() {
    let mut rng = Rng::new(11);
    let base = times(&mut rng, 1e6, 100);
    let same = times(&mut rng, 1e6, 100);
    let slow = times(&mut rng, 1.2e6, 100);
    let wall = |old: &[u64], new: &[u64], threshold| finding(Clock::Wall, old, new, threshold);
    assert_eq!(wall(&base, &slow, 5.0), Finding::Worse);
    assert_eq!(wall(&slow, &base, 5.0), Finding::Better);
    assert_eq!(wall(&base, &same, 5.0), Finding::NoDifference);
    // A fifth is no difference to who cares for a half only, and undecided at a fifth.
    assert_eq!(wall(&base, &slow, 50.0), Finding::NoDifference);
    assert_eq!(wall(&base, &slow, 20.0), Finding::Undecided);
}

#[test]
fn test_too_few_samples_are_undecided_on_a_machine_and_decided_in_the_lab() {
    let (old, new) = ([100, 101, 102], [200, 201, 202]);
    assert_eq!(finding(Clock::Wall, &old, &new, 5.0), Finding::Undecided);
    assert_eq!(finding(Clock::Virtual, &old, &new, 5.0), Finding::Worse);
    assert_eq!(finding(Clock::Virtual, &old, &old, 5.0), Finding::NoDifference);
    assert_eq!(finding(Clock::Virtual, &[100; 3], &[100; 3], 0.0), Finding::NoDifference);
}

#[test]
fn test_lower_rate_is_worse() {
    let old = synthetic(Clock::Wall);
    let mut new = old.clone();
    for sample in new.cells.iter_mut().flat_map(|cell| &mut cell.samples) {
        for metric in sample.metrics.iter_mut().filter(|metric| metric.unit == "bytes/s") {
            metric.values.iter_mut().for_each(|value| *value /= 2.0);
        }
    }
    new.summarise();
    let found = compare(&old, &new, &question(5.0)).unwrap();
    assert!(found.has_regression());
    for metric in &found.metrics {
        let cost = metric.cost.unwrap().value;
        if metric.unit == "bytes/s" {
            assert!((cost - 2.0).abs() < 1e-9 && metric.finding == Finding::Worse, "{metric:?}");
            assert!(metric.shift < 0.0 && metric.cliffs_delta == 1.0, "{metric:?}");
        } else {
            assert!(cost == 1.0 && metric.finding != Finding::Worse, "{metric:?}");
        }
    }
}

#[test]
fn test_many_metrics_of_equals_are_false_alarms_as_rarely_as_promised() {
    // 200 comparisons of equals: at 5 %, a share of 0.05 + 3 standard errors has findings at all.
    let mut rng = Rng::new(20_260_106);
    let mut alarms = 0;
    for _ in 0..200 {
        let (old, new) = (times(&mut rng, 1e6, 30), times(&mut rng, 1e6, 30));
        let found = finding(Clock::Wall, &old, &new, 0.0);
        alarms += i32::from(found == Finding::Worse || found == Finding::Better);
    }
    assert!(alarms <= 19, "{alarms} of 200");
}

#[test]
fn test_clocks_and_strangers_are_refused() {
    let (wall, virtual_) = (synthetic(Clock::Wall), synthetic(Clock::Virtual));
    let error = compare(&wall, &virtual_, &question(5.0)).unwrap_err();
    assert!(matches!(error, Error::Clocks { .. }) && error.to_string().contains("lab"), "{error}");
    let mut other = wall.clone();
    other.cells.iter_mut().for_each(|cell| cell.backend = "zone".to_owned());
    let error = compare(&wall, &other, &question(5.0)).unwrap_err();
    assert!(error.to_string().contains("zone start"), "{error}");
    let asked = Question { metrics: vec!["speed".to_owned()], ..question(5.0) };
    assert_eq!(compare(&wall, &wall, &asked).unwrap_err(), Error::NoMetric("speed".to_owned()));
}

#[test]
fn test_what_else_differs_is_told() {
    let old = synthetic(Clock::Wall);
    let mut new = old.clone();
    new.host.kernel = "6.99".to_owned();
    new.artifacts[1].sha256 = "ef".repeat(32);
    new.schedule.gap_ns = 5_000_000;
    new.interrupted = true;
    let told = compare(&old, &new, &question(5.0)).unwrap().notes.join("\n");
    for what in
        ["host kernel", "6.99", "cdcdcdcdcdcd → efefefefefef", "5 ms between", "interrupted"]
    {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[test]
fn test_cell_that_no_longer_runs_is_a_regression_and_other_parameters_are_not_compared() {
    let old = synthetic(Clock::Wall);
    let mut new = old.clone();
    new.cells[0].samples.clear();
    new.cells[0].status = Status::Failed { why: "it hung".to_owned() };
    new.cells[1].state.push("parameter bytes=7".to_owned());
    new.summarise();
    let found = compare(&old, &new, &question(20.0)).unwrap();
    assert!(found.has_regression());
    let why = |title: &str| {
        found.unmatched.iter().find(|cell| cell.cell == title).map(|cell| cell.why.clone()).unwrap()
    };
    assert!(why(&old.cells[0].title()).contains("it hung"));
    assert!(why(&old.cells[1].title()).contains("bytes=7"));
}
