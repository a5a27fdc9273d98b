//! How a start slows down as more boxes live.

use super::super::digest::Group;
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::{Anchor, Svg};
use super::{Chart, FOOT, WIDTH, axis_name, backend_class, clocked, described};
use crate::results::{Edge, Estimate, Results, span_name};

const TOP: f64 = 12.0;
const HEIGHT: f64 = 280.0;

/// Median launch → init of a backend, by how many others live.
type Curve<'a> = (&'a str, Vec<(u32, Estimate)>);

/// A line for each backend over groups that differ in how many boxes live; `None` with fewer than
/// two points on each.
pub(in super::super) fn growth(results: &Results, groups: &[&Group<'_>]) -> Option<Chart> {
    let metric = span_name(Edge::Launch, Edge::Init);
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for group in groups {
        let Some(live) = group.live() else { continue };
        for cell in group.measured() {
            let Some(summary) = cell.summary(&metric) else { continue };
            let point = (live, summary.median);
            match curves.iter_mut().find(|(backend, _)| *backend == cell.backend) {
                Some((_, points)) => points.push(point),
                None => curves.push((&cell.backend, vec![point])),
            }
        }
    }
    curves.retain(|(_, points)| points.len() > 1);
    for (_, points) in &mut curves {
        points.sort_by_key(|(live, _)| *live);
    }
    let all = || curves.iter().flat_map(|(_, points)| points);
    let most = all().map(|(live, _)| f64::from(*live)).reduce(f64::max)?;
    let low = all().map(|(_, time)| time.value).reduce(f64::min)?.max(1.0);
    let high = all().map(|(_, time)| time.value).reduce(f64::max)?.max(low);
    let x = Axis { kind: Kind::Linear, domain: (0.0, most), range: (80.0, WIDTH - 130.0) };
    let y = Axis {
        kind: Kind::Logarithmic,
        domain: (low / 1.5, high * 1.5),
        range: (TOP + HEIGHT, TOP),
    };
    let mut svg = Svg::new(WIDTH, TOP + HEIGHT + FOOT);
    x.draw(&mut svg, Unit::Other(""), TOP, TOP + HEIGHT);
    y.draw_across(&mut svg, Unit::Time, x.range);
    axis_name(
        &mut svg,
        &x,
        TOP + HEIGHT + 36.0,
        "boxes that live already; upwards: median launch to init, logarithmic",
    );
    for (backend, points) in &curves {
        let class = backend_class(results, backend);
        let at = |(live, time): &(u32, Estimate)| (x.at(f64::from(*live)), y.at(time.value));
        let line: Vec<(f64, f64)> = points.iter().map(at).collect();
        svg.path(&format!("step {class}"), &line, backend);
        for (live, time) in points {
            if let Some(interval) = time.interval() {
                let x = x.at(f64::from(*live));
                svg.line("whisker", (x, y.at(interval.low)), (x, y.at(interval.high)));
            }
        }
        if let Some(&(x, y)) = line.last() {
            svg.text(&format!("name {class}"), (x + 7.0, y + 4.0), Anchor::Start, backend);
        }
    }
    let words = described(curves.iter().map(|(backend, points)| {
        let parts = points.iter().map(|(live, time)| {
            format!("{} with {live} live", format::value(time.value, Unit::Time))
        });
        format!("{backend}: {}", parts.collect::<Vec<_>>().join(", "))
    }));
    Some(Chart {
        title: clocked(results, "A start while others live"),
        caption: "Median time from launch to init of one more box, against how many live already. Whiskers are 95 % \
                  intervals."
            .to_owned(),
        svg: svg.finish("Start-up time against live instances, a line for each backend", &words),
        legend: curves.iter().map(|(backend, _)| (backend_class(results, backend), (*backend).to_owned())).collect(),
    })
}
