//! `tare compare`: the comparison, end to end.

use clap::Args;

use super::launch::backend_names;
use super::plan::{self, Wish};
use super::round::RoundArgs;
use crate::backend::Wiring;
use crate::harness::Lifecycle;
use crate::lab::is_lab;
use crate::results::Results;
use crate::{claims, report};

const DEFAULT_WORKLOADS: [&str; 7] =
    ["start", "cpu", "memory", "syscall", "file", "probe", "reach"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare compare\n  \
    tare compare --quick\n  \
    tare compare --host local --on process,container --workload start --replicates 300\n  \
    tare compare --host lab --on microvm,qemu --workload start\n  \
    tare compare --on process,container --workload start --precision-percent 2 --budget-s 120\n  \
    tare compare --on container --lifecycle isolated,sustained,open:50,burst:20,grow:100")]
pub(super) struct CompareArgs {
    /// Backends to compare
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',',
          default_value = "process,container,microvm,qemu", value_parser = backend_names())]
    on: Vec<String>,
    /// Workloads to run [default: start,cpu,memory,syscall,file,probe,reach, or none with
    /// --lifecycle]
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_parser = plan::workload_names())]
    workload: Vec<String>,
    /// Network of the boxes; a workload that talks to the host over one has a bridge all the same
    #[arg(long, value_enum, default_value_t)]
    network: Wiring,
    /// Start-up as boxes follow each other in use: isolated[:REST_MS], sustained[:N] back to back,
    /// open:PER_SECOND[:uniform] arrivals, with latency from the intended launch, burst:N at once,
    /// grow:N while ever more live, and their tear-down, density[:AT_MOST] until the host's limit
    #[arg(long, value_name = "LIFECYCLES", value_delimiter = ',')]
    lifecycle: Vec<Lifecycle>,
    /// Samples of each start-up cell [default: 300 on a machine, 30 in the lab; with --quick 20 and 5];
    /// the other workloads take a tenth, but at least 6, or 3 in the lab
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replicates: Option<u32>,
    /// Fewer replicates: a round of at most 3 minutes on 2 idle cores, in the lab too
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    round: RoundArgs,
}

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<u8> {
    let lifecycles: Vec<String> = args.lifecycle.iter().map(Lifecycle::to_string).collect();
    let (on, workload) = (args.on.join(","), args.workload.join(","));
    let lifecycle = lifecycles.join(",");
    let replicates = args.replicates.map(|replicates| replicates.to_string());
    let mut words = vec!["compare", "--on", &on, "--network", args.network.name()];
    for (option, value) in [("--workload", &workload), ("--lifecycle", &lifecycle)] {
        if !value.is_empty() {
            words.extend([option, value]);
        }
    }
    if args.quick {
        words.push("--quick");
    }
    words.extend(replicates.iter().flat_map(|count| ["--replicates", count]));
    args.round.run(&words, || measure(args), report::render_table)
}

/// Runs the plan on the host that this process is on.
fn measure(args: &CompareArgs) -> anyhow::Result<(Results, u8)> {
    let default = args.round.replicates(match (is_lab(), args.quick) {
        (true, true) => 5,
        (true, false) => 30,
        (false, true) => 20,
        (false, false) => 300,
    });
    let start_replicates = args.replicates.unwrap_or(default);
    let workloads = match (args.workload.as_slice(), args.lifecycle.as_slice()) {
        ([], []) => DEFAULT_WORKLOADS.map(str::to_owned).to_vec(),
        (workloads, _) => workloads.to_vec(),
    };
    let wish = Wish {
        backends: args.on.clone(),
        workloads,
        lifecycles: args.lifecycle.clone(),
        wiring: args.network,
        setting: args.round.setting(start_replicates),
    };
    let (mut results, code) = args.round.measure(&plan::cells(&wish)?)?;
    results.claims = claims::judge(&results);
    Ok((results, code))
}
