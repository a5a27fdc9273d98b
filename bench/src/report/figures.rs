//! The tables of a suite: its figures, and their limits before anything is measured.

use super::digest::clock_note;
use super::format::{self, Unit};
use super::table::{Datum, Table};
use crate::results::{Ends, Estimate, Figure, Results, Standing, Yardstick};
use crate::suite::{self, Suite};

/// The figures of the run's suite, made anew from its samples.
pub(super) fn table(results: &Results) -> Option<Table> {
    let suite = suite::rejudge(results)?;
    let mut references: Vec<&String> =
        suite.figures.iter().filter_map(|figure| figure.reference.as_ref()).collect();
    references.dedup();
    let has_ranges = suite.figures.iter().any(|figure| figure.ends == Some(Ends::Range));
    let ends = if has_ranges { "the range of all samples" } else { "the 95 % interval" };
    let mut caption = format!(
        "In brackets {ends}, which must be within the limit as a whole.{}",
        clock_note(results)
    );
    let mut header: Vec<String> = ["figure", "n", "median"].map(str::to_owned).to_vec();
    let references = References::of(&references);
    match &references {
        References::None => {}
        References::One(reference) => {
            caption += &format!(
                " ×: cost as a multiple of the same on {reference} in this round; below 1 is better, for rates too."
            );
            header.extend([reference.clone(), format!("× {reference}")]);
        }
        References::Several => {
            caption += " ×: cost as a multiple of what it is compared with, in this round; below 1 is better, for rates too.";
            header.extend(["compared with", "its median", "×"].map(str::to_owned));
        }
    }
    header.extend(["must be", "aim", "met", "what it is"].map(str::to_owned));
    Some(Table {
        title: format!("Figures of the suite {}", suite.name),
        caption,
        header,
        rows: suite.figures.iter().map(|figure| row(figure, &references)).collect(),
        is_narrow: true,
    })
}

/// What the figures of a table are compared with.
enum References {
    None,
    /// All with the same.
    One(String),
    Several,
}

impl References {
    fn of(names: &[&String]) -> References {
        match names {
            [] => References::None,
            [one] => References::One((*one).clone()),
            _ => References::Several,
        }
    }
}

fn row(figure: &Figure, references: &References) -> Vec<Datum> {
    let what = match figure.standing {
        Standing::NotMeasured | Standing::Undecided => format!("{}: {}", figure.what, figure.why),
        Standing::Aim | Standing::Must | Standing::Missed => figure.what.clone(),
    };
    let limit = |limit| at_most(limit, figure.yardstick, &figure.unit);
    let mut row = vec![
        Datum::text(&figure.name),
        Datum::Count(figure.n.try_into().unwrap_or(usize::MAX)),
        Datum::figure(figure.measured, &figure.unit),
    ];
    if matches!(references, References::Several) {
        row.push(Datum::text(figure.reference.as_deref().unwrap_or_default()));
    }
    if !matches!(references, References::None) {
        let referred = figure.referred.map(|it| Estimate::new(it.value, None));
        row.extend([Datum::figure(referred, &figure.unit), Datum::ratio(figure.ratio)]);
    }
    row.extend([
        Datum::text(limit(figure.must)),
        Datum::text(figure.aim.map(limit).unwrap_or_default()),
        Datum::text(figure.standing.name()),
        Datum::text(what),
    ]);
    row
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
