//! Summaries: statistics of a cell's samples that can be recomputed from them.
//!
//! The unit is the instance: a metric of which an instance took many values enters as their
//! median, once. What varies within an instance and what varies between instances are not mixed;
//! the values themselves are in the samples.

use serde::{Deserialize, Serialize};

use super::{Better, Cell, Edge, Sample};
use crate::statistics::{Interval, Rng, median, median_interval, p99};

/// A value with its 95 % interval; without one where the samples are too few to have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Lower end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Estimate {
    /// A value with or without its interval.
    pub fn new(value: f64, interval: Option<Interval>) -> Estimate {
        Estimate { value, low: interval.map(|ends| ends.low), high: interval.map(|ends| ends.high) }
    }

    /// The interval, where there is one.
    pub fn interval(&self) -> Option<Interval> {
        self.low.zip(self.high).map(|(low, high)| Interval { low, high })
    }
}

/// Statistics of one metric over a cell's instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The metric: `launch_to_init_ns`, `memory_pss_bytes`, or a name that the workload gave.
    pub metric: String,
    /// Unit of every value here.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// Number of instances that showed the metric.
    pub n: u32,
    /// Their median.
    pub median: Estimate,
    /// Their 99th percentile, where there are enough of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<Estimate>,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// Name of the metric "from one edge to another": `launch_to_init_ns`.
pub fn span_name(from: Edge, to: Edge) -> String {
    format!("{}_to_{}_ns", from.name(), to.name())
}

/// What can be read off a sample besides the workload's own metrics.
enum Derived {
    Span(Edge, Edge),
    Memory(Reading),
}

type Reading = fn(&Sample) -> Option<f64>;

const MEMORY: [(&str, Reading); 9] = [
    ("memory_box_bytes", |sample| {
        let memory = sample.memory.as_ref()?;
        Some(memory.pss_bytes.saturating_add(memory.guest_ram_touched_bytes.unwrap_or(0)) as f64)
    }),
    ("memory_pss_bytes", |sample| Some(sample.memory.as_ref()?.pss_bytes as f64)),
    ("memory_private_dirty_bytes", |sample| {
        Some(sample.memory.as_ref()?.private_dirty_bytes as f64)
    }),
    ("memory_rss_bytes", |sample| Some(sample.memory.as_ref()?.rss_bytes as f64)),
    ("memory_guest_ram_touched_bytes", |sample| {
        Some(sample.memory.as_ref()?.guest_ram_touched_bytes? as f64)
    }),
    ("memory_system_delta_bytes", |sample| {
        Some(sample.memory.as_ref()?.system_delta_bytes? as f64)
    }),
    ("memory_system_kernel_bytes", |sample| {
        Some(sample.memory.as_ref()?.system_kernel_bytes? as f64)
    }),
    ("memory_system_page_cache_bytes", |sample| {
        Some(sample.memory.as_ref()?.system_page_cache_bytes? as f64)
    }),
    ("memory_peak_rss_bytes", |sample| Some(sample.peak_rss_bytes? as f64)),
];

impl Derived {
    fn find(metric: &str) -> Option<Derived> {
        if let Some((_, read)) = MEMORY.iter().find(|(name, _)| *name == metric) {
            return Some(Derived::Memory(*read));
        }
        let (from, to) = metric.strip_suffix("_ns")?.split_once("_to_")?;
        let edge = |name: &str| Edge::ALL.into_iter().find(|edge| edge.name() == name);
        Some(Derived::Span(edge(from)?, edge(to)?))
    }

    fn read(&self, sample: &Sample) -> Option<f64> {
        match self {
            Derived::Span(from, to) => {
                let (from, to) = (sample.edges_ns.get(from)?, sample.edges_ns.get(to)?);
                Some(to.checked_sub(*from)? as f64)
            }
            Derived::Memory(read) => read(sample),
        }
    }
}

