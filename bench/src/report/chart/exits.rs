//! Why a virtual CPU left its guest.

use super::super::digest::Group;
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::Svg;
use super::{
    BAR, Chart, FOOT, LEFT, RIGHT, ROW, Segment, WIDTH, axis_name, bar_value, described, row_label,
    stack,
};
use crate::results::Cell;
use crate::statistics::median;

/// Median number of exits by reason, without reasons that did not occur.
pub(in super::super) fn exits_of(cell: &Cell) -> Vec<(&str, f64)> {
    let samples = || cell.samples.iter().filter_map(|sample| sample.vm_exits.as_ref());
    let Some(first) = samples().next() else { return Vec::new() };
    let count = |reason: &String| {
        let counts: Vec<f64> =
            samples().filter_map(|exits| exits.get(reason)).map(|&count| count as f64).collect();
        median(&counts)
    };
    let named = first.keys().filter_map(|reason| Some((reason.as_str(), count(reason)?)));
    named.filter(|(_, count)| *count > 0.0).collect()
}

/// A bar for each workload of one backend; `None` where nothing was counted.
pub(in super::super) fn exits(backend: &str, groups: &[Group<'_>]) -> Option<Chart> {
    let rows: Vec<(String, Vec<(&str, f64)>)> = groups
        .iter()
        .filter(|group| !group.is_weighed())
        .filter_map(|group| {
            let cell = group.measured().find(|cell| cell.backend == backend)?;
            Some((group.title(), exits_of(cell)))
        })
        .filter(|(_, exits)| !exits.is_empty())
        .collect();
    let mut reasons: Vec<&str> =
        rows.iter().flat_map(|(_, exits)| exits).map(|(name, _)| *name).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let total = |exits: &[(&str, f64)]| exits.iter().map(|(_, count)| count).sum::<f64>();
    let most = rows.iter().map(|(_, exits)| total(exits)).reduce(f64::max)?;
    let axis = Axis { kind: Kind::Linear, domain: (0.0, most), range: (LEFT, WIDTH - RIGHT) };
    let height = rows.len() as f64 * ROW;
    let mut svg = Svg::new(WIDTH, height + 4.0 + FOOT);
    axis.draw(&mut svg, Unit::Other(""), 4.0, height + 4.0);
    axis_name(&mut svg, &axis, height + 40.0, "exits to the VMM, median over instances");
    let class = |reason: &str| {
        format!("m{}", reasons.iter().position(|name| *name == reason).unwrap_or(0) % 6)
    };
    for (index, (title, exits)) in rows.iter().enumerate() {
        let y = 4.0 + index as f64 * ROW + (ROW - BAR) / 2.0;
        row_label(&mut svg, y, title);
        let segment = |(reason, count): &(&str, f64)| Segment {
            class: class(reason),
            value: *count,
            label: (*reason).to_owned(),
            tip: format!("{title}: {reason} {}", format::count(*count as usize)),
        };
        let end = stack(&mut svg, &axis, y, &exits.iter().map(segment).collect::<Vec<_>>());
        bar_value(&mut svg, (end, y), format::count(total(exits) as usize));
    }
    let words = described(rows.iter().map(|(title, exits)| {
        let parts = exits
            .iter()
            .map(|(reason, count)| format!("{reason} {}", format::count(*count as usize)));
        format!("{title}: {}", parts.collect::<Vec<_>>().join(", "))
    }));
    Some(Chart {
        title: format!("Exits of {backend} by reason"),
        caption: "Each is a way out of the guest, through the kernel to the VMM and back. Exits that KVM settles by \
                  itself (timers, interrupts, queue doorbells) are not among them. Bytes to the serial port are the \
                  agent's marks and its report."
            .to_owned(),
        svg: svg.finish(&format!("Exits of {backend} as stacked bars, a bar for each workload"), &words),
        legend: reasons.iter().map(|reason| (class(reason), (*reason).to_owned())).collect(),
    })
}
