//! From two runs to their differences.

use super::{Difference, Differences, Error, Finding, LEVEL, Question, Unmatched, notes};
use crate::claims::effect::trouble;
use crate::results::{Better, Cell, Clock, Ends, Estimate, Results, series};
use crate::statistics::{
    MEDIAN_INTERVAL_MIN, Rng, cliffs_delta, hodges_lehmann, holm, rank_permutation_test,
    ratio_interval,
};

/// Compares two runs. What comes out depends on the files and the question alone.
///
/// # Errors
/// [`Error`], where there is nothing that could be compared.
pub fn compare(old: &Results, new: &Results, question: &Question) -> Result<Differences, Error> {
    if old.clock != new.clock {
        return Err(Error::Clocks { old: clock_name(old.clock), new: clock_name(new.clock) });
    }
    let (mut metrics, mut unmatched) = (Vec::new(), Vec::new());
    let (mut without, mut in_common) = (Vec::new(), 0);
    for one in &old.cells {
        let Some(other) = new.cells.iter().find(|other| is_same(one, other)) else {
            unmatched.push(lacking(one, "the new run has no such cell"));
            continue;
        };
        in_common += 1;
        if one.samples.is_empty() && other.samples.is_empty() {
            without.push(one.title());
            continue;
        }
        match mismatch(one, other) {
            Some(cell) => unmatched.push(cell),
            None => metrics.extend(cell_differences([old, new], [one, other], question)),
        }
    }
    for other in &new.cells {
        if !old.cells.iter().any(|one| is_same(one, other)) {
            unmatched.push(lacking(other, "the old run has no such cell"));
        }
    }
    if in_common == 0 {
        return Err(Error::NothingInCommon { old: titles(old), new: titles(new) });
    }
    let is_absent = |name: &&String| !metrics.iter().any(|found| found.metric == **name);
    if let Some(name) = question.metrics.iter().find(is_absent) {
        return Err(Error::NoMetric(name.clone()));
    }
    settle(&mut metrics, question.threshold_percent);
    let mut notes = notes::notes(old, new);
    if !without.is_empty() {
        notes.push(format!("neither run has figures of {}", without.join(", ")));
    }
    Ok(Differences {
        clock: new.clock,
        old: notes::name(old),
        new: notes::name(new),
        threshold_percent: question.threshold_percent,
        correction: "Holm",
        notes,
        metrics,
        unmatched,
    })
}

fn clock_name(clock: Clock) -> &'static str {
    match clock {
        Clock::Wall => "wall-clock time",
        Clock::Virtual => "virtual time (the lab)",
    }
}

fn is_same(one: &Cell, other: &Cell) -> bool {
    one.backend == other.backend && one.workload == other.workload && one.variant == other.variant
}

fn titles(results: &Results) -> String {
    let titles: Vec<String> = results.cells.iter().take(5).map(Cell::title).collect();
    match (titles.is_empty(), results.cells.len() > titles.len()) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("{}, …", titles.join(", ")),
        (false, false) => titles.join(", "),
    }
}

fn lacking(cell: &Cell, why: &str) -> Unmatched {
    Unmatched { cell: cell.title(), why: why.to_owned(), is_lost: false }
}

/// Why two cells of the same name cannot be compared, if they cannot.
fn mismatch(one: &Cell, other: &Cell) -> Option<Unmatched> {
    let cell = one.title();
    match (trouble(one), trouble(other)) {
        (None, Some(why)) => return Some(Unmatched { cell, why, is_lost: true }),
        (Some(why), _) => {
            let why = format!("in the old run {why}");
            return Some(Unmatched { cell, why, is_lost: false });
        }
        (None, None) => {}
    }
    let (old, new) = (parameters(one), parameters(other));
    (old != new).then(|| {
        let said = |words: &[&str]| match words {
            [] => "the workload's defaults".to_owned(),
            words => words.join(" "),
        };
        let why = format!("other parameters: {} before, {} now", said(&old), said(&new));
        Unmatched { cell, why, is_lost: false }
    })
}

/// The workload's parameters, as the declared state has them.
fn parameters(cell: &Cell) -> Vec<&str> {
    cell.state.iter().filter_map(|line| line.strip_prefix("parameter ")).collect()
}

fn cell_differences(
    runs: [&Results; 2],
    cells: [&Cell; 2],
    question: &Question,
) -> Vec<Difference> {
    let names = if question.metrics.is_empty() {
        let new = cells[1].headline();
        cells[0].headline().into_iter().filter(|name| new.contains(name)).collect()
    } else {
        question.metrics.clone()
    };
    names.iter().filter_map(|name| difference(runs, cells, name)).collect()
}

