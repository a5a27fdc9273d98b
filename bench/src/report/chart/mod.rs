//! The charts of the HTML report, one kind a file.
//!
//! A chart never stands alone: its description names its values in words, and a table beside it has
//! them with their intervals. Colours are of Okabe and Ito's palette, which people who confuse red
//! and green tell apart; lines differ in their dashes too, and bars are labelled.

mod density;
mod distribution;
mod exits;
mod growth;
mod memory;
mod multiples;
mod waterfall;

pub(super) use density::density;
pub(super) use distribution::distribution;
pub(super) use exits::{exits, exits_of};
pub(super) use growth::growth;
pub(super) use memory::memory;
pub(super) use multiples::multiples;
pub(super) use waterfall::waterfall;

use super::digest::backends;
use super::plot::Axis;
use super::svg::{Anchor, Rect, Svg};
use crate::results::{Cell, Clock, Results};

/// A chart with what stands around it.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) svg: String,
    /// Class and name of each colour.
    pub(super) legend: Vec<(String, String)>,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 96.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;
/// Room for the ticks' labels and the axis's name below a plot.
const FOOT: f64 = 44.0;

/// Distinct colours of backends; beyond them lines are dashed.
const COLOURS: usize = 7;

/// CSS classes of a backend: the same colour in every chart.
pub(super) fn backend_class(results: &Results, backend: &str) -> String {
    let names = backends(results);
    let index = names.iter().position(|name| *name == backend).unwrap_or(0);
    format!("b{} d{}", index % COLOURS, index / COLOURS % 3)
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

/// `process 216 µs; container 2.36 ms.`
fn described(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ") + "."
}

/// A part of a stacked bar.
struct Segment {
    class: String,
    value: f64,
    /// What stands in it, where there is room.
    label: String,
    tip: String,
}

/// Draws segments one after the other; returns where they end.
fn stack(svg: &mut Svg, axis: &Axis, y: f64, segments: &[Segment]) -> f64 {
    let mut sum = 0.0;
    for segment in segments {
        let (from, to) = (axis.at(sum), axis.at(sum + segment.value));
        sum += segment.value;
        if segment.value <= 0.0 {
            continue;
        }
        let width = (to - from).max(0.4);
        svg.rect(&segment.class, Rect { x: from, y, width, height: BAR }, &segment.tip);
        if width > 12.0 + 6.5 * segment.label.chars().count() as f64 {
            let middle = (from + width / 2.0, y + BAR / 2.0 + 4.0);
            svg.text("within", middle, Anchor::Middle, &segment.label);
        }
    }
    axis.at(sum)
}

/// The name of a row, and of what stands at a bar's end.
fn row_label(svg: &mut Svg, y: f64, name: &str) {
    svg.text("label", (LEFT - 10.0, y + 14.0), Anchor::End, name);
}

fn bar_value(svg: &mut Svg, (x, y): (f64, f64), value: String) {
    svg.text("value", (x + 6.0, y + 14.0), Anchor::Start, value);
}

fn axis_name(svg: &mut Svg, axis: &Axis, y: f64, name: &str) {
    svg.text("axis", (f64::midpoint(axis.range.0, axis.range.1), y), Anchor::Middle, name);
}
