//! Lifecycles: how boxes follow each other, as a user of many of them meets it (METHOD rule 7).
//!
//! - *isolated*: each launch after a rest, when the machine has forgotten the one before;
//! - *sustained*: launches of the same cell back to back;
//! - *open*: arrivals at a rate that do not wait for each other. Latency counts from when a box was
//!   *to* be launched: who waits for the one before him waits all the same, and a harness that
//!   launches late must not hide it (the "coordinated omission" of Tene, "How NOT to measure
//!   latency", 2013; Schroeder, Wierman and Harchol-Balter, "Open versus closed: a cautionary
//!   tale", 2006);
//! - *burst*: so many at once;
//! - *grow*: start-up while ever more boxes live, and what it takes to end them;
//! - *density*: as many as the host holds, but for a margin, and what ended it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tare_workload::Unit;

use super::crowd::{Crowd, Error};
use super::density::{parts, parts_grown};
use super::limits;
use super::room::Room;
use super::run::{metric, sample_of, times};
use crate::backend::{Prepared, system_used_bytes};
use crate::clock::now_ns;
use crate::results::{Better, Edge, Limit, MetricSamples, Sample};
use crate::statistics::Rng;

/// Arrivals of one replicate of an open loop.
const ARRIVALS: u32 = 40;
/// Boxes of a lifecycle's replicate at most.
const BOXES_MAX: u32 = 10_000;
/// Rest before an isolated launch, unless another is given.
const REST_MS: u32 = 60;
/// Launches of a sustained replicate, unless others are given.
const SERIES: u32 = 10;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// A launch after a rest of so many milliseconds.
    Isolated(u32),
    /// So many launches back to back.
    Sustained(u32),
    /// Arrivals at so many a second.
    Open(u32, Arrivals),
    /// So many at once.
    Burst(u32),
    /// So many that come to live together.
    Grow(u32),
    /// As many as the host holds, but no more than this.
    Density(u32),
}

/// The times between arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Exponential, as of many independent users: a Poisson process.
    Poisson,
    /// All the same.
    Uniform,
}

/// The text is no lifecycle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no lifecycle; there are isolated[:REST_MS], sustained[:N], open:PER_SECOND[:uniform], burst:N, grow:N \
     and density[:AT_MOST], N to {BOXES_MAX}"
)]
pub struct NoLifecycle(String);

impl FromStr for Lifecycle {
    type Err = NoLifecycle;

    fn from_str(text: &str) -> Result<Lifecycle, NoLifecycle> {
        let wrong = || NoLifecycle(text.chars().take(60).collect());
        let mut words = text.split(':');
        let (name, value, kind) = (words.next(), words.next(), words.next());
        let number = |default: Option<u32>| match value {
            None => default.ok_or_else(wrong),
            Some(value) => {
                let number = value.parse().ok().filter(|number| (1..=BOXES_MAX).contains(number));
                number.ok_or_else(wrong)
            }
        };
        let lifecycle = match name {
            Some("isolated") => Lifecycle::Isolated(number(Some(REST_MS))?),
            Some("sustained") => Lifecycle::Sustained(number(Some(SERIES))?),
            Some("burst") => Lifecycle::Burst(number(None)?),
            Some("grow") => Lifecycle::Grow(number(None)?),
            Some("density") => Lifecycle::Density(number(Some(BOXES_MAX))?),
            Some("open") => {
                let arrivals = match kind {
                    None | Some("poisson") => Arrivals::Poisson,
                    Some("uniform") => Arrivals::Uniform,
                    Some(_) => return Err(wrong()),
                };
                Lifecycle::Open(number(None)?, arrivals)
            }
            _ => return Err(wrong()),
        };
        let has_kind = matches!(lifecycle, Lifecycle::Open(..));
        if words.next().is_some() || (kind.is_some() && !has_kind) {
            return Err(wrong());
        }
        Ok(lifecycle)
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lifecycle::Isolated(rest_ms) => write!(f, "isolated:{rest_ms}"),
            Lifecycle::Sustained(count) => write!(f, "sustained:{count}"),
            Lifecycle::Open(per_s, Arrivals::Poisson) => write!(f, "open:{per_s}"),
            Lifecycle::Open(per_s, Arrivals::Uniform) => write!(f, "open:{per_s}:uniform"),
            Lifecycle::Burst(count) => write!(f, "burst:{count}"),
            Lifecycle::Grow(count) => write!(f, "grow:{count}"),
            Lifecycle::Density(BOXES_MAX) => write!(f, "density"),
            Lifecycle::Density(most) => write!(f, "density:{most}"),
        }
    }
}

impl Lifecycle {
    /// Whether its boxes stay until they are ended.
    pub fn stays(self) -> bool {
        matches!(self, Lifecycle::Grow(_) | Lifecycle::Density(_))
    }

