//! `tare launch`: one command in several boxes, side by side.

use std::ffi::OsString;
use std::io::{self, Write, stderr, stdout};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use tare_container::Reach;
use tare_workload::{Channel, Job};

use super::lab::{Errand, MachineArgs};
use super::{HostChoice, KitArgs, exit, table};
use crate::backend::{self, Assignment, Availability, Backend, Output, Wiring};
use crate::harness::{Attendant, Conduct, ReplicateError, replicate};
use crate::interrupt;
use crate::kit::{Choice, Kit};
use crate::results::Sample;
use crate::rundir::RunDir;
use crate::user::{self, User};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare launch -- uname -a\n  \
    tare launch --on process,container -- sh -c 'echo $$; id'\n  \
    tare launch --host lab -- cat /proc/cpuinfo\n  \
    tare launch --host lab --on microvm --kernel /boot/vmlinuz-6.12-amd64 --vcpus 2 -- nproc\n  \
    tar -c . | tare launch -i --on microvm -- tar -t\n  \
    tare launch -t --on microvm -- sh\n\n\
    With -i or -t one box has this program's standard streams as they are, and the signals that\n\
    are sent to it; nothing else is printed, and nothing limits its time but --timeout-s. With -t\n\
    a microVM's command has a terminal of its own; others inherit the one that there is.\n\n\
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
    /// Network of the boxes. On a bridge they reach each other, the host and, by its address, what
    /// it reaches; meanwhile the host forwards
    #[arg(long, value_enum, default_value_t)]
    network: Wiring,
    /// Give the command this program's standard input, output and error; for a single box
    #[arg(short, long, conflicts_with = "json")]
    interactive: bool,
    /// Give it a terminal, too; implies --interactive
    #[arg(short, long, conflicts_with = "json")]
    tty: bool,
    /// Kill a box after this many seconds [default: 60, or never if it is interactive]
    #[arg(long, value_name = "SECONDS")]
    timeout_s: Option<u64>,
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
    if args.is_attended() {
        return attend(args);
    }
    if args.goes_to_the_lab() {
        return launch_in_lab(args);
    }
    interrupt::listen()?;
    let kit = Kit::new(Choice { reach: Reach::Outside, ..args.kit.choice() })?;
    let mut rows = Vec::new();
    for backend in args.on.iter().filter_map(|name| backend::find(name)) {
        let mut labels =
            Labels { backend: backend.name(), to_stderr: args.json, partial: Default::default() };
        let outcome = launch(&kit, backend, args, Output::Captured, &mut labels);
        labels.finish();
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

/// One box that has this program's standard streams.
fn attend(args: &LaunchArgs) -> anyhow::Result<u8> {
    let [name] = &args.on[..] else {
        anyhow::bail!("one command can have standard input: name one box, as in --on microvm");
    };
    if args.goes_to_the_lab() {
        anyhow::bail!(
            "the lab has no input: run `tare lab --program SHELL` with a script that feeds tare"
        );
    }
    let Some(backend) = backend::find(name) else { anyhow::bail!("there is no backend {name}") };
    let kit = Kit::new(Choice { reach: Reach::Outside, ..args.kit.choice() })?;
    let (stdin, stdout, stderr) = (io::stdin(), stdout(), stderr());
    let terminal = args.tty.then(|| user::terminal_size(stdin.as_fd()));
    // A terminal that the box inherits is its to set up.
    let gives_terminal = args.tty && name.starts_with("microvm");
    let mut user = User::begin(stdin.as_fd(), [stdout.as_fd(), stderr.as_fd()], gives_terminal)?;
    let outcome = launch(&kit, backend, args, Output::Attended { terminal }, &mut user);
    user.finish()?;
    if let Err(why) = &outcome {
        eprintln!("tare: {name}: {why}");
    }
    Ok(code_of(&[Row { backend: backend.name(), outcome }]))
}

impl LaunchArgs {
    fn is_attended(&self) -> bool {
        self.interactive || self.tty
    }

    fn timeout(&self) -> Duration {
        let default_s = if self.is_attended() { u64::MAX } else { 60 };
        Duration::from_secs(self.timeout_s.unwrap_or(default_s))
    }

    fn goes_to_the_lab(&self) -> bool {
        self.host.is_lab_for(&self.on)
    }
}

fn launch(
    kit: &Kit,
    backend: &'static dyn Backend,
    args: &LaunchArgs,
    output: Output,
    attendant: &mut dyn Attendant,
) -> Result<Sample, String> {
    if let Availability::Unavailable { why, remedy } = backend.probe(kit) {
        return Err(format!("{why}; {remedy}"));
    }
    let workload = tare_workload::find("run").ok_or("this build has no workload 'run'")?;
    let assignment = Assignment {
        memory_mib: args.kit.memory_mib,
        with_rootfs: true,
        wiring: args.network,
        output,
        ..Assignment::new(Job {
            command: args.command.clone(),
            ..Job::new(Channel::Com1, workload.name())
        })
    };
    if let Availability::Unavailable { why, remedy } = backend.suits(&assignment) {
        return Err(format!("{why}; {remedy}"));
    }
    let prepared = backend.prepare(kit, &assignment).map_err(|error| error.to_string())?;
    let conduct = Conduct { workload, weigh: false, timeout: args.timeout() };
    replicate(prepared.as_ref(), conduct, attendant)
        .map_err(|error: ReplicateError| error.to_string())
}

/// A longer line is printed as several.
const LINE_MAX_BYTES: usize = 64 << 10;

/// Passes a box's output on, line by line, each with the box's name before it.
struct Labels {
    backend: &'static str,
    to_stderr: bool,
    partial: [Vec<u8>; 2],
}

impl Attendant for Labels {
    fn output(&mut self, is_stderr: bool, bytes: &[u8]) {
        let partial = &mut self.partial[usize::from(is_stderr)];
        partial.extend_from_slice(bytes);
        let from = partial.len() - bytes.len();
        let end = match partial[from..].iter().rposition(|byte| *byte == b'\n') {
            Some(last) => from + last + 1,
            None if partial.len() < LINE_MAX_BYTES => return,
            None => {
                partial.push(b'\n');
                partial.len()
            }
        };
        let rest = partial.split_off(end);
        let lines = std::mem::replace(partial, rest);
        self.print(is_stderr, &lines);
    }
}

impl Labels {
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
    arguments.extend(["--network".into(), args.network.name().into()]);
    arguments.push("--timeout-s".into());
    arguments.push(args.timeout().as_secs().to_string().into());
    arguments.extend(args.kit.forward());
    arguments.extend(args.json.then(|| OsString::from("--json")));
    arguments.push("--".into());
    arguments.extend(args.command.iter().map(OsString::from));
    let out_dir = RunDir::new()?;
    let errand = Errand::with_kit(&args.kit, args.machine, arguments, out_dir.path().to_owned());
    Ok(u8::try_from(errand.run()?).unwrap_or(exit::FAILED))
}
