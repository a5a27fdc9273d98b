//! The metrics that a cell was measured for.

use super::{Cell, Edge, Sample, span_name};

/// What a workload says of the conditions that it found: no figure of the box.
const CONDITIONS: [&str; 2] = ["clock_ns", "cached_bytes"];
/// What weighing is for.
const WEIGHT: [&str; 2] = ["memory_box_bytes", "memory_private_dirty_bytes"];

impl Cell {
    /// Names of the metrics that the cell was measured for: what its workload reported, what it
    /// weighs where it was weighed, and otherwise its start and its whole life.
    ///
    /// More can be read off its samples. Whoever looks at many metrics finds differences by chance,
    /// and corrects for that by finding fewer of the true ones.
    pub fn headline(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for metric in self.samples.iter().flat_map(|sample| &sample.metrics) {
            if !CONDITIONS.contains(&metric.name.as_str()) && !names.contains(&metric.name) {
                names.push(metric.name.clone());
            }
        }
        if self.samples.iter().any(|sample| sample.memory.is_some()) {
            names.extend(WEIGHT.map(str::to_owned));
        }
        let has_passed = |edge: Edge| move |sample: &Sample| sample.edges_ns.contains_key(&edge);
        if names.is_empty() && self.samples.iter().any(has_passed(Edge::Init)) {
            let spans = [Edge::Init, Edge::Exit].map(|edge| span_name(Edge::Launch, edge));
            names.extend(spans);
        }
        names
    }

    /// How many boxes live at once in each of its samples, where its variant says so.
    pub fn live(&self) -> Option<u32> {
        self.variant.get("live")?.parse().ok()
    }

    /// Whether its boxes live together: its metrics are shares of what they all add to the system.
    pub fn is_crowd(&self) -> bool {
        self.live().is_some()
    }
}

#[cfg(test)]
mod tests {
    use crate::results::Clock;
    use crate::results::fixture::synthetic;

    #[test]
    fn test_headline_is_what_each_cell_is_for() {
        let results = synthetic(Clock::Wall);
        let headline = |workload: &str, is_weighed: bool| {
            let is_meant = |cell: &&crate::results::Cell| {
                let has_samples = !cell.samples.is_empty();
                has_samples
                    && cell.workload == workload
                    && cell.variant.contains_key("weighed") == is_weighed
            };
            results.cells.iter().find(is_meant).unwrap().headline()
        };
        assert_eq!(headline("start", false), ["launch_to_init_ns", "launch_to_exit_ns"]);
        assert_eq!(headline("start", true), ["memory_box_bytes", "memory_private_dirty_bytes"]);
        assert_eq!(headline("probe", false), ["mark_ns"]);
        assert!(headline("cpu", false).contains(&"latency_ns".to_owned()));
    }
}