    /// What is declared of it, in plain words: the edges of its figures.
    pub(super) fn state(self) -> String {
        match self {
            Lifecycle::Isolated(rest_ms) => {
                format!("isolated: {rest_ms} ms of rest before each launch")
            }
            Lifecycle::Sustained(count) => {
                format!(
                    "sustained: {count} launches back to back, each after the end of the one before"
                )
            }
            Lifecycle::Open(per_s, arrivals) => {
                let arrivals = match arrivals {
                    Arrivals::Poisson => "a Poisson process of the run's seed",
                    Arrivals::Uniform => "evenly spaced",
                };
                format!(
                    "open loop: {ARRIVALS} arrivals at {per_s} a second, {arrivals}; latency: intended launch → init; \
                     delay: intended launch → launch; one thread launches and hears all"
                )
            }
            Lifecycle::Burst(count) => format!(
                "burst: {count} launched by one thread as fast as it can; latency: first launch → init of each; \
                 whole: first launch → last init"
            ),
            Lifecycle::Grow(count) => format!(
                "grow: {count} boxes, each launched when the one before has run its workload and stays; \
                 start_at_N: launch → init of the Nth; end: kill → exit and teardown: exit → clean of each, \
                 while the later ones live"
            ),
            Lifecycle::Density(most) => format!(
                "density: boxes that have run their workload and stay, until the host has no more to spare, or {most}"
            ),
        }
    }
}

/// What a replicate of a lifecycle is told.
pub(super) struct Order<'a> {
    pub(super) prepared: &'a dyn Prepared,
    pub(super) timeout: Duration,
    /// Of the arrivals.
    pub(super) rng: Rng,
}

/// Runs a replicate of a lifecycle of many boxes. All are gone when this returns.
///
/// The first two lifecycles are launches like any other, and the run's own.
pub(super) fn live(lifecycle: Lifecycle, order: Order<'_>) -> Result<Sample, Error> {
    match lifecycle {
        Lifecycle::Isolated(_) | Lifecycle::Sustained(_) => Ok(Sample::default()),
        Lifecycle::Open(per_s, arrivals) => open(order, per_s, arrivals),
        Lifecycle::Burst(count) => burst(&order, count),
        Lifecycle::Grow(count) => grow(&order, count),
        Lifecycle::Density(most) => density(&order, most),
    }
}

/// When each box is to be launched, in nanoseconds from the start.
fn intended_ns(per_s: u32, arrivals: Arrivals, rng: &mut Rng) -> Vec<u64> {
    let mean_ns = 1e9 / f64::from(per_s.max(1));
    let mut at_ns = 0.0;
    let mut next = || {
        let between = match arrivals {
            Arrivals::Uniform => 1.0,
            Arrivals::Poisson => -(1.0 - rng.unit()).ln(),
        };
        at_ns += between * mean_ns;
        at_ns as u64
    };
    (0..ARRIVALS).map(|_| next()).collect()
}

fn open(mut order: Order<'_>, per_s: u32, arrivals: Arrivals) -> Result<Sample, Error> {
    let intended = intended_ns(per_s, arrivals, &mut order.rng);
    let mut crowd = Crowd::default();
    let mut living = Vec::with_capacity(intended.len());
    let zero_ns = now_ns();
    for offset_ns in &intended {
        let due_ns = zero_ns + offset_ns;
        while now_ns() < due_ns {
            crowd.attend(0..crowd.len(), due_ns)?;
        }
        living.push(crowd.living() as f64);
        order.prepared.reset()?;
        crowd.launch(order.prepared)?;
    }
    let all = 0..crowd.len();
    crowd.until(all, Edge::Clean, order.timeout)?;
    let since_intended = |edge: Edge| -> Vec<f64> {
        let each = intended.iter().enumerate();
        each.filter_map(|(index, offset_ns)| {
            Some(crowd.passed_ns(index, edge)?.saturating_sub(zero_ns + offset_ns) as f64)
        })
        .collect()
    };
    let alive = MetricSamples { values: living, ..metric("live_count", Unit::Count, 0.0) };
    Ok(sample_of(vec![
        times("latency_ns", since_intended(Edge::Init)),
        times("delay_ns", since_intended(Edge::Launch)),
        alive,
    ]))
}

fn burst(order: &Order<'_>, count: u32) -> Result<Sample, Error> {
    let mut crowd = Crowd::default();
    order.prepared.reset()?;
    let zero_ns = now_ns();
    for _ in 0..count {
        crowd.launch(order.prepared)?;
        // Whoever has spoken meanwhile is heard, and nobody waited for.
        crowd.attend(0..crowd.len(), 0)?;
    }
    let all = 0..crowd.len();
    crowd.until(all.clone(), Edge::Clean, order.timeout)?;
    let latencies: Vec<f64> = all
        .filter_map(|index| Some((crowd.passed_ns(index, Edge::Init)? - zero_ns) as f64))
        .collect();
    let whole = latencies.iter().copied().fold(0.0, f64::max);
    Ok(sample_of(vec![times("latency_ns", latencies), times("whole_ns", vec![whole])]))
}

