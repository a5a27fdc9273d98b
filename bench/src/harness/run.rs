//! Runs a plan: prepare every cell, then blocks of replicates until the schedule is done.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use super::attendant::Nobody;
use super::crowd;
use super::density::{Density, Error as DensityError, density};
use super::lifecycle::{self, Lifecycle};
use super::progress::Progress;
use super::replicate::{self, Conduct, replicate};
use super::series::series;
use super::stopping::Stopping;
use crate::backend::{Assignment, Availability, Backend, Prepared};
use crate::clock::now_ns;
use crate::interrupt;
use crate::kit::Kit;
use crate::results::{
    self, Better, Cell, Edge, Failure, MetricSamples, Sample, Status, StopReason,
};
use crate::statistics::Rng;
use tare_workload::{Unit, Workload};

/// A cell to be measured.
pub struct CellPlan {
    /// Where.
    pub backend: &'static dyn Backend,
    /// What.
    pub workload: &'static dyn Workload,
    /// How.
    pub assignment: Assignment,
    /// What tells this cell from others of the same backend and workload.
    pub variant: BTreeMap<String, String>,
    /// Number of samples wanted; the cell takes part in the first so many blocks.
    pub replicates: u32,
    /// Whether the box is weighed while it rests.
    pub weigh: bool,
    /// What each replicate does.
    pub act: Act,
    /// Rest before each launch, where it is neither the schedule's nor the act's.
    pub gap: Option<Duration>,
}

/// What a replicate does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Act {
    /// Launches a box and follows it to its end.
    #[default]
    Launch,
    /// Takes a snapshot of a fresh guest.
    Capture,
    /// Unpacks an image.
    Unpack,
    /// Launches so many boxes back to back, and one before them, for a single sample.
    Series(u32),
    /// Launches so many boxes, which live together, and weighs them all.
    Crowd(u32),
    /// Launches boxes as they follow each other in use.
    Lifecycle(Lifecycle),
}

impl Act {
    /// Launches of the cell that belong together, back to back.
    fn launches(self) -> u32 {
        match self {
            Act::Lifecycle(Lifecycle::Sustained(count)) => count,
            _ => 1,
        }
    }

    /// Rest before each.
    fn gap(self, schedule: Schedule) -> Duration {
        match self {
            Act::Lifecycle(Lifecycle::Isolated(rest_ms)) => Duration::from_millis(rest_ms.into()),
            Act::Lifecycle(_) => Duration::ZERO,
            _ => schedule.gap,
        }
    }
}

/// When and how often.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Seed of the order within blocks.
    pub seed: u64,
    /// Blocks that are run first and recorded as warm-ups.
    pub warmups: u32,
    /// Rest before each launch; zero is back to back.
    pub gap: Duration,
    /// Limit of one replicate.
    pub timeout: Duration,
    /// When to end before every replicate is run.
    pub until: Option<Until>,
}

/// A run that ends when its figures are precise enough, or its time is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Until {
    /// The interval of every median that a cell is measured for lies within so many percent of it.
    pub precision_percent: f64,
    /// The next block is not begun if it would end later than this after the first launch.
    pub budget: Duration,
}

impl From<Schedule> for results::Schedule {
    fn from(schedule: Schedule) -> results::Schedule {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        results::Schedule {
            warmup_blocks: schedule.warmups,
            gap_ns: ns(schedule.gap),
            timeout_ns: ns(schedule.timeout),
            stop: schedule.until.map(|until| results::Stop {
                precision_percent: until.precision_percent,
                budget_ns: ns(until.budget),
                reason: StopReason::Replicates,
            }),
        }
    }
}

/// What came of a plan.
pub struct Finished {
    /// One cell for each of the plan, in its order.
    pub cells: Vec<Cell>,
    /// Index of the cell of each launch, in the order of launches.
    pub order: Vec<u32>,
    /// True where the user ended the run early.
    pub interrupted: bool,
    /// What ended the run, where it was to end by itself.
    pub stopped: StopReason,
}

/// A cell in work; `prepared` is absent where it cannot run, and `cell.status` says why.
struct Work {
    cell: Cell,
    prepared: Option<Box<dyn Prepared>>,
}

