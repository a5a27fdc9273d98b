//! What is compared, in randomised blocks, for as long as it takes to tell.

use std::time::Instant;

use super::{Effort, Error, Figure, Outcome};
use crate::interrupt;
use crate::results::Estimate;
use crate::statistics::{Interval, Rng, median, median_interval, next_look, ratio_interval};

/// Measures one thing once, in its unit.
pub(super) type Subject<'a> = Box<dyn FnMut() -> Result<f64, Error> + 'a>;

/// Several subjects and what they have shown.
pub(super) struct Blocks<'a> {
    subjects: Vec<Subject<'a>>,
    pub(super) samples: Vec<Vec<f64>>,
    rng: Rng,
}

impl<'a> Blocks<'a> {
    /// Of these subjects, in the order that the seed gives for this purpose.
    pub(super) fn new(subjects: Vec<Subject<'a>>, effort: Effort, purpose: &str) -> Blocks<'a> {
        let samples = vec![Vec::new(); subjects.len()];
        let rng = Rng::for_purpose(effort.seed, &format!("calibrate {purpose}"));
        Blocks { subjects, samples, rng }
    }

    /// Each subject once, its sample thrown away.
    pub(super) fn warm_up(&mut self) -> Result<(), Error> {
        self.subjects.iter_mut().try_for_each(|subject| subject().map(drop))
    }

    /// So many blocks more.
    pub(super) fn run(&mut self, blocks: usize) -> Result<(), Error> {
        for _ in 0..blocks {
            let mut order: Vec<usize> = (0..self.subjects.len()).collect();
            self.rng.shuffle(&mut order);
            for index in order {
                if interrupt::requested() {
                    return Err(Error::Interrupted);
                }
                let sample = (self.subjects[index])()?;
                self.samples[index].push(sample);
            }
        }
        Ok(())
    }

    /// Blocks until the ratio of the first two subjects' medians is decided: its whole interval
    /// within `limit` of 1, or beyond. `first_look` samples are looked at first.
    pub(super) fn until_ratio_is_decided(
        &mut self,
        limit: f64,
        first_look: u32,
        effort: Effort,
    ) -> Result<Decided, Error> {
        let began = Instant::now();
        let mut look = first_look;
        loop {
            self.run(look as usize - self.samples[0].len())?;
            let ratio = ratio_interval(&self.samples[0], &self.samples[1], &mut self.rng);
            let outcome = ratio.map_or(Outcome::Undecided, |ratio| judge(ratio, limit));
            if outcome != Outcome::Undecided || began.elapsed() > effort.budget {
                return Ok(Decided { outcome, ratio: self.ratio(ratio) });
            }
            look = next_look(look);
        }
    }

    fn ratio(&self, interval: Option<Interval>) -> Option<Estimate> {
        let value = median(&self.samples[0])? / median(&self.samples[1])?;
        value.is_finite().then(|| Estimate::new(value, interval))
    }

    /// The median of a subject.
    pub(super) fn figure(
        &mut self,
        index: usize,
        name: &str,
        unit: &'static str,
    ) -> Option<Figure> {
        let samples = &self.samples[index];
        let value = Estimate::new(median(samples)?, median_interval(samples, &mut self.rng));
        Some(Figure { name: name.to_owned(), unit, value })
    }

    /// The generator, for what else is drawn.
    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

/// How a ratio stands to its limit.
pub(super) struct Decided {
    pub(super) outcome: Outcome,
    pub(super) ratio: Option<Estimate>,
}

impl Decided {
    pub(super) fn why(&self) -> &'static str {
        match self.outcome {
            Outcome::Passed => "the whole 95 % interval of the ratio is within the limit",
            Outcome::Failed => "the whole 95 % interval of the ratio is beyond the limit",
            _ => {
                "the 95 % interval of the ratio still holds the limit when the time is over: measure when the machine is idle, or longer (--budget-s)"
            }
        }
    }
}

fn judge(ratio: Interval, limit: f64) -> Outcome {
    let (low, high) = (1.0 - limit, 1.0 + limit);
    if ratio.low >= low && ratio.high <= high {
        Outcome::Passed
    } else if ratio.high < low || ratio.low > high {
        Outcome::Failed
    } else {
        Outcome::Undecided
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn effort() -> Effort {
        Effort { is_quick: true, budget: Duration::ZERO, seed: 1, is_lab: false }
    }

    fn decided(first: f64, second: f64) -> Outcome {
        let mut noise = Rng::new(4);
        let mut draw = move |base: f64| base * (1.0 + 0.01 * noise.unit());
        let mut other = Rng::new(5);
        let subjects: Vec<Subject<'_>> = vec![
            Box::new(move || Ok(draw(first))),
            Box::new(move || Ok(second * (1.0 + 0.01 * other.unit()))),
        ];
        let mut blocks = Blocks::new(subjects, effort(), "test");
        blocks.until_ratio_is_decided(0.02, 20, effort()).unwrap().outcome
    }

    #[test]
    fn test_ratio_passes_fails_or_stays_undecided() {
        assert_eq!(decided(1.0, 1.0), Outcome::Passed);
        assert_eq!(decided(1.05, 1.0), Outcome::Failed);
        assert_eq!(decided(1.0, 1.05), Outcome::Failed);
        assert_eq!(decided(1.02, 1.0), Outcome::Undecided);
    }
}
