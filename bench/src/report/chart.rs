//! The charts of the HTML report.

use super::digest::{BASELINE, Group, cell_phases, groups, memory_title, metric_title, multiple};
use super::format::{self, Unit};
use super::plot::{Axis, Kind};
use super::svg::{Anchor, Rect, Svg};
use crate::results::{Cell, Clock, Edge, Estimate, Results, series, span_name};
use crate::statistics::ecdf;

/// A chart with what stands around it.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) svg: String,
    /// Class and name of each colour.
    pub(super) legend: Vec<(String, String)>,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;

/// Every chart that the results have figures for.
pub(super) fn charts(results: &Results) -> Vec<Chart> {
    let groups = groups(results);
    let mut charts = Vec::new();
    for group in
        groups.iter().filter(|group| group.is_start_up() && group.measured().next().is_some())
    {
        charts.extend(distribution(results, group));
        charts.push(waterfall(results, group));
    }
    charts.extend(groups.iter().filter(|group| group.is_weighed()).map(memory));
    charts.extend(groups.iter().filter_map(|group| multiples(results, group)));
    charts
}

/// CSS class of a backend: the same colour in every chart.
pub(super) fn backend_class(results: &Results, backend: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for cell in &results.cells {
        if !names.contains(&cell.backend.as_str()) {
            names.push(&cell.backend);
        }
    }
    let index = names.iter().position(|name| *name == backend).unwrap_or(0);
    format!("b{}", index % 6)
}

fn backend_legend(results: &Results, cells: &[&Cell]) -> Vec<(String, String)> {
    cells.iter().map(|cell| (backend_class(results, &cell.backend), cell.backend.clone())).collect()
}

fn clocked(results: &Results, text: &str) -> String {
    match results.clock {
        Clock::Wall => text.to_owned(),
        Clock::Virtual => format!("{text} (virtual time)"),
    }
}

fn distribution(results: &Results, group: &Group<'_>) -> Option<Chart> {
    const TOP: f64 = 12.0;
    const HEIGHT: f64 = 300.0;
    let cells: Vec<&Cell> = group.measured().collect();
    let metric = span_name(Edge::Launch, Edge::Init);
    let all: Vec<f64> = cells.iter().flat_map(|cell| series(cell, &metric)).collect();
    let low = all.iter().copied().reduce(f64::min)?.max(1.0);
    let high = all.iter().copied().reduce(f64::max)?.max(low);
    let x = Axis {
        kind: Kind::Logarithmic,
        domain: (low / 1.25, high * 1.25),
        range: (60.0, WIDTH - 20.0),
    };
    let y = Axis { kind: Kind::Linear, domain: (0.0, 1.0), range: (TOP + HEIGHT, TOP) };
    let mut svg = Svg::new(WIDTH, TOP + HEIGHT + 26.0);
    x.draw(&mut svg, Unit::Time, TOP, TOP + HEIGHT);
    for percent in [0, 25, 50, 75, 100] {
        let at = y.at(f64::from(percent) / 100.0);
        svg.line("grid", (x.range.0, at), (x.range.1, at));
        svg.text("tick", (x.range.0 - 8.0, at + 4.0), Anchor::End, format!("{percent} %"));
    }
    for cell in &cells {
        let mut points = vec![(x.range.0, y.at(0.0))];
        let mut share = 0.0;
        for (value, next) in ecdf(&series(cell, &metric)) {
            points.extend([(x.at(value), y.at(share)), (x.at(value), y.at(next))]);
            share = next;
        }
        points.push((x.range.1, y.at(share)));
        let tip = format!("{}: {} samples", cell.backend, cell.samples.len());
        svg.path(&format!("step {}", backend_class(results, &cell.backend)), &points, &tip);
    }
    Some(Chart {
        title: clocked(results, "Start-up: launch to init"),
        caption: "Share of all samples that had started by then; every sample is in the curve. Logarithmic axis."
            .to_owned(),
        svg: svg.finish("Empirical distribution of the time from launch to init, a curve for each backend"),
        legend: backend_legend(results, &cells),
    })
}

/// CSS class of the phase that ends at the edge.
fn phase_class(to: Edge) -> String {
    format!("p{}", Edge::ALL.iter().position(|edge| *edge == to).unwrap_or(0))
}

