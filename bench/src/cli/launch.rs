//! `tare launch`: one command in several boxes, side by side.

use std::ffi::OsString;
use std::io::{Write, stderr, stdout};
use std::time::Duration;

use clap::Args;
use tare_workload::{Channel, Job};

use super::lab::{Errand, FlavourArg, MachineArgs};
use super::{HostChoice, KitArgs, exit, table};
use crate::backend::{self, Assignment, Availability, Backend, Output};
use crate::harness::{Conduct, ReplicateError, replicate};
use crate::host;
use crate::interrupt;
use crate::kit::Kit;
use crate::lab::LAB_VARIABLE;
use crate::results::Sample;
use crate::rundir::RunDir;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare launch -- uname -a\n  \
    tare launch --on process,container -- sh -c 'echo $$; id'\n  \
    tare launch --host lab -- cat /proc/cpuinfo\n\n\
    The command is looked up in the root file system that all boxes share (--rootfs). A plain\n\
    process only changes its root into it: the same files, no isolation.")]
pub(super) struct LaunchArgs {
    /// Boxes to run it in
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',', default_value = "process,container,microvm",
          value_parser = backend_names())]
    on: Vec<String>,
    /// Where boxes run
    #[arg(long, value_enum, default_value_t = HostChoice::Auto)]
    host: HostChoice,
    /// Kill a box after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// Print the boxes' phases, exit codes and memory as JSON on standard output; their output
    /// goes to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kit: KitArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Names of all backends, for the command line.
pub(super) fn backend_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(backend::all().iter().map(|backend| backend.name()))
}

/// One box's end.
struct Row {
    backend: &'static str,
    outcome: Result<Sample, String>,
}

pub(super) fn run(args: &LaunchArgs) -> anyhow::Result<u8> {
    if args.goes_to_the_lab() {
        return launch_in_lab(args);
    }
    interrupt::listen()?;
    let kit = Kit::new(args.kit.choice())?;
    let mut rows = Vec::new();
    for backend in args.on.iter().filter_map(|name| backend::find(name)) {
        let outcome = launch(&kit, backend, args);
        rows.push(Row { backend: backend.name(), outcome });
        if interrupt::requested() {
            return Ok(exit::INTERRUPTED);
        }
    }
    if args.json {
        print_json(&rows)?;
    } else {
        let outcomes = rows.iter().map(|row| (row.backend, row.outcome.as_ref()));
        println!("\n{}", table::phases(outcomes));
    }
    Ok(code_of(&rows))
}

impl LaunchArgs {
    fn goes_to_the_lab(&self) -> bool {
        let needs_virtualization =
            self.on.iter().any(|name| name != "process" && name != "container");
        match self.host {
            HostChoice::Lab => true,
            HostChoice::Local => false,
            HostChoice::Auto => {
                needs_virtualization
                    && !host::has_hardware_virtualization()
                    && std::env::var_os(LAB_VARIABLE).is_none()
            }
        }
    }
}

fn launch(kit: &Kit, backend: &'static dyn Backend, args: &LaunchArgs) -> Result<Sample, String> {
    if let Availability::Unavailable { why, remedy } = backend.probe(kit) {
        return Err(format!("{why}; {remedy}"));
    }
    let workload = tare_workload::find("run").ok_or("this build has no workload 'run'")?;
    let assignment = Assignment {
        job: Job { command: args.command.clone(), ..Job::new(Channel::Com1, workload.name()) },
        memory_mib: args.kit.memory_mib,
        with_rootfs: true,
        scratch_mib: None,
        direct: false,
        output: Output::Captured,
    };
    let prepared = backend.prepare(kit, &assignment).map_err(|error| error.to_string())?;
    let conduct = Conduct { workload, weigh: false, timeout: Duration::from_secs(args.timeout_s) };
    let mut labels =
        Labels { backend: backend.name(), to_stderr: args.json, partial: Default::default() };
    let result = replicate(prepared.as_ref(), conduct, &mut |is_stderr, bytes| {
        labels.write(is_stderr, bytes)
    });
    labels.finish();
    result.map_err(|error: ReplicateError| error.to_string())
}

/// Passes a box's output on, line by line, each with the box's name before it.
struct Labels {
    backend: &'static str,
    to_stderr: bool,
    partial: [Vec<u8>; 2],
}

impl Labels {
    fn write(&mut self, is_stderr: bool, bytes: &[u8]) {
        let partial = &mut self.partial[usize::from(is_stderr)];
        partial.extend_from_slice(bytes);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = partial.split_off(end + 1);
        let lines = std::mem::replace(partial, rest);
        self.print(is_stderr, &lines);
    }

    fn finish(&mut self) {
        for is_stderr in [false, true] {
            let mut rest = std::mem::take(&mut self.partial[usize::from(is_stderr)]);
            if !rest.is_empty() {
                rest.push(b'\n');
                self.print(is_stderr, &rest);
            }
        }
    }

    /// A reader that has gone away is not the box's failure: its output is dropped.
    fn print(&self, is_stderr: bool, lines: &[u8]) {
        let mut labelled = Vec::with_capacity(lines.len() + 16);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            labelled.extend_from_slice(format!("{:>9} | ", self.backend).as_bytes());
            labelled.extend_from_slice(line);
        }
        let _ = if is_stderr || self.to_stderr {
            stderr().write_all(&labelled)
        } else {
            stdout().write_all(&labelled)
        };
    }
}

fn print_json(rows: &[Row]) -> anyhow::Result<()> {
    let boxes: Vec<_> = rows
        .iter()
        .map(|row| match &row.outcome {
            Ok(sample) => serde_json::json!({ "backend": row.backend, "sample": sample }),
            Err(why) => serde_json::json!({ "backend": row.backend, "failure": why }),
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&boxes)?);
    Ok(())
}

/// The boxes' common exit code, if they have one.
fn code_of(rows: &[Row]) -> u8 {
    let codes: Vec<_> =
        rows.iter().filter_map(|row| Some(row.outcome.as_ref().ok()?.exit_code)).collect();
    match codes.split_first() {
        Some((first, others)) if codes.len() == rows.len() => {
            if others.iter().all(|code| code == first) {
                u8::try_from(*first).unwrap_or(exit::FAILED)
            } else {
                exit::DIFFERENT
            }
        }
        _ => exit::INCOMPLETE,
    }
}

fn launch_in_lab(args: &LaunchArgs) -> anyhow::Result<u8> {
    if args.host == HostChoice::Auto {
        eprintln!("tare: this machine has no VMX or SVM: launching in the lab, in virtual time");
    }
    let mut arguments: Vec<OsString> =
        ["launch", "--host", "local", "--on"].map(OsString::from).to_vec();
    arguments.push(args.on.join(",").into());
    arguments.push("--timeout-s".into());
    arguments.push(args.timeout_s.to_string().into());
    arguments.push("--memory-mib".into());
    arguments.push(args.kit.memory_mib.to_string().into());
    arguments.extend(args.json.then(|| OsString::from("--json")));
    arguments.push("--".into());
    arguments.extend(args.command.iter().map(OsString::from));
    let out_dir = RunDir::new()?;
    let errand = Errand {
        flavour: FlavourArg::Deterministic,
        machine: args.machine,
        program: None,
        arguments,
        environment: Vec::new(),
        kernel: args.kit.kernel.clone(),
        rootfs: args.kit.rootfs.clone(),
        extra: Vec::new(),
        out_dir: out_dir.path().to_owned(),
    };
    Ok(u8::try_from(errand.run()?).unwrap_or(exit::FAILED))
}
