//! `tare compare`: the comparison, end to end.

use clap::Args;

use super::launch::backend_names;
use super::plan::{self, Wish};
use super::round::{RoundArgs, is_lab};
use crate::backend::Wiring;
use crate::results::Results;
use crate::{claims, report};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare compare\n  \
    tare compare --quick\n  \
    tare compare --host local --on process,container --workload start --replicates 300\n  \
    tare compare --host lab --on microvm,qemu --workload start")]
pub(super) struct CompareArgs {
    /// Backends to compare
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',',
          default_value = "process,container,microvm,qemu", value_parser = backend_names())]
    on: Vec<String>,
    /// Workloads to run
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_parser = plan::workload_names(),
          default_value = "start,cpu,memory,syscall,file,probe")]
    workload: Vec<String>,
    /// Network of the boxes; a workload that talks to the host over one has a bridge all the same
    #[arg(long, value_enum, default_value_t)]
    network: Wiring,
    /// Samples of each start-up cell [default: 300 on a machine, 5 in the lab, 20 with --quick];
    /// the other workloads take a tenth, but at least 6, or 3 in the lab
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replicates: Option<u32>,
    /// Fewer replicates
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    round: RoundArgs,
}

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<u8> {
    let (on, workload) = (args.on.join(","), args.workload.join(","));
    let replicates = args.replicates.map(|replicates| replicates.to_string());
    let mut words =
        vec!["compare", "--on", &on, "--workload", &workload, "--network", args.network.name()];
    words.extend(replicates.iter().flat_map(|count| ["--replicates", count]));
    args.round.run(&words, || measure(args), report::render_table)
}

/// Runs the plan on the host that this process is on.
fn measure(args: &CompareArgs) -> anyhow::Result<(Results, u8)> {
    let start_replicates = args.replicates.unwrap_or(match (is_lab(), args.quick) {
        (true, _) => 5,
        (false, true) => 20,
        (false, false) => 300,
    });
    let wish = Wish {
        backends: args.on.clone(),
        workloads: args.workload.clone(),
        wiring: args.network,
        setting: args.round.setting(start_replicates),
    };
    let (mut results, code) = args.round.measure(&plan::cells(&wish)?)?;
    results.claims = claims::judge(&results);
    Ok((results, code))
}