/// After so many failures in a row, with no success at all, a cell is given up.
const HOPELESS_FAILURES: usize = 3;

/// Measures every cell of the plan.
///
/// A cell that fails is data: it is recorded, and the others go on.
pub fn run(kit: &Kit, plan: &[CellPlan], schedule: Schedule) -> Finished {
    let mut works: Vec<Work> =
        plan.iter().enumerate().map(|(id, cell)| prepare(kit, id, cell)).collect();
    let mut order = Vec::new();
    let mut rng = Rng::new(schedule.seed);
    let replicates = |cell: &CellPlan| u64::from(cell.replicates) + u64::from(schedule.warmups);
    let mut progress = Progress::new(plan.iter().map(replicates), schedule.until);
    let mut stopping = Stopping::new(schedule);
    let blocks = schedule.warmups + plan.iter().map(|cell| cell.replicates).max().unwrap_or(0);
    'blocks: for block in 0..blocks {
        let measured: Vec<&Cell> = works.iter().map(|work| &work.cell).collect();
        if stopping.is_over(block, &measured) {
            break;
        }
        let mut indices: Vec<usize> = (0..plan.len()).collect();
        rng.shuffle(&mut indices);
        for index in indices {
            if block >= schedule.warmups + plan[index].replicates {
                continue;
            }
            if !works[index].is_hopeful() {
                progress.skip(index);
                continue;
            }
            let started_ns = now_ns();
            for _ in 0..plan[index].act.launches() {
                let gap = plan[index].gap.unwrap_or_else(|| plan[index].act.gap(schedule));
                if !gap.is_zero() {
                    sleep(gap);
                }
                if interrupt::requested() {
                    break 'blocks;
                }
                order.push(u32::try_from(index).unwrap_or(u32::MAX));
                works[index].launch(&plan[index], block, schedule);
            }
            progress.step(index, Duration::from_nanos(now_ns().saturating_sub(started_ns)));
        }
    }
    progress.finish();
    let cells = works.into_iter().map(Work::finish).collect();
    Finished { cells, order, interrupted: interrupt::requested(), stopped: stopping.reason }
}

fn prepare(kit: &Kit, id: usize, plan: &CellPlan) -> Work {
    let mut cell = Cell {
        id: u32::try_from(id).unwrap_or(u32::MAX),
        backend: plan.backend.name().to_owned(),
        workload: plan.assignment.job.workload.clone(),
        variant: plan.variant.clone(),
        ..Cell::default()
    };
    let runs = plan.backend.probe(kit);
    let suits = || plan.backend.suits(&plan.assignment);
    let available = if runs == Availability::Ready { suits() } else { runs };
    if let Availability::Unavailable { why, remedy } = available {
        cell.status = Status::Unsupported { why, remedy };
        return Work { cell, prepared: None };
    }
    let started_ns = now_ns();
    match plan.backend.prepare(kit, &plan.assignment) {
        Ok(prepared) => {
            cell.prepare_ns = now_ns() - started_ns;
            cell.state = prepared.state();
            let parameters = &plan.assignment.job.parameters;
            cell.state
                .extend(parameters.iter().map(|(name, value)| format!("parameter {name}={value}")));
            if let Act::Lifecycle(lifecycle) = plan.act {
                cell.state.push(lifecycle.state());
            }
            Work { cell, prepared: Some(prepared) }
        }
        Err(error) => {
            cell.status = Status::Failed { why: error.to_string() };
            Work { cell, prepared: None }
        }
    }
}

impl Work {
    fn is_hopeful(&self) -> bool {
        let is_hopeless = self.cell.samples.is_empty()
            && self.cell.warmups.is_empty()
            && self.cell.failures.len() >= HOPELESS_FAILURES;
        self.prepared.is_some() && !is_hopeless
    }

