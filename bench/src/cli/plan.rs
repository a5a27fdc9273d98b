//! From what the user wishes to the cells of a plan.
//!
//! Sizes differ between a machine and the lab: there each instruction is emulated, at a hundredth
//! of a machine's speed, and a sample repeats itself to the nanosecond, so little work and few
//! replicates say as much.

use std::collections::BTreeMap;

use anyhow::Context;
use tare_workload::{Channel, Job, Params, Workload};

use crate::backend::{self, Assignment, Backend, Output, Transport};
use crate::harness::CellPlan;

/// What a comparison is to contain.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) backends: Vec<String>,
    pub(super) workloads: Vec<String>,
    pub(super) start_replicates: u32,
    pub(super) other_replicates: u32,
    pub(super) memory_mib: u64,
    pub(super) is_lab: bool,
}

/// One way to run a workload.
struct Recipe {
    workload: &'static str,
    variant: &'static [(&'static str, &'static str)],
    /// Parameters everywhere.
    always: &'static [(&'static str, &'static str)],
    /// More parameters in the lab; on a machine the workload's defaults.
    lab: &'static [(&'static str, &'static str)],
    /// The box rests this long after `done` and is weighed meanwhile.
    weigh_ms: Option<u32>,
    is_direct: bool,
    transport: Option<Transport>,
}

const PLAIN: Recipe = Recipe {
    workload: "",
    variant: &[],
    always: &[],
    lab: &[],
    weigh_ms: None,
    is_direct: false,
    transport: None,
};

const VSOCK: Recipe =
    Recipe { variant: &[("transport", "vsock")], transport: Some(Transport::Vsock), ..PLAIN };
const NET: Recipe =
    Recipe { variant: &[("transport", "net")], transport: Some(Transport::Net), ..PLAIN };

/// Long enough for the harness to read the account of an idle box, on a slow machine too.
const WEIGH_MS: u32 = 100;

const FILE_LAB: &[(&str, &str)] = &[("file_bytes", "1048576"), ("count", "32"), ("files", "20")];

const STREAM_LAB: &[(&str, &str)] = &[("bytes", "4194304"), ("repeats", "2")];

const RECIPES: [Recipe; 12] = [
    Recipe { workload: "start", ..PLAIN },
    Recipe {
        workload: "start",
        variant: &[("weighed", "idle")],
        weigh_ms: Some(WEIGH_MS),
        ..PLAIN
    },
    Recipe {
        workload: "cpu",
        lab: &[
            ("scale_percent", "5"),
            ("repeats", "2"),
            ("buffer_bytes", "262144"),
            ("chase_bytes", "262144"),
        ],
        ..PLAIN
    },
    // Huge pages are the host's and the guest's own choice; both are told to do without, or the
    // figure would compare their settings.
    Recipe {
        workload: "memory",
        variant: &[("pages", "4k")],
        always: &[("pages", "4k")],
        lab: &[("bytes", "4194304")],
        ..PLAIN
    },
    Recipe {
        workload: "syscall",
        lab: &[("getpid_calls", "1000"), ("switches", "100"), ("forks", "5")],
        ..PLAIN
    },
    Recipe { workload: "file", variant: &[("direct", "0")], lab: FILE_LAB, ..PLAIN },
    Recipe {
        workload: "file",
        variant: &[("direct", "1")],
        always: &[("direct", "1")],
        lab: FILE_LAB,
        is_direct: true,
        ..PLAIN
    },
    Recipe { workload: "probe", ..PLAIN },
    Recipe { workload: "stream", lab: STREAM_LAB, ..VSOCK },
    Recipe { workload: "stream", lab: STREAM_LAB, ..NET },
    Recipe { workload: "roundtrip", lab: &[("count", "100")], ..VSOCK },
    Recipe { workload: "roundtrip", lab: &[("count", "100")], ..NET },
];

/// Room for the files of the workload `file` and its file system, in MiB.
const SCRATCH_MIB: u64 = 64;

/// Names of the workloads that a comparison can contain, for the command line.
pub(super) fn workload_names() -> clap::builder::PossibleValuesParser {
    let mut names: Vec<_> = RECIPES.iter().map(|recipe| recipe.workload).collect();
    names.dedup();
    clap::builder::PossibleValuesParser::new(names)
}

/// Replicates of each physical floor.
pub(super) fn floor_replicates(is_lab: bool) -> u32 {
    if is_lab { 5 } else { 100 }
}

/// The cells of a wish: every backend with every recipe of the workloads asked for.
pub(super) fn cells(wish: &Wish) -> anyhow::Result<Vec<CellPlan>> {
    let mut cells = Vec::new();
    for recipe in
        RECIPES.iter().filter(|recipe| wish.workloads.iter().any(|name| name == recipe.workload))
    {
        let workload = tare_workload::find(recipe.workload)
            .with_context(|| format!("there is no workload '{}'", recipe.workload))?;
        for name in &wish.backends {
            let backend =
                backend::find(name).with_context(|| format!("there is no backend '{name}'"))?;
            cells.push(cell(wish, recipe, workload, backend)?);
        }
    }
    Ok(cells)
}

fn cell(
    wish: &Wish,
    recipe: &Recipe,
    workload: &'static dyn Workload,
    backend: &'static dyn Backend,
) -> anyhow::Result<CellPlan> {
    let mut job = Job::new(Channel::Com1, recipe.workload);
    job.hold_ms = recipe.weigh_ms.unwrap_or(0);
    let sizes = if wish.is_lab { recipe.lab } else { &[] };
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    job.parameters = recipe.always.iter().chain(sizes).map(owned).collect();
    workload.check(&Params::new(workload, &job.parameters)?)?;
    let variant: BTreeMap<String, String> = recipe.variant.iter().map(owned).collect();
    let is_start = recipe.workload == "start" && recipe.weigh_ms.is_none();
    Ok(CellPlan {
        backend,
        workload,
        assignment: Assignment {
            job,
            memory_mib: wish.memory_mib,
            with_rootfs: false,
            scratch_mib: workload.needs_scratch().then_some(SCRATCH_MIB),
            direct: recipe.is_direct,
            transport: recipe.transport,
            output: Output::Null,
        },
        variant,
        replicates: if is_start { wish.start_replicates } else { wish.other_replicates },
        weigh: recipe.weigh_ms.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(is_lab: bool) -> Wish {
        Wish {
            backends: vec!["process".to_owned(), "microvm".to_owned()],
            workloads: RECIPES.iter().map(|recipe| recipe.workload.to_owned()).collect(),
            start_replicates: 40,
            other_replicates: 4,
            memory_mib: 128,
            is_lab,
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