fn waterfall(results: &Results, group: &Group<'_>) -> Chart {
    let rows: Vec<_> = group.measured().map(|cell| (cell, cell_phases(cell))).collect();
    let total =
        |phases: &[(Edge, Edge, Estimate)]| phases.iter().map(|phase| phase.2.value).sum::<f64>();
    let longest = rows.iter().map(|(_, phases)| total(phases)).fold(0.0, f64::max);
    let half = rows.len() as f64 * ROW;
    let (first, second) = (26.0, 26.0 + half + 62.0);
    let mut svg = Svg::new(WIDTH, second + half + 8.0);
    let axis = Axis { kind: Kind::Linear, domain: (0.0, longest), range: (LEFT, WIDTH - RIGHT) };
    svg.text("sub", (0.0, 14.0), Anchor::Start, "on one scale");
    axis.draw(&mut svg, Unit::Time, first, first + half);
    svg.text("sub", (0.0, second - 12.0), Anchor::Start, "each on its own scale");
    for (index, (cell, phases)) in rows.iter().enumerate() {
        let own = Axis { domain: (0.0, total(phases)), ..axis };
        for (axis, top) in [(axis, first), (own, second)] {
            let y = top + index as f64 * ROW + (ROW - BAR) / 2.0;
            svg.text("label", (LEFT - 10.0, y + 14.0), Anchor::End, &cell.backend);
            let end = stack(&mut svg, &axis, y, &segments(cell, phases));
            let sum = format::value(total(phases), Unit::Time);
            svg.text("value", (end + 6.0, y + 14.0), Anchor::Start, sum);
        }
    }
    let is_seen =
        |edge: &Edge| rows.iter().any(|(_, phases)| phases.iter().any(|(_, to, _)| to == edge));
    let legend = Edge::ALL
        .into_iter()
        .filter(is_seen)
        .map(|edge| (phase_class(edge), format!("→ {}", edge.name())));
    Chart {
        title: clocked(results, "Where the time goes"),
        caption: "Median of each phase; a colour is the time until that edge, from the one before."
            .to_owned(),
        svg: svg.finish("Phases of a start-up as stacked bars, a bar for each backend"),
        legend: legend.collect(),
    }
}

/// A part of a stacked bar.
struct Segment {
    class: String,
    value: f64,
    tip: String,
}

fn segments(cell: &Cell, phases: &[(Edge, Edge, Estimate)]) -> Vec<Segment> {
    let segment = |(from, to, time): &(Edge, Edge, Estimate)| Segment {
        class: phase_class(*to),
        value: time.value,
        tip: format!(
            "{}: {} → {} {}",
            cell.backend,
            from.name(),
            to.name(),
            format::value(time.value, Unit::Time)
        ),
    };
    phases.iter().map(segment).collect()
}

/// Draws segments one after the other; returns where they end.
fn stack(svg: &mut Svg, axis: &Axis, y: f64, segments: &[Segment]) -> f64 {
    let mut sum = 0.0;
    for segment in segments {
        let (from, to) = (axis.at(sum), axis.at(sum + segment.value));
        sum += segment.value;
        svg.rect(
            &segment.class,
            Rect { x: from, y, width: (to - from).max(0.4), height: BAR },
            &segment.tip,
        );
    }
    axis.at(sum)
}

fn memory(group: &Group<'_>) -> Chart {
    const PARTS: [(&str, &str, &str); 2] = [
        ("memory_pss_bytes", "host processes (PSS)", "m0"),
        ("memory_guest_ram_touched_bytes", "guest RAM touched", "m1"),
    ];
    let cells: Vec<&Cell> = group.measured().collect();
    let parts = |cell: &Cell| -> Vec<Segment> {
        let part = |(metric, name, class): &(&str, &str, &str)| {
            let value = cell.summary(metric)?.median.value;
            let tip = format!("{}: {name} {}", cell.backend, format::value(value, Unit::Size));
            Some(Segment { class: (*class).to_owned(), value, tip })
        };
        PARTS.iter().filter_map(part).collect()
    };
    let total = |cell: &Cell| parts(cell).iter().map(|part| part.value).sum::<f64>();
    let largest = cells.iter().map(|cell| total(cell)).fold(0.0, f64::max);
    let axis = Axis { kind: Kind::Linear, domain: (0.0, largest), range: (LEFT, WIDTH - RIGHT) };
    let height = cells.len() as f64 * ROW;
    let mut svg = Svg::new(WIDTH, height + 28.0);
    axis.draw(&mut svg, Unit::Size, 4.0, height + 4.0);
    for (index, cell) in cells.iter().enumerate() {
        let y = 4.0 + index as f64 * ROW + (ROW - BAR) / 2.0;
        svg.text("label", (LEFT - 10.0, y + 14.0), Anchor::End, &cell.backend);
        let end = stack(&mut svg, &axis, y, &parts(cell));
        svg.text(
            "value",
            (end + 6.0, y + 14.0),
            Anchor::Start,
            format::value(total(cell), Unit::Size),
        );
    }
    Chart {
        title: memory_title(group),
        caption: "Resident, not mapped: shared pages are counted once, guest RAM by what was touched. Kernel memory \
                  of the host is not in the bars; the table shows the change of the whole system."
            .to_owned(),
        svg: svg.finish("Memory of an idle box as stacked bars, a bar for each backend"),
        legend: PARTS.iter().map(|(_, name, class)| ((*class).to_owned(), (*name).to_owned())).collect(),
    }
}

