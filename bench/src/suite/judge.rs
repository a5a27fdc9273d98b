//! From the samples of a round to the figures of a suite.

use super::{Suite, Target, find};
use crate::claims::effect::{Effect, median_of, ratio_of, trouble};
use crate::recipe::Recipe;
use crate::results::{self, Cell, Clock, Ends, Figure, Results, Standing, Yardstick};
use crate::statistics::{MEDIAN_INTERVAL_MIN, Rng};

/// The figures of a results file, made anew from its samples; `None` where it is of no suite that
/// this build knows.
pub fn rejudge(results: &Results) -> Option<results::Suite> {
    let stored = results.suite.as_ref()?;
    let names: Vec<String> = stored.figures.iter().map(|figure| figure.name.clone()).collect();
    Some(find(&stored.name)?.judge(&names, results))
}

impl Suite {
    /// The figures named `only`, or all of them, by the samples of a round.
    ///
    /// They depend on the samples, the seed and the clock alone.
    pub fn judge(&self, only: &[String], results: &Results) -> results::Suite {
        let figures = self
            .chosen(only, results.clock == Clock::Virtual)
            .map(|target| target.judge(results))
            .collect();
        results::Suite { name: self.name.to_owned(), figures }
    }
}

impl Target {
    fn judge(&self, results: &Results) -> Figure {
        let mut figure = Figure {
            name: self.name.to_owned(),
            what: self.what.to_owned(),
            cell: None,
            metric: self.metric.to_owned(),
            unit: unit_of(self.metric).to_owned(),
            reference: self.reference.map(|reference| reference.name()),
            yardstick: self.limits.yardstick,
            must: self.limits.must,
            aim: self.limits.aim,
            source: self.source.to_owned(),
            n: 0,
            measured: None,
            referred: None,
            ratio: None,
            ends: None,
            standing: Standing::NotMeasured,
            why: String::new(),
        };
        match self.measure(results, &mut figure) {
            Ok(effect) => {
                figure.ends = effect.ends;
                (figure.standing, figure.why) = self.stand(&effect);
            }
            Err(why) => figure.why = why,
        }
        figure
    }

    /// Fills in what can be measured, and returns what is held against the limits.
    fn measure(&self, results: &Results, figure: &mut Figure) -> Result<Effect, String> {
        let cell = cell(results, self.backend, self.recipe)?;
        figure.cell = Some(cell.id);
        let name = format!("{}, {}", self.name, figure.unit);
        let value = median_of(results, cell, self.metric, name.clone())?;
        figure.n = cell.summary(self.metric).map_or(0, |summary| summary.n);
        figure.measured = Some(value.estimate);
        let ratio = self.reference.map(|reference| {
            let recipe = reference.recipe.unwrap_or(self.recipe);
            let reference = self::cell(results, reference.backend, recipe)?;
            figure.referred = Some(median_of(results, reference, self.metric, name)?.estimate);
            let mut rng = Rng::for_purpose(results.seed, &format!("figure {}", self.name));
            ratio_of(results.clock, [cell, reference], &[self.metric], &mut rng)
        });
        figure.ratio = ratio.as_ref().and_then(|ratio| Some(ratio.as_ref().ok()?.estimate));
        match (self.limits.yardstick, ratio) {
            (Yardstick::Value, _) => Ok(value),
            (Yardstick::Ratio, Some(ratio)) => ratio,
            (Yardstick::Ratio, None) => Err("it has no reference".to_owned()),
        }
    }

    fn stand(&self, effect: &Effect) -> (Standing, String) {
        let Some(interval) = effect.estimate.interval() else {
            let why = format!(
                "fewer than {MEDIAN_INTERVAL_MIN} samples have no 95 % interval of a median"
            );
            return (Standing::Undecided, why);
        };
        let ends = match effect.ends {
            Some(Ends::Range) => "range of all samples",
            Some(Ends::Bootstrap95) | None => "95 % interval",
        };
        let (standing, place) = if interval.low > self.limits.must {
            (Standing::Missed, "is beyond what must be")
        } else if interval.high > self.limits.must {
            (Standing::Undecided, "holds the limit of what must be")
        } else if self.limits.aim.is_some_and(|aim| interval.high <= aim) {
            (Standing::Aim, "is within the aim")
        } else {
            (Standing::Must, "is within what must be")
        };
        (standing, format!("the {ends} {place}"))
    }
}

/// The cell of a recipe in a backend, or why it has no figures.
fn cell<'a>(results: &'a Results, backend: &str, recipe: &Recipe) -> Result<&'a Cell, String> {
    let variant = recipe.variant();
    let is_meant = |cell: &&Cell| {
        cell.backend == backend && cell.workload == recipe.workload && cell.variant == variant
    };
    let cell = results.cells.iter().find(is_meant);
    let cell = cell.ok_or_else(|| format!("this run has no such cell of {backend}"))?;
    trouble(cell).map_or(Ok(cell), Err)
}

/// The unit that a metric's name ends in, as results spell it.
pub fn unit_of(metric: &str) -> &'static str {
    let units = [("_bytes_per_s", "bytes/s"), ("_bytes", "bytes"), ("_ns", "ns")];
    units.iter().find(|(suffix, _)| metric.ends_with(suffix)).map_or("count", |(_, unit)| unit)
}
