//! The effect behind a claim: a value, its ends, and whether chance explains it.

use crate::results::{Better, Cell, Clock, Ends, Estimate, Results, Status, better, series};
use crate::statistics::{
    MEDIAN_INTERVAL_MIN, Rng, cliffs_delta, mean_ratio, median, median_interval, permutation_test,
};

/// What the figures show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Effect {
    /// What it is, with its unit.
    pub(crate) name: String,
    pub(crate) estimate: Estimate,
    /// What the ends of the estimate are; `None` where there are none.
    pub(crate) ends: Option<Ends>,
    /// p of the permutation test, before correction; `None` where none was made.
    pub(crate) p: Option<f64>,
    /// What else the figures say, for the verdict's text.
    pub(crate) details: Vec<String>,
}

/// The median start-up time of a backend.
pub(super) fn start_up(results: &Results, backend: &str) -> Result<Effect, String> {
    const METRIC: &str = "launch_to_init_ns";
    let cell = find(results, backend, "start", None, &[METRIC])?;
    median_of(results, cell, METRIC, format!("{backend}, launch to init, ns"))
}

/// The median of a cell's metric.
pub(crate) fn median_of(
    results: &Results,
    cell: &Cell,
    metric: &str,
    name: String,
) -> Result<Effect, String> {
    let values = series(cell, metric);
    let value = median(&values).ok_or_else(|| lacks(cell, metric))?;
    let interval = median_interval(&values, &mut cell.summary_rng(metric, results.seed));
    let mut effect = Effect {
        name,
        estimate: Estimate::new(value, interval),
        ends: None,
        p: None,
        details: vec![format!("n = {}", values.len())],
    };
    effect.details.extend(failures(cell));
    let range =
        values.iter().copied().reduce(f64::min).zip(values.iter().copied().reduce(f64::max));
    effect.settle_ends(results.clock, range);
    Ok(effect)
}

/// What is compared: the same metrics of the same workload in both boxes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison<'a> {
    pub(super) id: &'a str,
    pub(super) workload: &'a str,
    pub(super) variant: Option<(&'a str, &'a str)>,
    pub(super) metrics: &'a [&'a str],
}

/// How many times more the microVM costs than the container.
pub(super) fn cost_ratio(results: &Results, comparison: Comparison<'_>) -> Result<Effect, String> {
    let Comparison { id, workload, variant, metrics } = comparison;
    let microvm = find(results, "microvm", workload, variant, metrics)?;
    let container = find(results, "container", workload, variant, metrics)?;
    let mut rng = Rng::for_purpose(results.seed, &format!("claim {id}"));
    let mut effect = ratio_of(results.clock, [microvm, container], metrics, &mut rng)?;
    effect.name = "microVM ÷ container, ×".to_owned();
    Ok(effect)
}

/// How many times more the first cell costs than the second: above 1 is worse, for rates too.
pub(crate) fn ratio_of(
    clock: Clock,
    [first, second]: [&Cell; 2],
    metrics: &[&str],
    rng: &mut Rng,
) -> Result<Effect, String> {
    let (above, below) = (costs(first, metrics)?, costs(second, metrics)?);
    let (value, interval) = mean_ratio(&above, &below, rng)
        .ok_or_else(|| format!("{} reported a value that is not positive", first.workload))?;
    let (above_scores, below_scores) = (scores(&above), scores(&below));
    let is_testable = above_scores.len().min(below_scores.len()) >= MEDIAN_INTERVAL_MIN;
    let p = if is_testable { permutation_test(&above_scores, &below_scores, rng) } else { None };
    let mut details = vec![format!("n = {} and {}", above_scores.len(), below_scores.len())];
    if let Some(delta) = cliffs_delta(&above_scores, &below_scores) {
        details.push(format!("Cliff's delta {delta:+.2}"));
    }
    if metrics.len() > 1 {
        details.push(each(metrics, &above, &below));
    }
    details.extend(failures(first));
    details.extend(failures(second));
    let mut effect = Effect {
        name: format!("{} ÷ {}, ×", first.backend, second.backend),
        estimate: Estimate::new(value, interval),
        ends: None,
        p,
        details,
    };
    effect.settle_ends(clock, extremes(&above, &below));
    Ok(effect)
}

impl Effect {
    /// In virtual time the extremes serve as ends where an interval does not exist.
    fn settle_ends(&mut self, clock: Clock, range: Option<(f64, f64)>) {
        if self.estimate.interval().is_some() {
            self.ends = Some(Ends::Bootstrap95);
        } else if let (Clock::Virtual, Some((low, high))) = (clock, range) {
            self.estimate.low = Some(low);
            self.estimate.high = Some(high);
            self.ends = Some(Ends::Range);
        }
    }
}