/// How many live when start-up is told: 1, 10, 100 … and the last.
fn milestones(count: u32) -> Vec<u32> {
    let powers = std::iter::successors(Some(1_u32), |power| power.checked_mul(10));
    let mut milestones: Vec<u32> = powers.take_while(|power| *power < count).collect();
    milestones.push(count);
    milestones
}

fn grow(order: &Order<'_>, count: u32) -> Result<Sample, Error> {
    let _room = Room::for_boxes(count)?;
    let mut crowd = Crowd::default();
    for _ in 0..count {
        one_more(&mut crowd, order)?;
    }
    let starts = crowd.starts_ns();
    let mut metrics: Vec<MetricSamples> = Vec::new();
    for milestone in milestones(count) {
        let start = starts.get(milestone as usize - 1).copied();
        metrics.extend(start.map(|ns| times(&format!("start_at_{milestone}_ns"), vec![ns])));
    }
    let ends = crowd.tear_down()?;
    let each = |read: fn(&super::crowd::TearDown) -> u64| -> Vec<f64> {
        ends.iter().map(|end| read(end) as f64).collect()
    };
    metrics.push(times("start_ns", starts));
    metrics.push(times("end_ns", each(|end| end.end_ns)));
    metrics.push(times("teardown_ns", each(|end| end.clean_ns)));
    Ok(sample_of(metrics))
}

fn one_more(crowd: &mut Crowd, order: &Order<'_>) -> Result<(), Error> {
    crowd.add(order.prepared, order.timeout)?;
    if crowd.living() < crowd.len() {
        let why = "it ended, or one before it, and was to stay".to_owned();
        return Err(Error::Box { number: crowd.len(), why });
    }
    Ok(())
}

fn density(order: &Order<'_>, most: u32) -> Result<Sample, Error> {
    let mut crowd = Crowd::default();
    let (parts_before, used_before) = (parts()?, system_used_bytes()?);
    let asked =
        || Limit { cause: "asked".to_owned(), why: format!("no more than {most} were asked for") };
    let mut limit = asked();
    for _ in 0..most {
        if let Some(found) = limits::reached() {
            limit = found;
            break;
        }
        match one_more(&mut crowd, order) {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) if crowd.len() < 2 => return Err(error),
            Err(error) => {
                limit = Limit { cause: "launch".to_owned(), why: error.to_string() };
                break;
            }
        }
    }
    let count = crowd.living() as f64;
    let grown = system_used_bytes()?.cast_signed() - used_before.cast_signed();
    let parts = parts_grown(&parts_before, &parts()?);
    let last = (0..crowd.len()).rev().find_map(|index| crowd.start_ns(index));
    crowd.end()?;
    let each = |bytes: i64| bytes as f64 / count.max(1.0);
    let boxes =
        MetricSamples { better: Better::Higher, ..metric("boxes_count", Unit::Count, count) };
    let mut metrics = vec![boxes, metric("each_system_bytes", Unit::Bytes, each(grown))];
    metrics.extend(last.map(|ns| times("last_start_ns", vec![ns])));
    metrics.extend(parts.iter().map(|(name, _, bytes)| {
        metric(&format!("each_{}_bytes", name.to_lowercase()), Unit::Bytes, each(*bytes))
    }));
    Ok(Sample { limit: Some(limit), ..sample_of(metrics) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_lifecycles_are_read_as_they_are_written() {
        for text in [
            "isolated:60",
            "sustained:10",
            "open:20",
            "open:20:uniform",
            "burst:8",
            "grow:100",
            "density",
            "density:40",
        ] {
            assert_eq!(text.parse::<Lifecycle>().unwrap().to_string(), text);
        }
        assert_eq!("isolated".parse::<Lifecycle>(), Ok(Lifecycle::Isolated(60)));
        for text in [
            "",
            "open",
            "open:0",
            "open:5:odd",
            "burst",
            "burst:-1",
            "grow:10001",
            "grow:3:x",
            "open:1:uniform:y",
        ] {
            let error = text.parse::<Lifecycle>().unwrap_err();
            assert!(error.to_string().contains("isolated[:REST_MS]"), "{error}");
        }
    }

    #[test]
    fn test_arrivals_keep_their_rate_and_order() {
        let uniform = intended_ns(100, Arrivals::Uniform, &mut Rng::new(1));
        assert_eq!((uniform[0], uniform[39]), (10_000_000, 400_000_000));
        let mut mean = 0.0;
        for seed in 0..50 {
            let poisson = intended_ns(100, Arrivals::Poisson, &mut Rng::new(seed));
            assert!(poisson.is_sorted());
            mean += poisson[39] as f64 / 50.0;
        }
        // Of 50 sums of 40 exponential times the standard error is 2.2 %.
        assert!((0.93..1.07).contains(&(mean / 4e8)), "{mean}");
    }

    #[test]
    fn test_milestones_are_powers_of_ten_and_the_last() {
        assert_eq!(milestones(1), [1]);
        assert_eq!(milestones(100), [1, 10, 100]);
        assert_eq!(milestones(25), [1, 10, 25]);
    }
}
