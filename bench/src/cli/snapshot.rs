//! `tare snapshot`: keep a guest that has booted, and go on from it as often as wanted.

use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tare_vmm::{Description, SnapshotFiles};

use super::{KitArgs, exit};
use crate::backend::{Kept, kept_below};
use crate::guest_kernel;
use crate::harness::{Attendant, Conduct, replicate};
use crate::interrupt;
use crate::kit::{Choice, Kit};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    tare snapshot create /var/tmp/booted\n  \
    tare snapshot restore /var/tmp/booted -- uname -a\n  \
    tare snapshot ls /var/tmp\n\n\
    Where this machine has no hardware virtualization, create and restore in one lab:\n  \
    tare lab --with $(command -v tare) --program /bin/busybox -- sh -c \\\n    \
    'tare snapshot create /tmp/booted; tare snapshot restore /tmp/booted -- uname -a'\n\n\
    restore passes on the command's own exit code; it is 1 where the snapshot is refused and 4 where\n\
    the box failed.")]
pub(super) enum SnapshotCommand {
    /// Boot a microVM to where its agent waits for a command, and keep it in a new directory
    #[command(after_help = "Example:\n  tare snapshot create --memory-mib 256 /var/tmp/booted")]
    Create(CreateArgs),
    /// List the snapshots right below a directory
    #[command(after_help = "Example:\n  tare snapshot ls --json /var/tmp")]
    Ls(LsArgs),
    /// Show what a snapshot is of
    #[command(after_help = "Example:\n  tare snapshot inspect /var/tmp/booted")]
    Inspect(OneArgs),
    /// Read all of a snapshot and check that nothing has changed it
    #[command(after_help = "Example:\n  tare snapshot verify /var/tmp/booted && echo whole\n\n\
        The exit code is 1 where it was damaged.")]
    Verify(OneArgs),
    /// Run a command in a microVM that goes on from a snapshot
    #[command(after_help = "Example:\n  tare snapshot restore /var/tmp/booted -- sh -c 'date; id'")]
    Restore(RestoreArgs),
    /// Make a whole snapshot of one that has only what differs from another
    #[command(after_help = "Example:\n  tare snapshot rebase /var/tmp/difference /var/tmp/whole")]
    Rebase(RebaseArgs),
    /// Remove a snapshot
    #[command(after_help = "Example:\n  tare snapshot rm /var/tmp/booted")]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The directory, which must not be there yet
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print what was kept as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kit: KitArgs,
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Where to look
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The snapshot
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Kill the microVM after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RebaseArgs {
    /// The snapshot that has only what differs
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The directory of the new one, which must not be there yet
    #[arg(value_name = "TO")]
    to: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// The snapshots
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
}

pub(super) fn run(command: &SnapshotCommand) -> anyhow::Result<u8> {
    match command {
        SnapshotCommand::Create(args) => create(args),
        SnapshotCommand::Ls(args) => list(args),
        SnapshotCommand::Inspect(args) => inspect(args),
        SnapshotCommand::Verify(args) => verify(args),
        SnapshotCommand::Restore(args) => restore(args),
        SnapshotCommand::Rebase(args) => rebase(args),
        SnapshotCommand::Rm(args) => {
            for directory in &args.directories {
                Kept::open(directory)?.remove()?;
            }
            Ok(exit::OK)
        }
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<u8> {
    interrupt::listen()?;
    let kit = Kit::new(args.kit.choice())?;
    let keeping = Kept::create(&kit, args.kit.memory_mib, &args.directory)?;
    let path = args.directory.display();
    let (memory, state) = (keeping.captured.memory_bytes, keeping.captured.state_bytes);
    let text = if args.json {
        let value = json!({
            "path": path.to_string(),
            "memory_bytes": memory,
            "state_bytes": state,
            "capture_ns": keeping.capture_ns,
        });
        format!("{value:#}\n")
    } else {
        let capture_ms = keeping.capture_ns as f64 / 1e6;
        format!(
            "{path}: {memory} bytes of memory, {state} of state; the guest stood still for \
             {capture_ms:.1} ms\n"
        )
    };
    super::print_text(&text)?;
    Ok(exit::OK)
}

fn list(args: &LsArgs) -> anyhow::Result<u8> {
    let mut text = String::new();
    let mut values = Vec::new();
    for (path, kept) in kept_below(&args.directory)? {
        let shown = path.display();
        // One that cannot be read is there all the same.
        let described = kept.describe().map_err(|error| error.to_string());
        text += &match &described {
            Ok(found) => format!(
                "{shown}  {} MiB of RAM, {} bytes on disk\n",
                found.memory_bytes >> 20,
                found.stored_memory_bytes + found.stored_state_bytes
            ),
            Err(why) => format!("{shown}  {why}\n"),
        };
        values.push(match described {
            Ok(found) => describe(&path, &found),
            Err(why) => json!({ "path": shown.to_string(), "error": why }),
        });
    }
    let json = format!("{:#}\n", Value::from(values));
    super::print_text(if args.json { &json } else { &text })?;
    Ok(exit::OK)
}

fn inspect(args: &OneArgs) -> anyhow::Result<u8> {
    let (found, kernel) = match Kept::open(&args.directory) {
        Ok(kept) => (kept.describe()?, Some(kept.kernel().to_owned())),
        Err(_) => (SnapshotFiles::open(&args.directory)?.describe(), None),
    };
    if args.json {
        let mut value = describe(&args.directory, &found);
        value["kernel"] = kernel.map(|path| path.display().to_string()).into();
        super::print_text(&format!("{value:#}\n"))?;
        return Ok(exit::OK);
    }
    let mut text = format!(
        "id         {}\nRAM        {} MiB\nvCPUs      {}\ndevices    {} virtio\nimage      {}\n\
         memory     {} bytes stored\nstate      {} bytes\n",
        found.id,
        found.memory_bytes >> 20,
        found.vcpus,
        found.virtio_devices,
        found.image,
        found.stored_memory_bytes,
        found.stored_state_bytes
    );
    if let Some(kernel) = kernel {
        text += &format!("kernel     {}\n", kernel.display());
    }
    if let Some((id, place)) = found.parent {
        text += &format!("differs from {id}, which was {}\n", place.display());
    }
    super::print_text(&text)?;
    Ok(exit::OK)
}

fn verify(args: &OneArgs) -> anyhow::Result<u8> {
    match Kept::open(&args.directory) {
        Ok(kept) => kept.verify()?,
        Err(_) => SnapshotFiles::open(&args.directory)?.verify()?,
    }
    let path = args.directory.display();
    super::print_text(&if args.json {
        format!("{:#}\n", json!({ "path": path.to_string(), "whole": true }))
    } else {
        format!("{path}: whole\n")
    })?;
    Ok(exit::OK)
}

fn restore(args: &RestoreArgs) -> anyhow::Result<u8> {
    interrupt::listen()?;
    let kept = Kept::open(&args.directory)?;
    let kernel = guest_kernel::Choice::File(kept.kernel().to_owned());
    let kit = Kit::new(Choice { kernel, ..Choice::default() })?;
    let prepared = kept.prepare(&kit, args.command.clone())?;
    let workload = tare_workload::find("run").context("this build has no workload 'run'")?;
    let timeout = Duration::from_secs(args.timeout_s);
    let conduct = Conduct { workload, weigh: false, timeout };
    match replicate(prepared.as_ref(), conduct, &mut Through) {
        Ok(sample) => Ok(u8::try_from(sample.exit_code).unwrap_or(exit::FAILED)),
        Err(error) if interrupt::requested() => {
            eprintln!("tare: {error}");
            Ok(exit::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("tare: {}: {error}", args.directory.display());
            Ok(exit::INCOMPLETE)
        }
    }
}

fn rebase(args: &RebaseArgs) -> anyhow::Result<u8> {
    let captured = SnapshotFiles::open(&args.from)?.rebase(&args.to)?;
    let path = args.to.display();
    super::print_text(&format!("{path}: {} bytes of memory\n", captured.memory_bytes))?;
    Ok(exit::OK)
}

/// Passes a command's output on as it is. A reader that has gone away is not the box's failure.
struct Through;

impl Attendant for Through {
    fn output(&mut self, is_stderr: bool, bytes: &[u8]) {
        let _ = if is_stderr {
            stderr().write_all(bytes)
        } else {
            stdout().write_all(bytes).and_then(|()| stdout().flush())
        };
    }
}

fn describe(path: &Path, found: &Description) -> Value {
    let parent = found.parent.as_ref();
    json!({
        "path": path.display().to_string(),
        "id": found.id,
        "memory_bytes": found.memory_bytes,
        "vcpus": found.vcpus,
        "virtio_devices": found.virtio_devices,
        "image": found.image,
        "stored_memory_bytes": found.stored_memory_bytes,
        "stored_state_bytes": found.stored_state_bytes,
        "parent": parent.map(|(id, place)| json!({ "id": id, "path": place.display().to_string() })),
    })
}