/// The simplest cell of that backend and workload that shows the metrics, or why there is none.
pub(super) fn find<'a>(
    results: &'a Results,
    backend: &str,
    workload: &str,
    variant: Option<(&str, &str)>,
    metrics: &[&str],
) -> Result<&'a Cell, String> {
    let is_meant = |cell: &&Cell| {
        let has_variant = variant
            .is_none_or(|(key, value)| cell.variant.get(key).is_some_and(|found| found == value));
        cell.backend == backend && cell.workload == workload && has_variant
    };
    let mut candidates: Vec<&Cell> = results.cells.iter().filter(is_meant).collect();
    candidates.sort_by_key(|cell| cell.variant.len());
    let shows = |cell: &&&Cell| metrics.iter().all(|metric| !series(cell, metric).is_empty());
    if let Some(cell) = candidates.iter().find(shows) {
        return Ok(cell);
    }
    match candidates.first() {
        None => Err(format!("this run has no cell '{backend} {workload}'")),
        Some(cell) => Err(trouble(cell).unwrap_or_else(|| lacks(cell, &metrics.join(", ")))),
    }
}

/// Why a cell has no figures at all.
pub(crate) fn trouble(cell: &Cell) -> Option<String> {
    match &cell.status {
        Status::Failed { why } => Some(format!("{} failed: {why}", cell.title())),
        Status::Unsupported { why, .. } => Some(format!("{} cannot run here: {why}", cell.title())),
        Status::Ok => None,
    }
}

fn lacks(cell: &Cell, metric: &str) -> String {
    format!("{} did not report {metric}", cell.title())
}

fn failures(cell: &Cell) -> Option<String> {
    let failed = cell.failures.len();
    let tried = failed + cell.samples.len() + cell.warmups.len();
    (failed > 0).then(|| format!("{failed} of {tried} replicates of {} failed", cell.title()))
}

/// Rows of metrics by instances, each turned so that more is worse.
fn costs(cell: &Cell, metrics: &[&str]) -> Result<Vec<Vec<f64>>, String> {
    let rows: Vec<Vec<f64>> = metrics
        .iter()
        .map(|metric| {
            let is_rate = better(cell, metric) == Better::Higher;
            let values = series(cell, metric).into_iter();
            values.map(|value| if is_rate { 1.0 / value } else { value }).collect()
        })
        .collect();
    if rows.iter().any(|row| row.len() != cell.samples.len()) {
        return Err(format!(
            "not every instance of {} reported {}",
            cell.title(),
            metrics.join(", ")
        ));
    }
    Ok(rows)
}

/// One figure for each instance: the mean of the logarithms of its costs.
fn scores(rows: &[Vec<f64>]) -> Vec<f64> {
    let columns = rows.first().map_or(0, Vec::len);
    let score = |column: usize| {
        let logs = rows.iter().filter_map(|row| row.get(column)).map(|value| value.ln());
        logs.sum::<f64>() / rows.len() as f64
    };
    (0..columns).map(score).collect()
}

/// The ratio's extremes: each metric's least over the other's greatest, and the reverse.
fn extremes(above: &[Vec<f64>], below: &[Vec<f64>]) -> Option<(f64, f64)> {
    let log_of =
        |row: &Vec<f64>, pick: fn(f64, f64) -> f64| row.iter().copied().reduce(pick).map(f64::ln);
    let (mut low, mut high) = (0.0, 0.0);
    for (above_row, below_row) in above.iter().zip(below) {
        low += log_of(above_row, f64::min)? - log_of(below_row, f64::max)?;
        high += log_of(above_row, f64::max)? - log_of(below_row, f64::min)?;
    }
    let count = above.len() as f64;
    Some(((low / count).exp(), (high / count).exp()))
}

/// `randread 3.4 ×, fsync 1.2 ×`.
fn each(metrics: &[&str], above: &[Vec<f64>], below: &[Vec<f64>]) -> String {
    let ratios =
        metrics.iter().zip(above.iter().zip(below)).filter_map(|(metric, (above, below))| {
            let name = metric.trim_end_matches("_ns").trim_end_matches("_bytes_per_s");
            Some(format!("{name} {:.2} ×", median(above)? / median(below)?))
        });
    ratios.collect::<Vec<_>>().join(", ")
}
