//! What a report says, before it has a form.

use super::table::{Datum, Table};
use super::{facts, figures};
use crate::claims;
use crate::results::{
    Better, Cell, Clock, Edge, Estimate, Outcome, Results, Status, Verdict, better, series,
    span_name,
};
use crate::statistics::{Rng, median, median_interval, ratio_interval};

/// Name of the backend that all others are multiples of.
pub(super) const BASELINE: &str = "process";

/// Metric that tells what the marks themselves cost.
const MARK: &str = "mark_ns";

/// What each of many boxes adds to the host's used memory.
pub(super) const EACH: &str = "each_system_bytes";

/// Everything that a report says.
pub(super) struct Digest<'a> {
    pub(super) results: &'a Results,
    pub(super) title: String,
    pub(super) introduction: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) claims: Vec<Verdict>,
    pub(super) holds_for: String,
    /// Figures.
    pub(super) tables: Vec<Table>,
    pub(super) reproduce: Vec<(String, String)>,
}

/// Cells of the same workload and variant, one for each backend.
pub(super) struct Group<'a> {
    pub(super) workload: &'a str,
    pub(super) variant: String,
    pub(super) cells: Vec<&'a Cell>,
}

impl<'a> Digest<'a> {
    pub(super) fn new(results: &'a Results) -> Digest<'a> {
        // A suite is run for its figures, and has no cells for claims.
        let claims = if results.suite.is_some() { Vec::new() } else { claims::judge(results) };
        let holds_for = claims.first().map(|verdict| verdict.holds_for.clone()).unwrap_or_default();
        let groups = groups(results);
        let mut tables: Vec<Table> = figures::table(results).into_iter().collect();
        for group in groups.iter().filter(|group| group.is_start_up()) {
            tables.push(start_up(results, group));
            tables.push(phases(group));
        }
        for group in groups.iter().filter(|group| group.is_weighed()) {
            tables.push(memory(results, group));
        }
        tables.extend(
            groups
                .iter()
                .filter(|group| !group.metrics().is_empty())
                .map(|group| metrics(results, group)),
        );
        if !results.floors.is_empty() {
            tables.push(floors(results));
        }
        tables.extend(facts::failures(results));
        Digest {
            results,
            title: facts::title(results),
            introduction: facts::introduction(results),
            warnings: facts::warnings(results),
            claims,
            holds_for,
            tables,
            reproduce: facts::reproduce(results),
        }
    }

    /// The claims that this run has no experiment for.
    pub(super) fn not_measured(&self) -> impl Iterator<Item = &Verdict> {
        self.claims.iter().filter(|verdict| verdict.outcome == Outcome::NotMeasured)
    }
}

/// The cells by workload and variant, in the order of the file.
pub(super) fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for cell in &results.cells {
        let variant = cell.variant_text();
        match groups
            .iter_mut()
            .find(|group| group.workload == cell.workload && group.variant == variant)
        {
            Some(group) => group.cells.push(cell),
            None => groups.push(Group { workload: &cell.workload, variant, cells: vec![cell] }),
        }
    }
    groups
}

/// The backends, in the order of the file.
pub(super) fn backends(results: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for cell in &results.cells {
        if !names.contains(&cell.backend.as_str()) {
            names.push(&cell.backend);
        }
    }
    names
}

impl<'a> Group<'a> {
    pub(super) fn is_weighed(&self) -> bool {
        self.cells.iter().any(|cell| cell.samples.iter().any(|sample| sample.memory.is_some()))
    }

    /// A start that was not held up by weighing, in which the marks are all there is.
    pub(super) fn is_start_up(&self) -> bool {
        // What is no launch of one box has no edges.
        let mut samples = self.cells.iter().flat_map(|cell| &cell.samples);
        let has_marks = samples.any(|sample| sample.edges_ns.contains_key(&Edge::Init));
        self.workload == "start" && !self.is_weighed() && has_marks && self.live().is_none()
    }

    /// How many other boxes live while one starts, where that is what tells the group.
    pub(super) fn live(&self) -> Option<u32> {
        self.cells.iter().find(|cell| cell.workload == "start")?.live()
    }

    /// Many boxes at once, weighed together.
    pub(super) fn is_crowd(&self) -> bool {
        self.metrics().contains(&EACH)
    }