    fn launch(&mut self, plan: &CellPlan, block: u32, schedule: Schedule) {
        let Some(prepared) = &self.prepared else { return };
        let conduct =
            Conduct { workload: plan.workload, weigh: plan.weigh, timeout: schedule.timeout };
        let result = match plan.act {
            Act::Launch | Act::Lifecycle(Lifecycle::Isolated(_) | Lifecycle::Sustained(_)) => {
                prepared
                    .reset()
                    .map_err(replicate::Error::from)
                    .and_then(|()| replicate(prepared.as_ref(), conduct, &mut Nobody))
            }
            Act::Series(count) => series(prepared.as_ref(), conduct, count),
            Act::Unpack => prepared
                .unpack()
                .map(|ns| time_sample("unpack_ns", ns))
                .map_err(replicate::Error::from),
            Act::Capture => prepared
                .capture()
                .map(|ns| time_sample("capture_ns", ns))
                .map_err(replicate::Error::from),
            Act::Crowd(count) => density(prepared.as_ref(), count, schedule.timeout)
                .map(crowd_sample)
                .map_err(|error| match error {
                    DensityError::Interrupted => replicate::Error::Interrupted,
                    error => replicate::Error::Box(error.to_string()),
                }),
            Act::Lifecycle(lifecycle) => {
                let purpose = format!("arrivals {} {block}", self.cell.id);
                let rng = Rng::for_purpose(schedule.seed, &purpose);
                let order = lifecycle::Order {
                    prepared: prepared.as_ref(),
                    timeout: schedule.timeout,
                    rng,
                };
                lifecycle::live(lifecycle, order).map_err(|error| match error {
                    crowd::Error::Interrupted => replicate::Error::Interrupted,
                    error => replicate::Error::Box(error.to_string()),
                })
            }
        };
        match result {
            Ok(sample) if sample.exit_code != 0 => {
                let why = format!("the box ended with exit code {}", sample.exit_code);
                self.cell.failures.push(Failure { block, why });
            }
            Ok(mut sample) => {
                sample.block = block;
                let is_warmup = block < schedule.warmups;
                let list = if is_warmup { &mut self.cell.warmups } else { &mut self.cell.samples };
                list.push(sample);
            }
            Err(replicate::Error::Interrupted) => {}
            Err(error) => self.cell.failures.push(Failure { block, why: error.to_string() }),
        }
    }

    fn finish(mut self) -> Cell {
        if self.prepared.is_some() && self.cell.samples.is_empty() {
            let why = match self.cell.failures.last() {
                Some(failure) => failure.why.clone(),
                None => "no replicate was run before the end".to_owned(),
            };
            self.cell.status = Status::Failed { why };
        }
        self.cell
    }
}

/// What is no launch of one box has metrics, and of the edges the zero of its time.
pub(super) fn sample_of(metrics: Vec<MetricSamples>) -> Sample {
    Sample { edges_ns: [(Edge::Launch, 0)].into(), metrics, ..Sample::default() }
}

/// A metric of which less is better.
pub(super) fn metric(name: &str, unit: Unit, value: f64) -> MetricSamples {
    let (name, unit) = (name.to_owned(), unit.as_str().to_owned());
    MetricSamples { name, unit, better: Better::Lower, values: vec![value] }
}

/// A metric of many times.
pub(super) fn times(name: &str, values: Vec<f64>) -> MetricSamples {
    MetricSamples { values, ..metric(name, Unit::Nanoseconds, 0.0) }
}

/// What takes one time and is no launch.
fn time_sample(name: &str, ns: u64) -> Sample {
    sample_of(vec![metric(name, Unit::Nanoseconds, ns as f64)])
}

/// How many times longer the last of a crowd took to start than the first.
const GROWTH: &str = "last_start_to_first";

/// The whole for each box, and what it is made of as far as the kernel tells.
fn crowd_sample(density: Density) -> Sample {
    let count = f64::from(density.count.max(1));
    let each = |name: &str, bytes: i64| {
        metric(&format!("each_{name}_bytes"), Unit::Bytes, bytes as f64 / count)
    };
    let parts = density.parts.iter().map(|(name, _, bytes)| each(&name.to_lowercase(), *bytes));
    let growth = density.start_growth();
    let growth = growth.map(|growth| metric(GROWTH, Unit::Count, growth));
    let system = each("system", density.system_delta_bytes);
    sample_of(std::iter::once(system).chain(parts).chain(growth).collect())
}
