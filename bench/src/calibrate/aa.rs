//! A/A: a cell against itself.

use super::blocks::{Blocks, Subject};
use super::program::Starts;
use super::{Check, Effort, Error, Figure, Outcome};
use crate::kit::Kit;
use crate::results::Estimate;
use crate::statistics::rank_permutation_test;

/// Level of each test.
const LEVEL: f64 = 0.05;
/// An honest test exceeds the allowed number of alarms no more often than this.
const UNLUCKY: f64 = 0.005;
const PAIRS: u32 = 20;

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let (first, second) = (Starts::new(kit)?, Starts::new(kit)?);
    let replicates = if effort.is_lab || effort.is_quick { 12 } else { 50 };
    let subjects: Vec<Subject<'_>> = vec![Box::new(|| first.once()), Box::new(|| second.once())];
    let mut blocks = Blocks::new(subjects, effort, "aa");
    blocks.warm_up()?;
    let mut alarms = 0;
    for _ in 0..PAIRS {
        blocks.samples.iter_mut().for_each(Vec::clear);
        blocks.run(replicates)?;
        let [one, other] = [blocks.samples[0].clone(), blocks.samples[1].clone()];
        let p = rank_permutation_test(&one, &other, blocks.rng());
        alarms += u32::from(p.is_some_and(|p| p <= LEVEL));
    }
    let most = allowed(PAIRS, LEVEL);
    let is_kept = alarms <= most;
    Ok(vec![Check {
        name: "aa",
        what: format!(
            "{PAIRS} pairs of the same cell (process, start), {replicates} launches each, interleaved"
        ),
        limit: format!(
            "at most {most} false alarms at a level of 5 %: more come in {} % of honest runs",
            100.0 * UNLUCKY
        ),
        outcome: if is_kept { Outcome::Passed } else { Outcome::Failed },
        why: format!("{alarms} of {PAIRS} pairs were found to differ"),
        figures: vec![Figure {
            name: "false alarms".to_owned(),
            unit: "count",
            value: Estimate::new(alarms.into(), None),
        }],
    }])
}

/// The most alarms that are still honest: the binomial probability of more is below [`UNLUCKY`].
fn allowed(pairs: u32, level: f64) -> u32 {
    let mut probability = (1.0 - level).powf(pairs.into());
    let mut total = probability;
    for alarms in 0..pairs {
        if 1.0 - total <= UNLUCKY {
            return alarms;
        }
        let (more, of) = (f64::from(alarms + 1), f64::from(pairs - alarms));
        probability *= of / more * level / (1.0 - level);
        total += probability;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Rng;

    #[test]
    fn test_allowed_is_the_binomial_quantile() {
        // R: qbinom(.995, 20, .05) is 4, qbinom(.995, 200, .05) is 19.
        assert_eq!((allowed(20, 0.05), allowed(200, 0.05)), (4, 19));
        assert_eq!(allowed(3, 1.0 - f64::EPSILON), 3);
    }

    #[test]
    fn test_200_simulated_pairs_raise_no_more_alarms_than_promised() {
        let mut rng = Rng::new(20_260_109);
        let draw = |rng: &mut Rng| -> Vec<f64> {
            (0..50).map(|_| 10.0 - (1.0 - rng.unit()).ln()).collect()
        };
        let alarms = (0..200).filter(|_| {
            let (one, other) = (draw(&mut rng), draw(&mut rng));
            rank_permutation_test(&one, &other, &mut rng).unwrap() <= LEVEL
        });
        let alarms = alarms.count();
        assert!((1..=19).contains(&alarms), "{alarms} of 200");
    }
}