fn difference(runs: [&Results; 2], cells: [&Cell; 2], metric: &str) -> Option<Difference> {
    let (old, new) = (cells[0].summary(metric)?, cells[1].summary(metric)?);
    let [before, after] = cells.map(|cell| series(cell, metric));
    let is_rate = new.better == Better::Higher;
    let (above, below) = if is_rate { (&before, &after) } else { (&after, &before) };
    let seed = runs[0].seed ^ runs[1].seed;
    let mut rng = Rng::for_purpose(seed, &format!("difference {} {metric}", cells[1].title()));
    let (cost, ends) = cost(above, below, runs[1].clock, &mut rng);
    let is_testable = before.len().min(after.len()) >= MEDIAN_INTERVAL_MIN;
    Some(Difference {
        backend: cells[1].backend.clone(),
        workload: cells[1].workload.clone(),
        variant: cells[1].variant.clone(),
        metric: metric.to_owned(),
        unit: new.unit.clone(),
        better: new.better,
        n: [before.len(), after.len()],
        old: old.median,
        new: new.median,
        cost,
        ends,
        shift: hodges_lehmann(&after, &before)?,
        cliffs_delta: cliffs_delta(above, below)?,
        p: if is_testable { rank_permutation_test(&before, &after, &mut rng) } else { None },
        p_adjusted: None,
        finding: Finding::Undecided,
        why: String::new(),
    })
}

/// The ratio of the medians with its ends; none where a value is not positive. In virtual time,
/// which repeats itself exactly, the extremes of all samples are the ends where they are too few.
fn cost(
    above: &[f64],
    below: &[f64],
    clock: Clock,
    rng: &mut Rng,
) -> (Option<Estimate>, Option<Ends>) {
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if least(above) == greatest(above)
        && least(above) == least(below)
        && least(below) == greatest(below)
    {
        // All the same, and be it zero.
        let ends = if above.len().min(below.len()) >= MEDIAN_INTERVAL_MIN {
            Some(Ends::Bootstrap95)
        } else {
            (clock == Clock::Virtual).then_some(Ends::Range)
        };
        let known = ends.map(|_| 1.0);
        return (Some(Estimate { value: 1.0, low: known, high: known }), ends);
    }
    let medians = crate::statistics::median(above).zip(crate::statistics::median(below));
    let ratio = medians.filter(|_| least(above).min(least(below)) > 0.0).map(|(a, b)| a / b);
    let Some(value) = ratio.filter(|ratio| ratio.is_finite()) else { return (None, None) };
    if let Some(interval) = ratio_interval(above, below, rng) {
        return (Some(Estimate::new(value, Some(interval))), Some(Ends::Bootstrap95));
    }
    if clock == Clock::Virtual {
        let (low, high) = (least(above) / greatest(below), greatest(above) / least(below));
        let ends = Estimate { value, low: Some(low), high: Some(high) };
        return (Some(ends), Some(Ends::Range));
    }
    (Some(Estimate::new(value, None)), None)
}

/// Corrects the p-values, and decides.
fn settle(metrics: &mut [Difference], threshold_percent: f64) {
    let p_values: Vec<f64> = metrics.iter().filter_map(|metric| metric.p).collect();
    let mut adjusted = holm(&p_values).into_iter();
    for metric in metrics {
        metric.p_adjusted = metric.p.and_then(|_| adjusted.next());
        (metric.finding, metric.why) = decide(metric, threshold_percent);
    }
}

fn decide(metric: &Difference, threshold_percent: f64) -> (Finding, String) {
    let undecided = |why: &str| (Finding::Undecided, why.to_owned());
    let Some(cost) = metric.cost else {
        return undecided("a value that is not positive has no multiple");
    };
    let Some(interval) = cost.interval() else {
        let why =
            format!("fewer than {MEDIAN_INTERVAL_MIN} samples have no 95 % interval of a median");
        return (Finding::Undecided, why);
    };
    let ends = match metric.ends {
        Some(Ends::Range) => "range of all samples",
        Some(Ends::Bootstrap95) | None => "95 % interval",
    };
    let limit = 1.0 + threshold_percent / 100.0;
    let is_beyond = interval.low > limit || interval.high < 1.0 / limit;
    if is_beyond && metric.p_adjusted.is_some_and(|p| p > LEVEL) {
        return undecided("the permutation test finds no difference at 5 % after correction");
    }
    if is_beyond {
        let finding = if interval.low > limit { Finding::Worse } else { Finding::Better };
        (finding, format!("the whole {ends} is beyond the threshold"))
    } else if interval.low >= 1.0 / limit && interval.high <= limit {
        (Finding::NoDifference, format!("the whole {ends} is within the threshold"))
    } else {
        undecided(&format!("the {ends} holds the threshold: more replicates would narrow it"))
    }
}
