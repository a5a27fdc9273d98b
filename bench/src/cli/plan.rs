//! From what the user wishes to the cells of a comparison.

use crate::backend::Wiring;
use crate::harness::CellPlan;
use crate::recipe::{self, Error, Recipe, Setting, WEIGH_MS};

/// What a comparison is to contain.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) backends: Vec<String>,
    pub(super) workloads: Vec<String>,
    /// The network of boxes whose workload wants none.
    pub(super) wiring: Wiring,
    pub(super) setting: Setting,
}

const FILE_LAB: &[(&str, &str)] = &[("file_bytes", "1048576"), ("count", "32"), ("files", "20")];

const RECIPES: [Recipe; 12] = [
    Recipe::plain("start"),
    Recipe { variant: &[("weighed", "idle")], weigh_ms: Some(WEIGH_MS), ..Recipe::plain("start") },
    Recipe {
        lab: &[
            ("scale_percent", "5"),
            ("repeats", "2"),
            ("buffer_bytes", "262144"),
            ("chase_bytes", "262144"),
        ],
        ..Recipe::plain("cpu")
    },
    // Huge pages are the host's and the guest's own choice; both are told to do without, or the
    // figure would compare their settings.
    Recipe {
        variant: &[("pages", "4k")],
        always: &[("pages", "4k")],
        lab: &[("bytes", "4194304")],
        ..Recipe::plain("memory")
    },
    Recipe {
        lab: &[("getpid_calls", "1000"), ("switches", "100"), ("forks", "5")],
        ..Recipe::plain("syscall")
    },
    Recipe { variant: &[("direct", "0")], lab: FILE_LAB, ..Recipe::plain("file") },
    Recipe {
        variant: &[("direct", "1")],
        always: &[("direct", "1")],
        lab: FILE_LAB,
        is_direct: true,
        ..Recipe::plain("file")
    },
    Recipe::plain("probe"),
    recipe::STREAM_VSOCK,
    recipe::STREAM_NET,
    recipe::ROUNDTRIP_VSOCK,
    recipe::ROUNDTRIP_NET,
];

/// Names of the workloads that a comparison can contain, for the command line.
pub(super) fn workload_names() -> clap::builder::PossibleValuesParser {
    let mut names: Vec<_> = RECIPES.iter().map(|recipe| recipe.workload).collect();
    names.dedup();
    clap::builder::PossibleValuesParser::new(names)
}

/// The cells of a wish: every backend with every recipe of the workloads asked for.
pub(super) fn cells(wish: &Wish) -> Result<Vec<CellPlan>, Error> {
    let is_wished = |recipe: &&Recipe| wish.workloads.iter().any(|name| name == recipe.workload);
    let wired = |recipe: &Recipe| match recipe.transport {
        None => Recipe { wiring: wish.wiring, ..*recipe },
        Some(_) => *recipe,
    };
    let cells = RECIPES.iter().filter(is_wished).map(wired).flat_map(|recipe| {
        wish.backends.iter().map(move |backend| recipe.cell(backend, wish.setting))
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(is_lab: bool) -> Wish {
        Wish {
            backends: vec!["process".to_owned(), "microvm".to_owned()],
            wiring: Wiring::None,
            workloads: RECIPES.iter().map(|recipe| recipe.workload.to_owned()).collect(),
            setting: Setting { start_replicates: 40, other_replicates: 4, memory_mib: 128, is_lab },
        }
    }

    #[test]
    fn test_every_recipe_s_parameters_are_allowed_on_a_machine_and_in_the_lab() {
        for is_lab in [false, true] {
            let cells = cells(&wish(is_lab)).unwrap();
            assert_eq!(cells.len(), 2 * RECIPES.len());
            assert!(cells.iter().all(|cell| cell.weigh == (cell.assignment.job.hold_ms > 0)));
        }
    }

    #[test]
    fn test_only_plain_start_takes_the_many_replicates() {
        for cell in cells(&wish(false)).unwrap() {
            let is_plain_start = cell.assignment.job.workload == "start" && !cell.weigh;
            assert_eq!(cell.replicates, if is_plain_start { 40 } else { 4 });
        }
    }
}