    /// Starts while others live.
    pub(super) fn is_growth(&self) -> bool {
        self.live().is_some() && !self.is_crowd()
    }

    pub(super) fn title(&self) -> String {
        if self.variant.is_empty() {
            self.workload.to_owned()
        } else {
            format!("{} ({})", self.workload, self.variant)
        }
    }

    /// Cells that have samples.
    pub(super) fn measured(&self) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().copied().filter(|cell| cell.status == Status::Ok)
    }

    pub(super) fn baseline(&self) -> Option<&'a Cell> {
        self.measured().find(|cell| cell.backend == BASELINE)
    }

    /// Whether its workload reported anything.
    pub(super) fn has_metrics(&self) -> bool {
        !self.metrics().is_empty()
    }

    /// Names of what the workload reported, in its order.
    pub(super) fn metrics(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        for reported in
            self.measured().flat_map(|cell| &cell.samples).flat_map(|sample| &sample.metrics)
        {
            if !names.contains(&reported.name.as_str()) {
                names.push(&reported.name);
            }
        }
        names
    }
}

/// How many times the cost of the baseline a cell's metric is: above 1 is worse, for rates too.
pub(super) fn multiple(
    results: &Results,
    group: &Group<'_>,
    cell: &Cell,
    metric: &str,
) -> Option<Estimate> {
    let (values, base) = (series(cell, metric), series(group.baseline()?, metric));
    let is_rate = better(cell, metric) == Better::Higher;
    let (above, below) = if is_rate { (&base, &values) } else { (&values, &base) };
    let mut rng = Rng::for_purpose(results.seed, &format!("multiple {} {metric}", cell.id));
    ratio(above, below, &mut rng)
}

fn ratio(above: &[f64], below: &[f64], rng: &mut Rng) -> Option<Estimate> {
    let denominator = median(below).filter(|&value| value > 0.0)?;
    let value = Some(median(above)? / denominator).filter(|value| value.is_finite())?;
    Some(Estimate::new(value, ratio_interval(above, below, rng)))
}

fn multiple_datum(results: &Results, group: &Group<'_>, cell: &Cell, metric: &str) -> Datum {
    if cell.backend == BASELINE {
        return Datum::Baseline;
    }
    let base = group.baseline().map(|base| base.id);
    Datum::ratio(multiple(results, group, cell, metric)).of(cell.id, metric, base)
}

/// Median time that the virtual CPU spent in `guest` or `vmm`.
pub(super) fn vm_time(cell: &Cell, name: &str) -> Datum {
    let times = cell.samples.iter().filter_map(|sample| sample.vm_times_ns.as_ref()?.get(name));
    let times: Vec<f64> = times.map(|&ns| ns as f64).collect();
    Datum::figure(median(&times).map(|value| Estimate::new(value, None)), "ns")
}

fn figure(cell: &Cell, metric: &str) -> Datum {
    match cell.summary(metric) {
        Some(summary) => {
            Datum::figure(Some(summary.median), &summary.unit).of(cell.id, metric, None)
        }
        None => Datum::Absent,
    }
}

pub(super) fn clock_note(results: &Results) -> &'static str {
    match results.clock {
        Clock::Wall => "",
        Clock::Virtual => " Virtual time.",
    }
}

/// Which floor a backend stands on: the words by which a floor's name or text shows it.
fn floor_words(backend: &str) -> &'static [&'static str] {
    match backend {
        BASELINE => &["vfork", "fork"],
        "container" => &["clone3", "namespaces"],
        _ => &["kvm"],
    }
}

fn over_floor(results: &Results, cell: &Cell) -> Option<Estimate> {
    let find =
        |word: &&str| results.floors.iter().find(|floor| floor.name.to_lowercase().contains(*word));
    let floor = floor_words(&cell.backend).iter().find_map(find)?;
    let samples: Vec<f64> = floor.samples_ns.iter().map(|&ns| ns as f64).collect();
    let mut rng = Rng::for_purpose(results.seed, &format!("floor {}", cell.id));
    ratio(&series(cell, &span_name(Edge::Launch, Edge::Exit)), &samples, &mut rng)
}

