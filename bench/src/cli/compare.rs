//! `tare compare`: the comparison, end to end.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::lab::{Errand, FlavourArg, MachineArgs};
use super::launch::backend_names;
use super::plan::{self, Wish};
use super::{HostChoice, KitArgs, exit, print_text};
use crate::harness::{self, Schedule};
use crate::host::{self, Source};
use crate::interrupt;
use crate::kit::Kit;
use crate::lab::{DETERMINISTIC, LAB_VARIABLE};
use crate::results::{Clock, Results, Status};
use crate::rundir::RunDir;
use crate::{claims, record, report};

/// Name of the results file that a comparison in the lab leaves for the host to collect.
const LAB_RESULTS: &str = "results.json";
/// The lab's default seed: the same command gives the same samples, to the nanosecond.
const LAB_SEED: u64 = 1;

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
    /// Where boxes run
    #[arg(long, value_enum, default_value_t = HostChoice::Auto)]
    host: HostChoice,
    /// Samples of each start-up cell [default: 300 on a machine, 5 in the lab, 20 with --quick];
    /// the other workloads take a tenth, but at least 6, or 3 in the lab
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replicates: Option<u32>,
    /// Discarded but recorded replicates of each cell before the first sample
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(..=1000))]
    warmups: u32,
    /// Seed of the order of replicates and of the bootstrap [default: random, but 1 in the lab]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..1u64 << 53))]
    seed: Option<u64>,
    /// Rest before each launch, in milliseconds; 0 is back to back
    #[arg(long, value_name = "MS", default_value_t = 0)]
    gap_ms: u64,
    /// Kill an instance after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// Fewer replicates
    #[arg(long)]
    quick: bool,
    /// Directory for the results file and the reports
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// Print the results as JSON on standard output instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kit: KitArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<u8> {
    if record::is_collected() {
        let (results, code) = measure(args)?;
        results.save(Path::new(LAB_RESULTS))?;
        return Ok(code);
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let (results, code) =
        if args.goes_to_the_lab() { measure_in_lab(args)? } else { measure(args)? };
    publish(args, &results)?;
    Ok(code)
}

impl CompareArgs {
    fn goes_to_the_lab(&self) -> bool {
        match self.host {
            HostChoice::Lab => true,
            HostChoice::Local => false,
            HostChoice::Auto if host::has_hardware_virtualization() => false,
            HostChoice::Auto => {
                eprintln!(
                    "tare: this machine has no VMX or SVM, so no microVM runs on it in useful time.\n\
                     tare: comparing in the lab, an emulated host: all figures are virtual time."
                );
                true
            }
        }
    }

    fn wish(&self, is_lab: bool) -> Wish {
        let start = self.replicates.unwrap_or(match (is_lab, self.quick) {
            (true, _) => 5,
            (false, true) => 20,
            (false, false) => 300,
        });
        Wish {
            backends: self.on.clone(),
            workloads: self.workload.clone(),
            start_replicates: start,
            other_replicates: (start / 10).max(if is_lab { 3 } else { 6 }),
            memory_mib: self.kit.memory_mib,
            is_lab,
        }
    }
}

/// Runs the plan on the host that this process is on.
fn measure(args: &CompareArgs) -> anyhow::Result<(Results, u8)> {
    interrupt::listen()?;
    let is_lab = std::env::var_os(LAB_VARIABLE).is_some();
    let seed = match args.seed {
        Some(seed) => seed,
        None if is_lab => LAB_SEED,
        None => harness::fresh_seed().context("cannot read /dev/urandom")?,
    };
    let kit = Kit::new(args.kit.choice())?;
    let plan = plan::cells(&args.wish(is_lab))?;
    let floors = harness::measure_floors(&kit, plan::floor_replicates(is_lab));
    let schedule = Schedule {
        seed,
        warmups: args.warmups,
        gap: Duration::from_millis(args.gap_ms),
        timeout: Duration::from_secs(args.timeout_s),
    };
    let finished = harness::run(&kit, &plan, schedule);
    let is_complete =
        finished.cells.iter().all(|cell| cell.status == Status::Ok && cell.failures.is_empty());
    let code = match (finished.interrupted, is_complete) {
        (true, _) => exit::INTERRUPTED,
        (false, true) => exit::OK,
        (false, false) => exit::INCOMPLETE,
    };
    let is_exact = std::env::var(LAB_VARIABLE).is_ok_and(|flavour| flavour == DETERMINISTIC);
    let clock = if is_exact { Clock::Virtual } else { Clock::Wall };
    let mut results = record::assemble(&kit, &Source::live(), clock);
    results.seed = seed;
    results.schedule = schedule.into();
    results.floors = floors;
    results.cells = finished.cells;
    results.order = finished.order;
    results.interrupted = finished.interrupted;
    results.summarise();
    results.claims = claims::judge(&results);
    Ok((results, code))
}

/// Runs the same command in the lab and collects its results file.
fn measure_in_lab(args: &CompareArgs) -> anyhow::Result<(Results, u8)> {
    let out_dir = RunDir::new().context("cannot make a directory for the lab's output")?;
    let seed = args.seed.unwrap_or(LAB_SEED);
    let mut arguments: Vec<OsString> = ["compare", "--host", "local"].map(OsString::from).to_vec();
    let mut option = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    option("--on", args.on.join(","));
    option("--workload", args.workload.join(","));
    option("--seed", seed.to_string());
    option("--warmups", args.warmups.to_string());
    option("--gap-ms", args.gap_ms.to_string());
    option("--timeout-s", args.timeout_s.to_string());
    option("--memory-mib", args.kit.memory_mib.to_string());
    if let Some(replicates) = args.replicates {
        option("--replicates", replicates.to_string());
    }
    arguments.extend(args.kit.microvm.forward());
    let errand = Errand {
        flavour: FlavourArg::Deterministic,
        machine: args.machine,
        program: None,
        arguments,
        environment: vec![record::command_variable()],
        kernel: args.kit.kernel.clone(),
        modules: args.kit.microvm.modules.clone(),
        rootfs: args.kit.rootfs.clone(),
        extra: Vec::new(),
        out_dir: out_dir.path().to_owned(),
    };
    let code = errand.run()?;
    let path = out_dir.path().join(LAB_RESULTS);
    let mut results = Results::load(&path).with_context(|| {
        format!("the comparison in the lab ended with exit code {code} and left no results")
    })?;
    // The lab's calendar always shows the same day.
    results.created = record::now();
    Ok((results, u8::try_from(code).unwrap_or(exit::FAILED)))
}

/// Writes the results and their reports; prints the tables.
fn publish(args: &CompareArgs, results: &Results) -> anyhow::Result<()> {
    let name = record::file_stem(results);
    let path = |extension: &str| args.out.join(format!("{name}.{extension}"));
    results.save(&path("json"))?;
    let write = |extension: &str, text: String| {
        let path = path(extension);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("html", report::render_html(results)?)?;
    write("md", report::render_markdown(results))?;
    if args.json {
        print_text(&(serde_json::to_string_pretty(results)? + "\n"))?;
    } else {
        print_text(&report::render_table(results))?;
    }
    eprintln!(
        "\nwrote {}\n      {}\n      {}",
        path("json").display(),
        path("html").display(),
        path("md").display()
    );
    Ok(())
}
