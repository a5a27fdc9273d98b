//! Where the time of a start goes, phase by phase.

use super::super::digest::{Group, cell_phases};
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::{Anchor, Svg};
use super::{
    BAR, Chart, FOOT, LEFT, RIGHT, ROW, Segment, WIDTH, axis_name, bar_value, clocked, described,
    row_label, stack,
};
use crate::results::{Cell, Edge, Estimate, Results};

/// CSS class of the phase that ends at the edge.
fn phase_class(to: Edge) -> String {
    format!("p{}", Edge::ALL.iter().position(|edge| *edge == to).unwrap_or(0))
}

/// What happens until an edge, in a few words.
fn meaning(to: Edge) -> &'static str {
    match to {
        Edge::Launch => "begins",
        Edge::Enter => "the host has made the machine",
        Edge::Kernel => "the guest's kernel is seen to run",
        Edge::Init => "the box is up",
        Edge::Ready => "its work is prepared",
        Edge::Done => "its work is done",
        Edge::Exit => "it has ended",
        Edge::Clean => "all it held is given back",
    }
}

pub(in super::super) fn waterfall(results: &Results, group: &Group<'_>) -> Chart {
    let rows: Vec<_> = group.measured().map(|cell| (cell, cell_phases(cell))).collect();
    let total =
        |phases: &[(Edge, Edge, Estimate)]| phases.iter().map(|phase| phase.2.value).sum::<f64>();
    let longest = rows.iter().map(|(_, phases)| total(phases)).fold(0.0, f64::max);
    let half = rows.len() as f64 * ROW;
    let (first, second) = (26.0, 26.0 + half + FOOT + 34.0);
    let mut svg = Svg::new(WIDTH, second + half + 4.0);
    let axis = Axis { kind: Kind::Linear, domain: (0.0, longest), range: (LEFT, WIDTH - RIGHT) };
    svg.text("sub", (0.0, 14.0), Anchor::Start, "All on one scale");
    axis.draw(&mut svg, Unit::Time, first, first + half);
    axis_name(&mut svg, &axis, first + half + 34.0, "time since launch, sum of median phases");
    svg.text(
        "sub",
        (0.0, second - 12.0),
        Anchor::Start,
        "Each on its own scale: what share goes where",
    );
    for (index, (cell, phases)) in rows.iter().enumerate() {
        let own = Axis { domain: (0.0, total(phases)), ..axis };
        for (axis, top) in [(axis, first), (own, second)] {
            let y = top + index as f64 * ROW + (ROW - BAR) / 2.0;
            row_label(&mut svg, y, &cell.backend);
            let end = stack(&mut svg, &axis, y, &segments(cell, phases));
            bar_value(&mut svg, (end, y), format::value(total(phases), Unit::Time));
        }
    }
    let is_seen =
        |edge: &Edge| rows.iter().any(|(_, phases)| phases.iter().any(|(_, to, _)| to == edge));
    let legend = Edge::ALL
        .into_iter()
        .filter(is_seen)
        .map(|edge| (phase_class(edge), format!("→ {}: {}", edge.name(), meaning(edge))));
    let words = described(rows.iter().map(|(cell, phases)| {
        let parts = phases.iter().map(|(_, to, time)| {
            format!("until {} {}", to.name(), format::value(time.value, Unit::Time))
        });
        format!("{}: {}", cell.backend, parts.collect::<Vec<_>>().join(", "))
    }));
    Chart {
        title: clocked(results, "Where the time of a start goes"),
        caption: "Median of each phase; a colour is the time from the edge before until that edge. The end of a box \
                  counts too: what it held must be given back before another can have it."
            .to_owned(),
        svg: svg.finish("Phases of a start as stacked bars, a bar for each backend", &words),
        legend: legend.collect(),
    }
}

fn segments(cell: &Cell, phases: &[(Edge, Edge, Estimate)]) -> Vec<Segment> {
    let segment = |(from, to, time): &(Edge, Edge, Estimate)| {
        let value = format::value(time.value, Unit::Time);
        Segment {
            class: phase_class(*to),
            value: time.value,
            label: format!("→ {}", to.name()),
            tip: format!("{}: {} → {} {value}", cell.backend, from.name(), to.name()),
        }
    };
    phases.iter().map(segment).collect()
}
