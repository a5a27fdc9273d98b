//! A table before it has a form: what stands in it, not how it looks.

use super::format::{self, Unit};
use crate::results::Estimate;

/// A table with its title and the notes that belong to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) title: String,
    /// What the figures are, between which edges.
    pub(super) caption: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<Datum>>,
    /// Whether a terminal has room for the intervals; where not, it shows margins.
    pub(super) is_narrow: bool,
}

impl Table {
    /// Name of each column, and whether it is aligned to the right.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, bool)> {
        self.header.iter().enumerate().map(|(column, name)| (name.as_str(), self.is_number(column)))
    }

    /// Whether a column is aligned to the right.
    pub(super) fn is_number(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row.get(column).is_some_and(Datum::is_number))
    }
}

/// What can stand in a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Datum {
    /// Nothing is known: a dash.
    Absent,
    /// A name or a sentence.
    Text(String),
    /// A number of things.
    Count(usize),
    /// A figure.
    Figure(Estimate, UnitName),
    /// A multiple of a baseline.
    Ratio(Estimate),
    /// The baseline itself.
    Baseline,
    /// A figure or multiple, with the samples that it can be computed from.
    Traced(Box<Datum>, Origin),
}

/// What a figure is computed from: the median over a cell's samples, or how many times that of
/// another cell it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Origin {
    pub(super) cell: u32,
    pub(super) metric: String,
    /// The other cell.
    pub(super) base: Option<u32>,
}

/// Unit of a figure, by its name in the results file.
pub(super) type UnitName = String;

impl Datum {
    pub(super) fn text(text: impl Into<String>) -> Datum {
        Datum::Text(text.into())
    }

    pub(super) fn figure(estimate: Option<Estimate>, unit: &str) -> Datum {
        estimate.map_or(Datum::Absent, |estimate| Datum::Figure(estimate, unit.to_owned()))
    }

    pub(super) fn ratio(estimate: Option<Estimate>) -> Datum {
        estimate.map_or(Datum::Absent, Datum::Ratio)
    }

    /// Names the samples that it comes from.
    pub(super) fn of(self, cell: u32, metric: &str, base: Option<u32>) -> Datum {
        match self {
            Datum::Figure(..) | Datum::Ratio(_) => {
                Datum::Traced(Box::new(self), Origin { cell, metric: metric.to_owned(), base })
            }
            other => other,
        }
    }

    /// The samples that it comes from, where they are named.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Datum::Traced(_, origin) => Some(origin),
            _ => None,
        }
    }

    /// Whether it is aligned to the right.
    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Datum::Text(_))
    }

    /// The value, without its interval.
    pub(super) fn main(&self) -> String {
        match self {
            Datum::Absent => "–".to_owned(),
            Datum::Text(text) => text.clone(),
            Datum::Count(count) => format::count(*count),
            Datum::Figure(estimate, unit) => format::value(estimate.value, Unit::parse(unit)),
            Datum::Ratio(estimate) => format::value(estimate.value, Unit::Ratio),
            Datum::Baseline => "1 ×".to_owned(),
            Datum::Traced(datum, _) => datum.main(),
        }
    }

    /// The interval, where there is one.
    pub(super) fn ends(&self) -> Option<String> {
        match self {
            Datum::Figure(estimate, unit) => format::ends(estimate, Unit::parse(unit)),
            Datum::Ratio(estimate) => format::ends(estimate, Unit::Other("")),
            Datum::Traced(datum, _) => datum.ends(),
            Datum::Absent | Datum::Text(_) | Datum::Count(_) | Datum::Baseline => None,
        }
    }

    /// Value and margin in few characters.
    pub(super) fn short(&self) -> String {
        match self {
            Datum::Figure(estimate, _) => match format::margin(estimate) {
                Some(margin) => format!("{} {margin}", self.main()),
                None => self.main(),
            },
            Datum::Traced(datum, _) => datum.short(),
            _ => self.main(),
        }
    }
}
