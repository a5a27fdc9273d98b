//! From effects to verdicts.

use super::counts;
use super::effect::{self, Comparison, Effect};
use super::list::{CLAIMS, Claim, Quantity, Rule};
use crate::results::{Clock, Ends, HostFacts, Outcome, Results, Verdict};
use crate::statistics::{MEDIAN_INTERVAL_MIN, holm};

/// Level of the permutation tests, over all claims together.
const LEVEL: f64 = 0.05;

/// In virtual time a limit in nanoseconds must be cleared this many times over.
const VIRTUAL_MARGIN: f64 = 10.0;

/// Decides every claim by the figures of the run.
///
/// The verdicts depend on the samples, the seed, the clock and the host's description alone.
pub fn judge(results: &Results) -> Vec<Verdict> {
    let effects: Vec<Option<Result<Effect, String>>> =
        CLAIMS.iter().map(|claim| measure(claim, results)).collect();
    let p_values: Vec<f64> =
        effects.iter().flatten().flatten().filter_map(|effect| effect.p).collect();
    let mut adjusted = holm(&p_values).into_iter();
    let verdicts = CLAIMS.iter().zip(effects).map(|(claim, effect)| {
        let has_p = matches!(&effect, Some(Ok(Effect { p: Some(_), .. })));
        let p_adjusted = if has_p { adjusted.next() } else { None };
        verdict(claim, effect, p_adjusted, results)
    });
    verdicts.collect()
}

/// `None` where the run has no experiment; the error says which figure is missing.
fn measure(claim: &Claim, results: &Results) -> Option<Result<Effect, String>> {
    match claim.rule {
        Rule::StartsWithin { backend, .. } | Rule::StartsNotBefore { backend, .. } => {
            Some(effect::start_up(results, backend))
        }
        Rule::MicrovmCostsMore { workload, variant, metrics, .. } => {
            let comparison = Comparison { id: claim.id, workload, variant, metrics };
            Some(effect::cost_ratio(results, comparison))
        }
        Rule::ShipsMore { .. } => Some(counts::shipped(results)),
        Rule::ReachesLess { .. } => Some(counts::reached(results)),
        Rule::NoExperiment => None,
    }
}

fn verdict(
    claim: &Claim,
    effect: Option<Result<Effect, String>>,
    p_adjusted: Option<f64>,
    results: &Results,
) -> Verdict {
    let mut verdict = Verdict {
        id: claim.id.to_owned(),
        statement: claim.statement.to_owned(),
        experiment: claim.experiment.to_owned(),
        threshold: claim.threshold.to_owned(),
        outcome: Outcome::NotMeasured,
        effect_name: None,
        effect: None,
        ends: None,
        p_adjusted,
        why: "no experiment of this run decides it".to_owned(),
        holds_for: holds_for(&results.host, results.clock),
        clock: results.clock,
    };
    match effect {
        None => {}
        Some(Err(missing)) => {
            verdict.outcome = Outcome::Undecided;
            verdict.why = missing;
        }
        Some(Ok(effect)) => {
            let (outcome, reason) = decide(claim.rule, &effect, p_adjusted, results.clock);
            verdict.outcome = outcome;
            verdict.why =
                std::iter::once(reason).chain(effect.details).collect::<Vec<_>>().join("; ");
            verdict.effect_name = Some(effect.name);
            verdict.effect = Some(effect.estimate);
            verdict.ends = effect.ends;
        }
    }
    verdict
}

fn holds_for(host: &HostFacts, clock: Clock) -> String {
    let clock = match clock {
        Clock::Wall => "wall-clock time",
        Clock::Virtual => {
            "virtual time: instructions are counted, caches, TLBs and world switches cost nothing"
        }
    };
    format!("{}, Linux {}, {} ({clock})", host.cpu_model, host.kernel, host.virtualization)
}

/// Where the effect's ends lie; `None` where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    Across,
    Above,
}

