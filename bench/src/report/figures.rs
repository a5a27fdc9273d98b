//! The tables of a suite: its figures, and their limits before anything is measured.

use super::digest::clock_note;
use super::format::{self, Unit};
use super::table::{Datum, Table};
use crate::results::{Ends, Estimate, Figure, Results, Standing, Yardstick};
use crate::suite::{self, Suite};

/// The figures of the run's suite, made anew from its samples.
pub(super) fn table(results: &Results) -> Option<Table> {
    let suite = suite::rejudge(results)?;
    let reference = suite.figures.iter().find_map(|figure| figure.reference.clone());
    let reference = reference.unwrap_or_else(|| "reference".to_owned());
    let has_ranges = suite.figures.iter().any(|figure| figure.ends == Some(Ends::Range));
    let ends = if has_ranges { "the range of all samples" } else { "the 95 % interval" };
    let multiple = format!("× {reference}");
    let header =
        ["figure", "n", "median", &reference, &multiple, "must be", "aim", "met", "what it is"];
    Some(Table {
        title: format!("Figures of the suite {}", suite.name),
        caption: format!(
            "In brackets {ends}, which must be within the limit as a whole. ×: cost as a multiple of \
             the same on {reference} in this round; below 1 is better, for rates too.{}",
            clock_note(results)
        ),
        header: header.map(str::to_owned).to_vec(),
        rows: suite.figures.iter().map(row).collect(),
        is_narrow: true,
    })
}

fn row(figure: &Figure) -> Vec<Datum> {
    let what = match figure.standing {
        Standing::NotMeasured | Standing::Undecided => format!("{}: {}", figure.what, figure.why),
        Standing::Aim | Standing::Must | Standing::Missed => figure.what.clone(),
    };
    let limit = |limit| at_most(limit, figure.yardstick, &figure.unit);
    vec![
        Datum::text(&figure.name),
        Datum::Count(figure.n.try_into().unwrap_or(usize::MAX)),
        Datum::figure(figure.measured, &figure.unit),
        Datum::figure(figure.referred.map(|it| Estimate::new(it.value, None)), &figure.unit),
        Datum::ratio(figure.ratio),
        Datum::text(limit(figure.must)),
        Datum::text(figure.aim.map(limit).unwrap_or_default()),
        Datum::text(figure.standing.name()),
        Datum::text(what),
    ]
}

/// What the figures of a suite must be.
pub(super) fn limits(suite: &Suite) -> Table {
    let rows = suite.targets.iter().map(|target| {
        let limits = target.limits;
        let limit = |limit| at_most(limit, limits.yardstick, suite::unit_of(target.metric));
        vec![
            Datum::text(target.name),
            Datum::text(limit(limits.must)),
            Datum::text(limits.aim.map(limit).unwrap_or_default()),
            Datum::text(target.what),
            Datum::text(target.source),
        ]
    });
    Table {
        title: format!("{}: {}", suite.name, suite.about),
        caption: String::new(),
        header: ["figure", "must be", "aim", "what it is", "where the limits come from"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
        is_narrow: true,
    }
}

fn at_most(limit: f64, yardstick: Yardstick, unit: &str) -> String {
    let unit = match yardstick {
        Yardstick::Value => Unit::parse(unit),
        Yardstick::Ratio => Unit::Ratio,
    };
    format!("≤ {}", format::value(limit, unit))
}
