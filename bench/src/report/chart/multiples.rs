//! Costs as multiples of the plain process.

use super::super::digest::{BASELINE, Group, metric_title, multiple};
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::{Anchor, Rect, Svg};
use super::{
    Chart, FOOT, LEFT, RIGHT, WIDTH, axis_name, backend_class, backend_legend, clocked, described,
};
use crate::results::{Cell, Estimate, Results};

/// Height of one bar with its gap.
const STEP: f64 = 13.0;
/// Room for a value beside a bar.
const VALUE: f64 = 50.0;
/// Metrics that are no work of the box's.
const ASIDE: [&str; 2] = ["clock_ns", "cached_bytes"];

struct Bar<'a> {
    row: usize,
    metric: &'a str,
    cell: &'a Cell,
    estimate: Estimate,
}

/// Bars from the baseline's 1 to the left and right; `None` without a baseline or others.
pub(in super::super) fn multiples(results: &Results, group: &Group<'_>) -> Option<Chart> {
    group.baseline()?;
    let cells: Vec<&Cell> = group.measured().filter(|cell| cell.backend != BASELINE).collect();
    let metrics: Vec<&str> =
        group.metrics().into_iter().filter(|metric| !ASIDE.contains(metric)).collect();
    let pairs = metrics
        .iter()
        .enumerate()
        .flat_map(|(row, metric)| cells.iter().map(move |cell| (row, *metric, *cell)));
    let bars: Vec<Bar<'_>> = pairs
        .filter_map(|(row, metric, cell)| {
            let estimate = multiple(results, group, cell, metric)?;
            (estimate.value > 0.0).then_some(Bar { row, metric, cell, estimate })
        })
        .collect();
    let ends = bars.iter().flat_map(|Bar { estimate, .. }| {
        let value = estimate.value;
        [value, estimate.low.unwrap_or(value), estimate.high.unwrap_or(value)]
    });
    let ends: Vec<f64> = ends.filter(|end| *end > 0.0).collect();
    let low = ends.iter().copied().reduce(f64::min)?.min(0.8) / 1.1;
    let high = ends.iter().copied().reduce(f64::max)?.max(1.25) * 1.1;
    let row_height = cells.len() as f64 * STEP + 12.0;
    let height = metrics.len() as f64 * row_height;
    // Values stand to the left of the shortest bar, too.
    let range = (LEFT + VALUE, WIDTH - RIGHT);
    let axis = Axis { kind: Kind::Logarithmic, domain: (low, high), range };
    let mut svg = Svg::new(WIDTH, height + 4.0 + FOOT);
    axis.draw(&mut svg, Unit::Ratio, 4.0, height + 4.0);
    let name = "cost as a multiple of the plain process, logarithmic; right of 1 is worse";
    axis_name(&mut svg, &axis, height + 40.0, name);
    for (row, metric) in metrics.iter().enumerate() {
        let y = 4.0 + (row as f64 + 0.5) * row_height + 4.0;
        svg.text("label", (LEFT - 10.0, y), Anchor::End, metric_title(metric));
    }
    for bar in &bars {
        let position = cells.iter().position(|other| other.id == bar.cell.id).unwrap_or(0);
        let y = 4.0 + bar.row as f64 * row_height + 6.0 + position as f64 * STEP;
        draw(&mut svg, results, &axis, y, bar);
    }
    svg.line("one", (axis.at(1.0), 4.0), (axis.at(1.0), height + 4.0));
    let words = described(bars.iter().map(|bar| {
        let value = format::value(bar.estimate.value, Unit::Ratio);
        format!("{} {} {value}", bar.cell.backend, metric_title(bar.metric))
    }));
    Some(Chart {
        title: clocked(results, &format!("Workload {}: cost against the plain process", group.title())),
        caption: "The line at 1 is the plain process; to the right is worse, for rates too. Whiskers are 95 % \
                  intervals, where there are samples enough."
            .to_owned(),
        svg: svg.finish("Cost of each operation as a multiple of the process, a bar for each backend", &words),
        legend: backend_legend(results, &cells),
    })
}

fn draw(svg: &mut Svg, results: &Results, axis: &Axis, y: f64, bar: &Bar<'_>) {
    let Bar { metric, cell, estimate, .. } = bar;
    let value = format::value(estimate.value, Unit::Ratio);
    let ends = format::ends(estimate, Unit::Other("")).map(|ends| format!(" [{ends}]"));
    let tip =
        format!("{} {}: {value}{}", cell.backend, metric_title(metric), ends.unwrap_or_default());
    let (one, at) = (axis.at(1.0), axis.at(estimate.value));
    let rect =
        Rect { x: one.min(at), y: y + 1.0, width: (one - at).abs().max(1.0), height: STEP - 2.0 };
    svg.rect(&backend_class(results, &cell.backend), rect, &tip);
    let mut outer = at;
    if let Some(interval) = estimate.interval() {
        let (from, to) = (axis.at(interval.low), axis.at(interval.high));
        let middle = y + STEP / 2.0;
        svg.line("whisker", (from, middle), (to, middle));
        outer = if at < one { outer.min(from) } else { outer.max(to) };
    }
    // The value stands beyond the bar, on the side that it points to.
    let (x, anchor) =
        if at < one { (outer - 6.0, Anchor::End) } else { (outer + 6.0, Anchor::Start) };
    svg.text("value small", (x, y + STEP - 3.0), anchor, value);
}
