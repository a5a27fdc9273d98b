//! From what the user wishes to the cells of a comparison.

use crate::backend::Wiring;
use crate::harness::{Act, CellPlan, Lifecycle};
use crate::recipe::{self, Error, Pairs, Recipe, Setting, WEIGH_MS};

/// What a comparison is to contain.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) backends: Vec<String>,
    pub(super) workloads: Vec<String>,
    pub(super) lifecycles: Vec<Lifecycle>,
    /// The network of boxes whose workload wants none.
    pub(super) wiring: Wiring,
    pub(super) setting: Setting,
}

const FILE_LAB: &[(&str, &str)] = &[("file_bytes", "1048576"), ("count", "32"), ("files", "20")];

const RECIPES: [Recipe; 20] = [
    Recipe::plain("start"),
    Recipe { variant: &[("weighed", "idle")], weigh_ms: Some(WEIGH_MS), ..Recipe::plain("start") },
    // Boxes that live at once: what each of them adds to the host.
    Recipe { variant: &[("live", "10")], act: Act::Crowd(10), ..Recipe::plain("start") },
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
    Recipe::plain("reach"),
    Recipe {
        lab: &[("memory_bytes", "167772160"), ("processes", "64"), ("busy_ms", "50")],
        ..Recipe::plain("demand")
    },
    // Known amounts on the scale, to check it by.
    hold(&[("holds", "nothing")], &[]),
    hold(&[("holds", "private")], &[("private_bytes", "8388608")]),
    hold(&[("holds", "shared")], &[("shared_bytes", "8388608")]),
    hold(&[("holds", "page-cache")], &[("cache_bytes", "8388608")]),
    hold(&[("holds", "kernel")], &[("pipes", "128")]),
    recipe::STREAM_VSOCK,
    recipe::STREAM_NET,
    recipe::ROUNDTRIP_VSOCK,
    recipe::ROUNDTRIP_NET,
];

const fn hold(variant: Pairs, always: Pairs) -> Recipe {
    Recipe { variant, always, weigh_ms: Some(WEIGH_MS), ..Recipe::plain("hold") }
}

/// Names of the workloads that a comparison can contain, for the command line.
pub(super) fn workload_names() -> clap::builder::PossibleValuesParser {
    let mut names: Vec<_> = RECIPES.iter().map(|recipe| recipe.workload).collect();
    names.dedup();
    clap::builder::PossibleValuesParser::new(names)
}

/// The cells of a wish: every backend with every recipe of the workloads asked for, and with every
/// lifecycle.
pub(super) fn cells(wish: &Wish) -> Result<Vec<CellPlan>, Error> {
    let is_wished = |recipe: &&Recipe| wish.workloads.iter().any(|name| name == recipe.workload);
    let wired = |recipe: &Recipe| match recipe.transport {
        None => Recipe { wiring: wish.wiring, ..*recipe },
        Some(_) => *recipe,
    };
    let cells = RECIPES.iter().filter(is_wished).map(wired).flat_map(|recipe| {
        wish.backends.iter().map(move |backend| recipe.cell(backend, wish.setting))
    });
    let mut cells = cells.collect::<Result<Vec<_>, _>>()?;
    for lifecycle in &wish.lifecycles {
        for backend in &wish.backends {
            cells.push(lifecycle_cell(*lifecycle, backend, wish)?);
        }
    }
    Ok(cells)
}

/// Starts of a backend as they follow each other in use.
fn lifecycle_cell(lifecycle: Lifecycle, backend: &str, wish: &Wish) -> Result<CellPlan, Error> {
    let act = Act::Lifecycle(lifecycle);
    let recipe = Recipe { act, wiring: wish.wiring, ..Recipe::plain("start") };
    let mut cell = recipe.cell(backend, wish.setting)?;
    cell.variant.insert("lifecycle".to_owned(), lifecycle.to_string());
    Ok(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(is_lab: bool) -> Wish {
        Wish {
            backends: vec!["process".to_owned(), "microvm".to_owned()],
            wiring: Wiring::None,
            workloads: RECIPES.iter().map(|recipe| recipe.workload.to_owned()).collect(),
            lifecycles: vec![Lifecycle::Isolated(1), Lifecycle::Grow(5)],
            setting: Setting { start_replicates: 40, other_replicates: 4, memory_mib: 128, is_lab },
        }
    }

    #[test]
    fn test_every_recipe_s_parameters_are_allowed_on_a_machine_and_in_the_lab() {
        for is_lab in [false, true] {
            let cells = cells(&wish(is_lab)).unwrap();
            assert_eq!(cells.len(), 2 * (RECIPES.len() + 2));
            let (lifecycles, recipes): (Vec<_>, Vec<_>) =
                cells.iter().partition(|cell| cell.variant.contains_key("lifecycle"));
            let is_held = |cell: &CellPlan| cell.weigh || cell.act != Act::Launch;
            assert!(recipes.iter().all(|cell| is_held(cell) == (cell.assignment.job.hold_ms > 0)));
            assert!(lifecycles.iter().all(|cell| {
                (cell.variant["lifecycle"] == "grow:5") == (cell.assignment.job.hold_ms > 0)
            }));
        }
    }

    #[test]
    fn test_only_plain_start_takes_the_many_replicates() {
        for cell in cells(&wish(false)).unwrap() {
            let lifecycle = cell.variant.get("lifecycle").map(String::as_str);
            let is_crowd = lifecycle.is_none() && cell.act != Act::Launch;
            let is_plain_start = cell.assignment.job.workload == "start"
                && !cell.weigh
                && !is_crowd
                && lifecycle != Some("grow:5");
            assert_eq!(cell.replicates, if is_plain_start { 40 } else { 4 });
        }
    }
}