/// Bars from the baseline's 1 to the left and right; `None` without a baseline or others.
fn multiples(results: &Results, group: &Group<'_>) -> Option<Chart> {
    group.baseline()?;
    let cells: Vec<&Cell> = group.measured().filter(|cell| cell.backend != BASELINE).collect();
    let metrics = group.metrics();
    let estimates: Vec<(usize, &str, &Cell, Estimate)> = metrics
        .iter()
        .enumerate()
        .flat_map(|(row, metric)| cells.iter().map(move |cell| (row, *metric, *cell)))
        .filter_map(|(row, metric, cell)| {
            let estimate = multiple(results, group, cell, metric)?;
            (estimate.value > 0.0).then_some((row, metric, cell, estimate))
        })
        .collect();
    let ends = estimates.iter().flat_map(|(.., estimate)| {
        [
            estimate.value,
            estimate.low.unwrap_or(estimate.value),
            estimate.high.unwrap_or(estimate.value),
        ]
    });
    let ends: Vec<f64> = ends.filter(|end| *end > 0.0).collect();
    let low = ends.iter().copied().reduce(f64::min)?.min(0.8) / 1.1;
    let high = ends.iter().copied().reduce(f64::max)?.max(1.25) * 1.1;
    let bar = 13.0;
    let row_height = cells.len() as f64 * bar + 12.0;
    let height = metrics.len() as f64 * row_height;
    let axis = Axis { kind: Kind::Logarithmic, domain: (low, high), range: (LEFT, WIDTH - RIGHT) };
    let mut svg = Svg::new(WIDTH, height + 28.0);
    axis.draw(&mut svg, Unit::Ratio, 4.0, height + 4.0);
    for (row, metric) in metrics.iter().enumerate() {
        let y = 4.0 + (row as f64 + 0.5) * row_height + 4.0;
        svg.text("label", (LEFT - 10.0, y), Anchor::End, metric_title(metric));
    }
    for (row, metric, cell, estimate) in &estimates {
        let position = cells.iter().position(|other| other.id == cell.id).unwrap_or(0);
        let y = 4.0 + *row as f64 * row_height + 6.0 + position as f64 * bar;
        let tip = format!(
            "{} {}: {}{}",
            cell.backend,
            metric_title(metric),
            format::value(estimate.value, Unit::Ratio),
            format::ends(estimate, Unit::Other(""))
                .map(|ends| format!(" [{ends}]"))
                .unwrap_or_default()
        );
        let (one, at) = (axis.at(1.0), axis.at(estimate.value));
        let rect = Rect {
            x: one.min(at),
            y: y + 1.0,
            width: (one - at).abs().max(1.0),
            height: bar - 2.0,
        };
        svg.rect(&backend_class(results, &cell.backend), rect, &tip);
        let mut right = one.max(at);
        if let Some(interval) = estimate.interval() {
            let (from, to) = (axis.at(interval.low), axis.at(interval.high));
            let middle = y + bar / 2.0;
            svg.line("whisker", (from, middle), (to, middle));
            right = right.max(to);
        }
        let value = format::value(estimate.value, Unit::Ratio);
        svg.text("value small", (right + 6.0, y + bar - 3.0), Anchor::Start, value);
    }
    svg.line("one", (axis.at(1.0), 4.0), (axis.at(1.0), height + 4.0));
    Some(Chart {
        title: clocked(results, &format!("Workload {}: cost as a multiple of the process", group.title())),
        caption: "The line at 1 is the plain process; to the right is worse, for rates too. Whiskers are 95 % \
                  intervals. Logarithmic axis."
            .to_owned(),
        svg: svg.finish("Cost of each operation as a multiple of the process, a bar for each backend"),
        legend: backend_legend(results, &cells),
    })
}