pub(super) fn start_up(results: &Results, group: &Group<'_>) -> Table {
    let init = span_name(Edge::Launch, Edge::Init);
    let exit = span_name(Edge::Launch, Edge::Exit);
    let has_p99 = group
        .measured()
        .any(|cell| cell.summary(&init).is_some_and(|summary| summary.p99.is_some()));
    let mut header = vec!["", "n", "launch → init", "× process"];
    if has_p99 {
        header.push("p99 launch → init");
    }
    header.extend(["launch → exit", "× process", "× floor"]);
    let row = |cell: &Cell| {
        let mut row = vec![
            Datum::text(&cell.backend),
            Datum::Count(cell.samples.len()),
            figure(cell, &init),
            multiple_datum(results, group, cell, &init),
        ];
        if has_p99 {
            row.push(Datum::figure(cell.summary(&init).and_then(|summary| summary.p99), "ns"));
        }
        row.extend([
            figure(cell, &exit),
            multiple_datum(results, group, cell, &exit),
            Datum::ratio(over_floor(results, cell)),
        ]);
        row
    };
    Table {
        title: titled("Start-up", group),
        caption: format!(
            "From the first action of the host to the first of the agent in the box (init), and until the box was \
             reaped (exit). × floor: launch → exit over the physical floor of its kind.{}",
            clock_note(results)
        ),
        header: header.into_iter().map(str::to_owned).collect(),
        rows: group.measured().map(row).collect(),
        is_narrow: true,
    }
}

/// The group's title after a heading, where the workload alone does not say it.
fn titled(heading: &str, group: &Group<'_>) -> String {
    if group.variant.is_empty() {
        heading.to_owned()
    } else {
        format!("{heading} ({})", group.variant)
    }
}

/// Neighbouring edges of a cell and the median time between them, in nanoseconds.
pub(super) fn cell_phases(cell: &Cell) -> Vec<(Edge, Edge, Estimate)> {
    let edges = cell.common_edges();
    let phase = |pair: &[Edge]| {
        let summary = cell.summary(&span_name(pair[0], pair[1]))?;
        Some((pair[0], pair[1], summary.median))
    };
    edges.windows(2).filter_map(phase).collect()
}

pub(super) fn phases(group: &Group<'_>) -> Table {
    let all: Vec<_> = group.measured().map(|cell| (cell, cell_phases(cell))).collect();
    let is_seen =
        |edge: &Edge| all.iter().any(|(_, phases)| phases.iter().any(|(_, to, _)| to == edge));
    let edges: Vec<Edge> = Edge::ALL.into_iter().filter(is_seen).collect();
    let row = |(cell, phases): &(&Cell, Vec<(Edge, Edge, Estimate)>)| {
        let time = |edge: &Edge| {
            let phase = phases.iter().find(|(_, to, _)| to == edge);
            let datum = Datum::figure(phase.map(|(.., time)| *time), "ns");
            match phase {
                Some((from, to, _)) => datum.of(cell.id, &span_name(*from, *to), None),
                None => datum,
            }
        };
        std::iter::once(Datum::text(&cell.backend)).chain(edges.iter().map(time)).collect()
    };
    Table {
        title: titled("Phases of a start-up", group),
        caption: "Median time from the edge before, of those that the box has, to the edge above."
            .to_owned(),
        header: std::iter::once(String::new())
            .chain(edges.iter().map(|edge| format!("→ {}", edge.name())))
            .collect(),
        rows: all.iter().map(row).collect(),
        is_narrow: false,
    }
}

pub(super) fn memory(results: &Results, group: &Group<'_>) -> Table {
    const COLUMNS: [(&str, &str); 6] = [
        ("PSS", "memory_pss_bytes"),
        ("private dirty", "memory_private_dirty_bytes"),
        ("guest RAM", "memory_guest_ram_touched_bytes"),
        ("whole system", "memory_system_delta_bytes"),
        ("kernel's part", "memory_system_kernel_bytes"),
        ("peak RSS", "memory_peak_rss_bytes"),
    ];
    const BOX: &str = "memory_box_bytes";
    let row = |cell: &Cell| {
        let total = [
            Datum::text(&cell.backend),
            figure(cell, BOX),
            multiple_datum(results, group, cell, BOX),
        ];
        total.into_iter().chain(COLUMNS.iter().map(|(_, metric)| figure(cell, metric))).collect()
    };
    let header = ["", "box", "× process"].into_iter().chain(COLUMNS.iter().map(|(name, _)| *name));
    Table {
        title: memory_title(group),
        caption: "Weighed while the box rests after its work. box: proportional set size of all its host processes \
                  and the guest RAM that was touched. whole system: change of the host's used memory, kernel memory \
                  included, and whatever else the host did. kernel's part: what of it is neither anonymous memory nor \
                  files in memory. peak RSS: of the first host process."
            .to_owned(),
        header: header.map(str::to_owned).collect(),
        rows: group.measured().map(row).collect(),
        is_narrow: false,
    }
}

