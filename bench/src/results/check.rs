//! Is a document consistent with itself?

use std::collections::BTreeMap;

use super::{Cell, Edge, Results, Sample, Status, Summary};

/// What is wrong with a document, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// An entry of `order` is not the index of a cell.
    #[error("order[{position}] is {index}, but there are {cells} cells")]
    OrderIndex {
        /// Position in `order`.
        position: usize,
        /// What stands there.
        index: u32,
        /// Number of cells.
        cells: usize,
    },
    /// A cell was launched more or less often than it has samples, warm-ups and failures.
    #[error(
        "cell {cell} ({title}) is {launches} times in order, but has {recorded} samples, warm-ups and failures"
    )]
    OrderCount {
        /// The cell.
        cell: usize,
        /// Its title.
        title: String,
        /// How often it is in `order`.
        launches: usize,
        /// How many outcomes it has.
        recorded: usize,
    },
    /// A cell's id is not its index.
    #[error("cells[{index}] has id {id}; a cell's id is its index")]
    CellId {
        /// Index of the cell.
        index: usize,
        /// Its id.
        id: u32,
    },
    /// A cell has samples but is not `ok`, or is `ok` without samples.
    #[error("cell {cell} ({title}): its status does not go with its {samples} samples")]
    Status {
        /// The cell.
        cell: usize,
        /// Its title.
        title: String,
        /// How many samples it has.
        samples: usize,
    },
    /// The edges of a sample go back in time, or do not start at launch.
    #[error("cell {cell}, {list}[{sample}]: the edge '{edge}' is not where it can be: {why}")]
    Edges {
        /// The cell.
        cell: usize,
        /// `samples` or `warmups`.
        list: &'static str,
        /// Index in the list.
        sample: usize,
        /// The edge.
        edge: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A value is not a number, or infinite; JSON cannot say it.
    #[error("cell {cell}, {list}[{sample}]: a value of '{metric}' is not finite")]
    NotFinite {
        /// The cell.
        cell: usize,
        /// `samples` or `warmups`.
        list: &'static str,
        /// Index in the list.
        sample: usize,
        /// The metric.
        metric: String,
    },
    /// A summary is not that of the cell's samples.
    #[error("cell {cell} ({title}): the summary of '{metric}' is not that of its samples")]
    Summary {
        /// The cell.
        cell: usize,
        /// Its title.
        title: String,
        /// The metric.
        metric: String,
    },
}

/// Summaries may differ by this much, relatively, from those recomputed: decimal digits of a
/// number can be written and read in more than one way, samples cannot be different ones.
const SUMMARY_TOLERANCE: f64 = 1e-9;

impl Results {
    /// Checks what the types do not: indices, edges, numbers, and summaries against samples.
    ///
    /// # Errors
    /// The first [`Inconsistency`].
    pub fn check(&self) -> Result<(), Inconsistency> {
        let launches = self.launches()?;
        for (index, cell) in self.cells.iter().enumerate() {
            if usize::try_from(cell.id) != Ok(index) {
                return Err(Inconsistency::CellId { index, id: cell.id });
            }
            let recorded = cell.samples.len() + cell.warmups.len() + cell.failures.len();
            let launches = launches.get(&cell.id).copied().unwrap_or(0);
            // Where a run was interrupted, the launch that was cut short has no outcome.
            if launches != recorded && !(self.interrupted && launches == recorded + 1) {
                return Err(Inconsistency::OrderCount {
                    cell: index,
                    title: cell.title(),
                    launches,
                    recorded,
                });
            }
            if matches!(cell.status, Status::Ok) == cell.samples.is_empty() {
                let samples = cell.samples.len();
                return Err(Inconsistency::Status { cell: index, title: cell.title(), samples });
            }
            for (list, samples) in [("warmups", &cell.warmups), ("samples", &cell.samples)] {
                for (position, sample) in samples.iter().enumerate() {
                    check_sample(sample, Place { cell: index, list, sample: position })?;
                }
            }
            check_summaries(cell, index, self.seed)?;
        }
        Ok(())
    }

    fn launches(&self) -> Result<BTreeMap<u32, usize>, Inconsistency> {
        let mut launches = BTreeMap::new();
        for (position, &index) in self.order.iter().enumerate() {
            if usize::try_from(index).is_ok_and(|index| index >= self.cells.len()) {
                return Err(Inconsistency::OrderIndex { position, index, cells: self.cells.len() });
            }
            *launches.entry(index).or_insert(0) += 1;
        }
        Ok(launches)
    }
}

#[derive(Clone, Copy)]
struct Place {
    cell: usize,
    list: &'static str,
    sample: usize,
}

fn check_sample(sample: &Sample, place: Place) -> Result<(), Inconsistency> {
    let Place { cell, list, sample: index } = place;
    let edges = |edge: Edge, why| Inconsistency::Edges {
        cell,
        list,
        sample: index,
        edge: edge.name(),
        why,
    };
    if sample.edges_ns.get(&Edge::Launch) != Some(&0) {
        return Err(edges(Edge::Launch, "it is the zero of the sample's time"));
    }
    let mut latest_ns = 0;
    for (&edge, &at_ns) in &sample.edges_ns {
        if at_ns < latest_ns {
            return Err(edges(edge, "it is before the edge that precedes it"));
        }
        latest_ns = at_ns;
    }
    for metric in &sample.metrics {
        if !metric.values.iter().all(|value| value.is_finite()) {
            return Err(Inconsistency::NotFinite {
                cell,
                list,
                sample: index,
                metric: metric.name.clone(),
            });
        }
    }
    Ok(())
}

fn check_summaries(cell: &Cell, index: usize, seed: u64) -> Result<(), Inconsistency> {
    let expected = cell.summarise(seed);
    let mismatch = |metric: &str| Inconsistency::Summary {
        cell: index,
        title: cell.title(),
        metric: metric.to_owned(),
    };
    for (position, summary) in cell.summaries.iter().enumerate() {
        if !expected.get(position).is_some_and(|other| is_close(summary, other)) {
            return Err(mismatch(&summary.metric));
        }
    }
    match expected.get(cell.summaries.len()) {
        Some(missing) => Err(mismatch(&missing.metric)),
        None => Ok(()),
    }
}

fn is_close(one: &Summary, other: &Summary) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() <= SUMMARY_TOLERANCE * a.abs().max(b.abs());
    let p99 = |summary: &Summary| summary.p99.map(|p99| [Some(p99.value), p99.low, p99.high]);
    let numbers = |summary: &Summary| {
        let median = summary.median;
        let always =
            [Some(median.value), median.low, median.high, Some(summary.min), Some(summary.max)];
        always.into_iter().chain(p99(summary).into_iter().flatten()).collect::<Vec<_>>()
    };
    let (ones, others) = (numbers(one), numbers(other));
    one.metric == other.metric
        && one.unit == other.unit
        && one.better == other.better
        && one.n == other.n
        && ones.len() == others.len()
        && ones.iter().zip(&others).all(|pair| match pair {
            (Some(a), Some(b)) => close(*a, *b),
            (None, None) => true,
            _ => false,
        })
}