/// What weighing a sample's box gave, by the names of the metrics.
pub(crate) fn memory_metrics(sample: &Sample) -> impl Iterator<Item = (&'static str, f64)> {
    MEMORY.into_iter().filter_map(|(name, read)| Some((name, read(sample)?)))
}

/// One value of the metric for each of the cell's samples that shows it, in order.
pub fn series(cell: &Cell, metric: &str) -> Vec<f64> {
    match Derived::find(metric) {
        Some(derived) => cell.samples.iter().filter_map(|sample| derived.read(sample)).collect(),
        None => cell.samples.iter().filter_map(|sample| reported(sample, metric)).collect(),
    }
}

/// Which direction of the metric is good; spans and memory are better when they are small.
pub fn better(cell: &Cell, metric: &str) -> Better {
    let reported = cell.samples.iter().flat_map(|sample| &sample.metrics);
    reported
        .filter(|candidate| candidate.name == metric)
        .map(|found| found.better)
        .next()
        .unwrap_or(Better::Lower)
}

fn reported(sample: &Sample, metric: &str) -> Option<f64> {
    let found = sample.metrics.iter().find(|candidate| candidate.name == metric)?;
    median(&found.values)
}

impl Cell {
    /// Computes the cell's summaries anew from its samples.
    ///
    /// The intervals depend on the run's seed, the cell's id and the metric's name alone.
    pub fn summarise(&self, seed: u64) -> Vec<Summary> {
        self.metrics().iter().filter_map(|metric| self.summarise_one(metric, seed)).collect()
    }

    fn summarise_one(&self, metric: &Metric, seed: u64) -> Option<Summary> {
        let values = series(self, &metric.name);
        let mut rng = self.summary_rng(&metric.name, seed);
        Some(Summary {
            metric: metric.name.clone(),
            unit: metric.unit.clone(),
            better: metric.better,
            n: u32::try_from(values.len()).unwrap_or(u32::MAX),
            median: Estimate::new(median(&values)?, median_interval(&values, &mut rng)),
            p99: p99(&values).map(|(value, interval)| Estimate::new(value, Some(interval))),
            min: values.iter().copied().reduce(f64::min)?,
            max: values.iter().copied().reduce(f64::max)?,
        })
    }

    /// What the interval of a metric is drawn with: who computes it anew finds the same interval.
    pub(crate) fn summary_rng(&self, metric: &str, seed: u64) -> Rng {
        Rng::for_purpose(seed, &format!("{} {metric}", self.id))
    }

    /// Spans from launch, then phases between neighbouring edges, then memory, then the workload's.
    fn metrics(&self) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = Vec::new();
        let edges = self.common_edges();
        let from_launch = edges.iter().skip(1).map(|&edge| (Edge::Launch, edge));
        let phases = edges.windows(2).skip(1).map(|pair| (pair[0], pair[1]));
        for (from, to) in from_launch.chain(phases) {
            metrics.push(Metric::new(&span_name(from, to), "ns", Better::Lower));
        }
        for (name, read) in MEMORY {
            if self.samples.iter().any(|sample| read(sample).is_some()) {
                metrics.push(Metric::new(name, "bytes", Better::Lower));
            }
        }
        for reported in self.samples.iter().flat_map(|sample| &sample.metrics) {
            if !metrics.iter().any(|metric| metric.name == reported.name) {
                metrics.push(Metric::new(&reported.name, &reported.unit, reported.better));
            }
        }
        metrics
    }

    /// The edges that every sample has passed, in order.
    pub fn common_edges(&self) -> Vec<Edge> {
        let is_common =
            |edge: &Edge| self.samples.iter().all(|sample| sample.edges_ns.contains_key(edge));
        if self.samples.is_empty() {
            return Vec::new();
        }
        Edge::ALL.into_iter().filter(is_common).collect()
    }
}

struct Metric {
    name: String,
    unit: String,
    better: Better,
}

impl Metric {
    fn new(name: &str, unit: &str, better: Better) -> Metric {
        Metric { name: name.to_owned(), unit: unit.to_owned(), better }
    }
}
