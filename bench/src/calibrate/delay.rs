//! A delay that was put before each launch.

use super::blocks::{Blocks, Subject};
use super::program::Starts;
use super::{Check, Effort, Error, Figure, Outcome};
use crate::kit::Kit;
use crate::results::Estimate;
use crate::statistics::{Rng, difference_interval, median, rank_permutation_test};

/// The delay, in percent of a start.
const PERCENT: f64 = 2.0;
/// The same with little effort.
const QUICK_PERCENT: f64 = 10.0;
const LEVEL: f64 = 0.05;
/// Sum of the normal quantiles of a level of 5 %, two-sided, and a power of 95 %: so many standard
/// errors must the delay be (Cohen, "Statistical Power Analysis", 1988, chapter 2).
const STANDARD_ERRORS: f64 = 1.96 + 1.645;
/// Half of a 95 % interval in standard errors.
const HALF: f64 = 1.96;
/// More launches than the pilot asks for: its spread is an estimate itself.
const RESERVE: f64 = 1.5;
const PILOT: usize = 200;
const TRIALS: u32 = 20;
const TRIAL_LAUNCHES: usize = 12;

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let (plain, delayed) = (Starts::new(kit)?, Starts::new(kit)?);
    let percent = if effort.is_quick { QUICK_PERCENT } else { PERCENT };
    let mut pilot = Blocks::new(vec![Box::new(|| plain.once())], effort, "delay pilot");
    pilot.warm_up()?;
    pilot.run(if effort.is_lab { TRIAL_LAUNCHES } else { PILOT })?;
    let start_ns = median(&pilot.samples[0]).unwrap_or(0.0);
    let delay_ns = (start_ns * percent / 100.0).round();
    let subjects: Vec<Subject<'_>> =
        vec![Box::new(|| plain.once()), Box::new(|| delayed.once_delayed(delay_ns as u64))];
    let blocks = Blocks::new(subjects, effort, "delay");
    let check = if effort.is_lab {
        trials(blocks, percent, delay_ns)?
    } else {
        planned(blocks, percent, delay_ns, effort)?
    };
    Ok(vec![check])
}

fn what(percent: f64, how: &str) -> String {
    format!(
        "starts of a process, half of them {percent} % later by a busy wait in the launch; {how}"
    )
}

/// In the lab: how often is it found?
fn trials(mut blocks: Blocks<'_>, percent: f64, delay_ns: f64) -> Result<Check, Error> {
    blocks.warm_up()?;
    let (mut found, mut shifts) = (0, Vec::new());
    for _ in 0..TRIALS {
        blocks.samples.iter_mut().for_each(Vec::clear);
        blocks.run(TRIAL_LAUNCHES)?;
        let [before, after] = [blocks.samples[0].clone(), blocks.samples[1].clone()];
        let p = rank_permutation_test(&before, &after, blocks.rng());
        found += u32::from(p.is_some_and(|p| p <= LEVEL));
        shifts.extend(median(&after).zip(median(&before)).map(|(after, before)| after - before));
    }
    let least = (f64::from(TRIALS) * 0.95).ceil() as u32;
    Ok(Check {
        name: "delay",
        what: what(percent, &format!("{TRIALS} trials of {TRIAL_LAUNCHES} launches each")),
        limit: format!(
            "found in at least {least} of {TRIALS} trials at a level of 5 %: a power of 95 %"
        ),
        outcome: if found >= least { Outcome::Passed } else { Outcome::Failed },
        why: format!("it was found in {found} of {TRIALS} trials"),
        figures: vec![
            figure("delay", delay_ns, None),
            figure("median of the recovered delays", median(&shifts).unwrap_or(0.0), None),
        ],
    })
}

/// On a machine: as many launches as a pilot says it takes, if the time allows.
fn planned(
    mut blocks: Blocks<'_>,
    percent: f64,
    delay_ns: f64,
    effort: Effort,
) -> Result<Check, Error> {
    let began = std::time::Instant::now();
    blocks.warm_up()?;
    blocks.run(PILOT)?;
    let pilot = shift(&mut blocks);
    let error_ns = pilot.interval().map_or(0.0, |ends| (ends.high - ends.low) / (2.0 * HALF));
    let needed = (STANDARD_ERRORS * error_ns / delay_ns).powi(2) * PILOT as f64 * RESERVE;
    let needed = (needed.ceil() as usize).max(PILOT);
    let planned = began.elapsed().mul_f64(needed as f64 / PILOT as f64);
    let what = what(percent, &format!("{needed} launches of each, as a pilot of {PILOT} asks for"));
    let limit =
        "found at a level of 5 %, and recovered to within twice the half of its 95 % interval"
            .to_owned();
    if planned > effort.budget {
        let why = format!(
            "that takes {} s, and {} s were given (--budget-s): the machine is too noisy",
            planned.as_secs(),
            effort.budget.as_secs()
        );
        let figures = vec![figure("delay", delay_ns, None)];
        return Ok(Check { name: "delay", what, limit, outcome: Outcome::Undecided, why, figures });
    }
    blocks.run(needed - PILOT)?;
    let recovered = shift(&mut blocks);
    let [before, after] = [blocks.samples[0].clone(), blocks.samples[1].clone()];
    let p = rank_permutation_test(&before, &after, blocks.rng()).unwrap_or(1.0);
    let half = recovered.interval().map_or(f64::INFINITY, |ends| (ends.high - ends.low) / 2.0);
    let is_recovered = (recovered.value - delay_ns).abs() <= 2.0 * half;
    let is_found = p <= LEVEL && recovered.value > 0.0;
    Ok(Check {
        name: "delay",
        what,
        limit,
        outcome: if is_found && is_recovered { Outcome::Passed } else { Outcome::Failed },
        why: format!(
            "p {p:.4}; the delay is {} the interval's doubled width",
            if is_recovered { "within" } else { "outside" }
        ),
        figures: vec![
            figure("delay", delay_ns, None),
            Figure { value: recovered, ..figure("recovered delay", 0.0, None) },
        ],
    })
}

/// The difference of the medians, with its interval.
fn shift(blocks: &mut Blocks<'_>) -> Estimate {
    let [before, after] = [blocks.samples[0].clone(), blocks.samples[1].clone()];
    let value = median(&after).unwrap_or(0.0) - median(&before).unwrap_or(0.0);
    let rng: &mut Rng = blocks.rng();
    Estimate::new(value, difference_interval(&after, &before, rng))
}

fn figure(name: &str, value: f64, interval: Option<crate::statistics::Interval>) -> Figure {
    Figure { name: name.to_owned(), unit: "ns", value: Estimate::new(value, interval) }
}