/// What is weighed; the workload that only rests needs no naming.
pub(super) fn memory_title(group: &Group<'_>) -> String {
    match group.workload {
        "start" => "Memory of an idle box".to_owned(),
        _ => format!("Memory after workload {}", group.title()),
    }
}

/// A metric's name without its unit, which stands with the values.
pub(super) fn metric_title(metric: &str) -> &str {
    let suffixes = ["_bytes_per_s", "_bytes", "_ns", "_count"];
    suffixes.iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric)
}

/// A number that stands for something and measures nothing.
fn is_identity(metric: &str) -> bool {
    metric.ends_with("_id_count")
}

/// It as hexadecimal digits, or how many there were where instances differ.
fn identity(cell: &Cell, metric: &str) -> Datum {
    let mut seen: Vec<u64> = series(cell, metric).into_iter().map(|value| value as u64).collect();
    seen.sort_unstable();
    seen.dedup();
    match seen.as_slice() {
        [] => Datum::Absent,
        [only] => Datum::Text(format!("{only:012x}")),
        several => Datum::Text(format!("{} different", several.len())),
    }
}

pub(super) fn metrics(results: &Results, group: &Group<'_>) -> Table {
    let cells: Vec<&Cell> = group.measured().collect();
    let has_baseline = group.baseline().is_some();
    let mut header = vec![String::new()];
    for cell in &cells {
        header.push(cell.backend.clone());
        if has_baseline && cell.backend != BASELINE {
            header.push("×".to_owned());
        }
    }
    let row = |metric: &&str| {
        let mut row = vec![Datum::text(metric_title(metric))];
        for cell in &cells {
            row.push(if is_identity(metric) {
                identity(cell, metric)
            } else {
                figure(cell, metric)
            });
            if has_baseline && cell.backend != BASELINE {
                row.push(if is_identity(metric) {
                    Datum::Absent
                } else {
                    multiple_datum(results, group, cell, metric)
                });
            }
        }
        row
    };
    let instances: Vec<String> =
        cells.iter().map(|cell| format!("{} {}", cell.backend, cell.samples.len())).collect();
    Table {
        title: if group.metrics().contains(&MARK) {
            format!("What a mark costs (workload {})", group.title())
        } else {
            format!("Workload {}", group.title())
        },
        caption: format!(
            "Median over instances (n: {}) of each instance's median.{}{}",
            instances.join(", "),
            if has_baseline {
                " ×: cost as a multiple of the process; above 1 is worse, for rates too."
            } else {
                ""
            },
            clock_note(results)
        ),
        header,
        rows: group.metrics().iter().map(row).collect(),
        is_narrow: false,
    }
}

pub(super) fn floors(results: &Results) -> Table {
    let row = |floor: &crate::results::Floor| {
        let samples: Vec<f64> = floor.samples_ns.iter().map(|&ns| ns as f64).collect();
        let mut rng = Rng::for_purpose(results.seed, &format!("floor {}", floor.name));
        let estimate =
            median(&samples).map(|value| Estimate::new(value, median_interval(&samples, &mut rng)));
        vec![
            Datum::text(&floor.name),
            Datum::Count(samples.len()),
            Datum::figure(estimate, "ns"),
            Datum::text(&floor.what),
        ]
    };
    Table {
        title: "Physical floors".to_owned(),
        caption: format!(
            "What no backend of its kind can beat on this machine.{}",
            clock_note(results)
        ),
        header: ["floor", "n", "median", "what"].map(str::to_owned).to_vec(),
        rows: results.floors.iter().map(row).collect(),
        is_narrow: true,
    }
}
