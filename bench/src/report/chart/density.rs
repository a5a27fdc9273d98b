//! What each of many boxes adds to its host, and what that is made of.

use super::super::digest::{EACH, Group};
use super::super::format::{self, Unit};
use super::super::plot::{Axis, Kind};
use super::super::svg::Svg;
use super::{
    BAR, Chart, FOOT, LEFT, RIGHT, ROW, Segment, WIDTH, axis_name, bar_value, described, row_label,
    stack,
};
use crate::results::Cell;

/// Accounts of the kernel that make up the whole, and what stands for each.
const PARTS: [(&str, &str, &str); 6] = [
    ("each_anonpages_bytes", "anonymous memory, guest RAM among it", "m0"),
    ("each_shmem_bytes", "files in memory", "m1"),
    ("each_sunreclaim_bytes", "objects of the kernel", "m2"),
    ("each_pagetables_bytes", "page tables", "m3"),
    ("each_secpagetables_bytes", "page tables of guests", "m4"),
    ("each_kernelstack_bytes", "stacks in the kernel", "m5"),
];

pub(in super::super) fn density(group: &Group<'_>) -> Option<Chart> {
    let value = |cell: &Cell, metric: &str| Some(cell.summary(metric)?.median.value.max(0.0));
    let cells: Vec<(&Cell, f64)> =
        group.measured().filter_map(|cell| Some((cell, value(cell, EACH)?))).collect();
    let sum_of =
        |cell: &Cell| PARTS.iter().filter_map(|(metric, ..)| value(cell, metric)).sum::<f64>();
    let largest = cells.iter().map(|(cell, whole)| whole.max(sum_of(cell))).reduce(f64::max)?;
    let axis = Axis { kind: Kind::Linear, domain: (0.0, largest), range: (LEFT, WIDTH - RIGHT) };
    let height = cells.len() as f64 * ROW;
    let mut svg = Svg::new(WIDTH, height + 4.0 + FOOT);
    axis.draw(&mut svg, Unit::Size, 4.0, height + 4.0);
    axis_name(&mut svg, &axis, height + 40.0, "memory that each box adds to the host");
    for (index, (cell, whole)) in cells.iter().enumerate() {
        let y = 4.0 + index as f64 * ROW + (ROW - BAR) / 2.0;
        row_label(&mut svg, y, &cell.backend);
        let segments: Vec<Segment> = PARTS
            .iter()
            .filter_map(|(metric, name, class)| {
                let size = value(cell, metric)?;
                let tip = format!("{}: {name} {}", cell.backend, format::value(size, Unit::Size));
                Some(Segment { class: (*class).to_owned(), value: size, label: String::new(), tip })
            })
            .collect();
        let end = stack(&mut svg, &axis, y, &segments);
        let x = axis.at(*whole);
        svg.line("system", (x, y - 4.0), (x, y + BAR + 4.0));
        bar_value(&mut svg, (end.max(x), y), format::value(*whole, Unit::Size));
    }
    let words =
        described(cells.iter().map(|(cell, whole)| {
            format!("{} {}", cell.backend, format::value(*whole, Unit::Size))
        }));
    let mut legend: Vec<(String, String)> =
        PARTS.iter().map(|(_, name, class)| ((*class).to_owned(), (*name).to_owned())).collect();
    legend
        .push(("system".to_owned(), "line: the whole, as the host's free memory tells".to_owned()));
    Some(Chart {
        title: match group.live() {
            Some(live) => format!("What each of {live} boxes adds"),
            None => "What each of many boxes adds".to_owned(),
        },
        caption: "All live at once and have run their work. What they share is counted once and divided among them; \
                  the bar is what the kernel's own accounts explain of the whole."
            .to_owned(),
        svg: svg.finish("Memory that each of many boxes adds, a bar for each backend", &words),
        legend,
    })
}
