//! What an idle box holds of the host's memory, and what that is.

use super::super::digest::{Group, memory_title};
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::Svg;
use super::{
    BAR, Chart, FOOT, LEFT, RIGHT, ROW, Segment, WIDTH, axis_name, bar_value, described, row_label,
    stack,
};
use crate::results::Cell;

const PARTS: [(&str, &str, &str); 3] = [
    ("private", "private: written by its host processes", "m0"),
    ("share", "share: its part of pages that others use too", "m1"),
    ("guest RAM", "guest RAM: touched by the guest", "m2"),
];
const SYSTEM: &str = "memory_system_delta_bytes";

/// Sizes of [`PARTS`], in bytes.
fn parts_of(cell: &Cell) -> Option<[f64; 3]> {
    let value = |metric: &str| Some(cell.summary(metric)?.median.value);
    let pss = value("memory_pss_bytes")?;
    let private = value("memory_private_dirty_bytes")?.min(pss);
    Some([private, pss - private, value("memory_guest_ram_touched_bytes").unwrap_or(0.0)])
}

pub(in super::super) fn memory(group: &Group<'_>) -> Chart {
    let cells: Vec<(&Cell, [f64; 3])> =
        group.measured().filter_map(|cell| Some((cell, parts_of(cell)?))).collect();
    let system = |cell: &Cell| cell.summary(SYSTEM).map(|summary| summary.median.value.max(0.0));
    let largest = cells
        .iter()
        .map(|(cell, parts)| parts.iter().sum::<f64>().max(system(cell).unwrap_or(0.0)))
        .fold(0.0, f64::max);
    let axis = Axis { kind: Kind::Linear, domain: (0.0, largest), range: (LEFT, WIDTH - RIGHT) };
    let height = cells.len() as f64 * ROW;
    let mut svg = Svg::new(WIDTH, height + 4.0 + FOOT);
    axis.draw(&mut svg, Unit::Size, 4.0, height + 4.0);
    axis_name(&mut svg, &axis, height + 40.0, "memory of the host");
    for (index, (cell, parts)) in cells.iter().enumerate() {
        let y = 4.0 + index as f64 * ROW + (ROW - BAR) / 2.0;
        row_label(&mut svg, y, &cell.backend);
        let segments: Vec<Segment> =
            PARTS.iter().zip(parts).map(|(part, size)| segment(cell, part, *size)).collect();
        let end = stack(&mut svg, &axis, y, &segments);
        let mut right = end;
        if let Some(bytes) = system(cell) {
            let x = axis.at(bytes);
            svg.line("system", (x, y - 4.0), (x, y + BAR + 4.0));
            right = right.max(x);
        }
        bar_value(&mut svg, (right, y), format::value(parts.iter().sum(), Unit::Size));
    }
    let words = described(cells.iter().map(|(cell, parts)| {
        let named = PARTS.iter().zip(parts).filter(|(_, size)| **size > 0.0);
        let named =
            named.map(|((name, ..), size)| format!("{name} {}", format::value(*size, Unit::Size)));
        format!("{}: {}", cell.backend, named.collect::<Vec<_>>().join(", "))
    }));
    let mut legend: Vec<(String, String)> =
        PARTS.iter().map(|(_, name, class)| ((*class).to_owned(), (*name).to_owned())).collect();
    legend.push((
        "system".to_owned(),
        "line: change of the whole system, kernel memory included".to_owned(),
    ));
    Chart {
        title: memory_title(group),
        caption: "Resident, not mapped: shared pages are counted once, guest RAM by what was touched. The bar's end is \
                  the box as its host processes show it; the line is what the host lost, which has the kernel's own \
                  memory in it and lacks pages that were there before, such as programs in the page cache."
            .to_owned(),
        svg: svg.finish("Memory of a box as stacked bars, a bar for each backend", &words),
        legend,
    }
}

fn segment(cell: &Cell, (name, _, class): &(&str, &str, &str), size: f64) -> Segment {
    let tip = format!("{}: {name} {}", cell.backend, format::value(size, Unit::Size));
    Segment { class: (*class).to_owned(), value: size, label: (*name).to_owned(), tip }
}
