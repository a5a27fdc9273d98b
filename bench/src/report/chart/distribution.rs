//! Empirical distributions: every sample of every backend.

use super::super::digest::Group;
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::{Anchor, Svg};
use super::{Chart, FOOT, WIDTH, axis_name, backend_class, backend_legend, clocked, described};
use crate::results::{Cell, Edge, Results, series, span_name};
use crate::statistics::{ecdf, median, quantile};

const TOP: f64 = 12.0;
const HEIGHT: f64 = 300.0;

/// Launch to init of a group; `None` without samples.
pub(in super::super) fn distribution(results: &Results, group: &Group<'_>) -> Option<Chart> {
    let cells: Vec<&Cell> = group.measured().collect();
    let metric = span_name(Edge::Launch, Edge::Init);
    let all: Vec<f64> = cells.iter().flat_map(|cell| series(cell, &metric)).collect();
    let low = all.iter().copied().reduce(f64::min)?.max(1.0);
    let high = all.iter().copied().reduce(f64::max)?.max(low);
    let x = Axis {
        kind: Kind::Logarithmic,
        domain: (low / 1.25, high * 1.6),
        range: (60.0, WIDTH - 20.0),
    };
    let y = Axis { kind: Kind::Linear, domain: (0.0, 1.0), range: (TOP + HEIGHT, TOP) };
    let mut svg = Svg::new(WIDTH, TOP + HEIGHT + FOOT);
    x.draw(&mut svg, Unit::Time, TOP, TOP + HEIGHT);
    for percent in [0, 25, 50, 75, 100] {
        let at = y.at(f64::from(percent) / 100.0);
        svg.line("grid", (x.range.0, at), (x.range.1, at));
        svg.text("tick", (x.range.0 - 8.0, at + 4.0), Anchor::End, format!("{percent} %"));
    }
    axis_name(&mut svg, &x, TOP + HEIGHT + 36.0, "time from launch to init, logarithmic");
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
    // Each name beside its curve, one below the other where the curves rise together.
    for (index, cell) in cells.iter().enumerate() {
        let share = 0.94 - 0.11 * (index % 8) as f64;
        if let Some(value) = quantile(&series(cell, &metric), share) {
            let class = format!("name {}", backend_class(results, &cell.backend));
            svg.text(&class, (x.at(value) + 7.0, y.at(share) + 4.0), Anchor::Start, &cell.backend);
        }
    }
    let medians = cells.iter().filter_map(|cell| {
        let value = median(&series(cell, &metric))?;
        Some(format!("{} {}", cell.backend, format::value(value, Unit::Time)))
    });
    let words = format!(
        "For each backend a curve of the share of its samples that had started by a time. Medians: {}",
        described(medians)
    );
    Some(Chart {
        title: clocked(results, "How long a start takes"),
        caption: "Share of all samples that had started by then; every sample is in its curve, none is trimmed."
            .to_owned(),
        svg: svg.finish("Distribution of the time from launch to init", &words),
        legend: backend_legend(results, &cells),
    })
}