fn side(effect: &Effect, threshold: f64) -> Option<Side> {
    let interval = effect.estimate.interval()?;
    Some(if interval.high < threshold {
        Side::Below
    } else if interval.low >= threshold {
        Side::Above
    } else {
        Side::Across
    })
}

fn decide(rule: Rule, effect: &Effect, p_adjusted: Option<f64>, clock: Clock) -> (Outcome, String) {
    let threshold = match rule {
        Rule::StartsWithin { limit_ns, .. } | Rule::StartsNotBefore { limit_ns, .. } => limit_ns,
        Rule::MicrovmCostsMore { factor, .. } | Rule::ShipsMore { factor } => factor,
        Rule::ReachesLess { share } => share,
        Rule::NoExperiment => return (Outcome::NotMeasured, String::new()),
    };
    let Some(side) = side(effect, threshold) else {
        let why =
            format!("fewer than {MEDIAN_INTERVAL_MIN} samples have no 95 % interval of a median");
        return (Outcome::Undecided, why);
    };
    let ends = match effect.ends {
        Some(Ends::Range) => "range of all samples",
        Some(Ends::Bootstrap95) | None => "95 % interval",
    };
    let where_to = if side == Side::Below { "below" } else { "at or above" };
    if side == Side::Across {
        return (Outcome::Undecided, format!("the {ends} holds the threshold"));
    }
    match rule {
        Rule::StartsWithin { .. } | Rule::StartsNotBefore { .. } => {
            let is_claimed = matches!(rule, Rule::StartsWithin { .. }) == (side == Side::Below);
            decide_limit(side, is_claimed, threshold, effect, clock, ends)
        }
        Rule::MicrovmCostsMore { quantity, .. } => {
            let is_chance = side == Side::Above && p_adjusted.is_some_and(|p| p >= LEVEL);
            decide_cost(side, quantity, is_chance, clock, ends)
        }
        Rule::ShipsMore { .. } => {
            (outcome(side == Side::Above), format!("what was counted is {where_to} the threshold"))
        }
        Rule::ReachesLess { .. } => {
            (outcome(side == Side::Below), format!("what was counted is {where_to} the threshold"))
        }
        Rule::NoExperiment => (Outcome::NotMeasured, String::new()),
    }
}

fn decide_limit(
    side: Side,
    is_claimed: bool,
    limit: f64,
    effect: &Effect,
    clock: Clock,
    ends: &str,
) -> (Outcome, String) {
    let limit = match side {
        Side::Below => limit / VIRTUAL_MARGIN,
        Side::Above | Side::Across => limit * VIRTUAL_MARGIN,
    };
    if clock == Clock::Virtual && self::side(effect, limit) != Some(side) {
        let why = "in virtual time a limit must be cleared tenfold, and this one is not";
        return (Outcome::Undecided, why.to_owned());
    }
    let where_to = if side == Side::Below { "below" } else { "at or above" };
    (outcome(is_claimed), format!("the whole {ends} is {where_to} the threshold"))
}

fn decide_cost(
    side: Side,
    quantity: Quantity,
    is_chance: bool,
    clock: Clock,
    ends: &str,
) -> (Outcome, String) {
    let costs_more = side == Side::Above;
    let is_counted = clock == Clock::Virtual;
    if is_counted && quantity == Quantity::HardwareTime {
        let why = "it depends on caches, TLBs and nested paging, which virtual time does not have";
        return (Outcome::Undecided, why.to_owned());
    }
    if is_counted && quantity == Quantity::Time && !costs_more {
        let why = "the count of instructions shows no such difference, but what virtual time leaves out \
                   (TLBs, caches, world switches) would fall on the microVM";
        return (Outcome::Undecided, why.to_owned());
    }
    if is_chance {
        return (
            Outcome::Undecided,
            "the permutation test finds no difference at 5 % after correction".to_owned(),
        );
    }
    let where_to = if costs_more { "at or above" } else { "below" };
    (outcome(costs_more), format!("the whole {ends} is {where_to} the threshold"))
}

fn outcome(is_claimed: bool) -> Outcome {
    if is_claimed { Outcome::Supported } else { Outcome::Refuted }
}
