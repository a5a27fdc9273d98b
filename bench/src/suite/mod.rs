//! Suites: figures with the limits that they must keep, measured together in one round.
//!
//! A [`Target`] names one figure: in which backend which recipe is run, which metric of it counts,
//! and what it must be and is aimed to be. Limits are fixed here, in code, before anything is
//! measured, each with its source. They are absolute, or multiples of what another backend shows in
//! the same round.
//!
//! - [`Suite::cells`] plans one round with all that its targets need: their cells, those of the
//!   backends they are compared with, and for each of these the plain process as baseline and the
//!   workload that tells what a mark costs.
//! - [`Suite::judge`] makes the figures from the samples of a round, and from nothing else, so that
//!   they can be made anew from any results file ([`rejudge`]).
//! - A limit is kept where the whole interval is within it, and missed where the whole interval is
//!   beyond it; otherwise the figure is undecided. In virtual time, which repeats itself exactly,
//!   the extremes of all samples are the interval where they are too few to have one.
//! - A figure whose cell failed, or whose backend is not there, says so.
//!
//! A new suite is one file here and one entry in [`all`].

mod container;
mod judge;
#[cfg(test)]
pub(crate) mod tests;
mod vmm;

pub use judge::{rejudge, unit_of};

use tare_kernels::Variant;

use crate::backend::Availability;
use crate::harness::{Act, CellPlan};
use crate::recipe::{Error, Recipe, Setting};
use crate::results::Yardstick;

/// The backend that is the baseline of every recipe.
const BASELINE: &str = "process";
/// What tells the cost of a mark in each backend of a round.
const PROBE: Recipe = Recipe::plain("probe");

/// Figures that are measured together.
#[derive(Debug)]
pub struct Suite {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// Its figures, in the order of tables.
    pub targets: &'static [Target],
}

/// One figure and what it must be.
#[derive(Debug)]
pub struct Target {
    /// Its name, unique in the suite.
    pub name: &'static str,
    /// What is measured, between which edges.
    pub what: &'static str,
    /// Where.
    pub backend: &'static str,
    /// How.
    pub recipe: &'static Recipe,
    /// The metric that counts, by its name in the summaries.
    pub metric: &'static str,
    /// What it is compared with.
    pub reference: Option<Reference>,
    /// What the figure must be.
    pub limits: Limits,
    /// Where the limits come from.
    pub source: &'static str,
}

/// What a figure is compared with: the same metric elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Where.
    pub backend: &'static str,
    /// How, where it is another way.
    pub recipe: Option<&'static Recipe>,
}

impl Reference {
    /// The same recipe in another backend.
    pub const fn same_in(backend: &'static str) -> Reference {
        Reference { backend, recipe: None }
    }

    /// Its name in tables: the backend and, where the recipe is another, what tells that from others.
    pub fn name(&self) -> String {
        let variant = self.recipe.into_iter().flat_map(|recipe| recipe.variant);
        let words = variant.map(|(key, value)| format!(" {key}={value}"));
        std::iter::once(self.backend.to_owned()).chain(words).collect()
    }
}

/// Upper limits of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// What is held against them.
    pub yardstick: Yardstick,
    /// What must not be exceeded, in the metric's unit or as a multiple.
    pub must: f64,
    /// What is aimed at.
    pub aim: Option<f64>,
}

impl Limits {
    /// Limits of the value itself, in the metric's unit.
    pub const fn value(must: f64, aim: f64) -> Limits {
        Limits { yardstick: Yardstick::Value, must, aim: Some(aim) }
    }

    /// Limits of the cost as a multiple of the reference's.
    pub const fn ratio(must: f64, aim: f64) -> Limits {
        Limits { yardstick: Yardstick::Ratio, must, aim: Some(aim) }
    }
}

/// Every suite.
pub fn all() -> &'static [&'static Suite] {
    &[&vmm::SUITE, &container::SUITE]
}

/// The suite of that name.
pub fn find(name: &str) -> Option<&'static Suite> {
    all().iter().copied().find(|suite| suite.name == name)
}

impl Suite {
    /// The targets of these names; where none is named, all that the host can measure.
    fn chosen<'a>(&'a self, only: &'a [String], is_lab: bool) -> impl Iterator<Item = &'a Target> {
        let is_chosen = move |target: &&Target| match only {
            // 300 MB are too much for it: a figure that is never there is not one of the lab's.
            [] => !(is_lab && target.recipe.act == Act::Unpack),
            _ => only.iter().any(|name| name == target.name),
        };
        self.targets.iter().filter(is_chosen)
    }

    /// The variants of guest kernel that its targets name, besides the run's own.
    pub fn kernels(&self) -> Vec<&'static Variant> {
        let mut kernels: Vec<&'static Variant> = Vec::new();
        for kernel in self.targets.iter().filter_map(|target| target.recipe.kernel) {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        kernels
    }

    /// The cells of a round that shows the figures named `only`, or all of them.
    ///
    /// # Errors
    /// [`Error`], where this build lacks something that the suite needs.
    pub fn cells(&self, only: &[String], setting: Setting) -> Result<Vec<CellPlan>, Error> {
        let mut wanted: Vec<(&str, &Recipe)> = Vec::new();
        for target in self.chosen(only, setting.is_lab) {
            // A process has no kernel of its own, and nothing of it is saved.
            let has_baseline =
                matches!(target.recipe.act, Act::Launch | Act::Series(_) | Act::Lifecycle(_))
                    && target.recipe.kernel.is_none();
            let referred = target
                .reference
                .map(|reference| (reference.backend, reference.recipe.unwrap_or(target.recipe)));
            let baseline = has_baseline.then_some((BASELINE, target.recipe));
            let own = Some((target.backend, target.recipe));
            for (backend, recipe) in [own, referred, baseline].into_iter().flatten() {
                wanted.push((backend, recipe));
                // What unpacks images sends no marks.
                wanted.extend((recipe.act != Act::Unpack).then_some((backend, &PROBE)));
            }
        }
        let mut cells: Vec<CellPlan> = Vec::new();
        for (backend, recipe) in wanted {
            let cell = recipe.cell(backend, setting)?;
            // The baseline is for comparison where it can do the same.
            let suits = || cell.backend.suits(&cell.assignment) == Availability::Ready;
            if backend == BASELINE && !suits() {
                continue;
            }
            if !cells.iter().any(|other| is_same(other, &cell)) {
                cells.push(cell);
            }
        }
        Ok(cells)
    }
}

fn is_same(one: &CellPlan, other: &CellPlan) -> bool {
    one.backend.name() == other.backend.name()
        && one.workload.name() == other.workload.name()
        && one.variant == other.variant
}
