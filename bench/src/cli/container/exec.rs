//! `tare container exec`.

use std::fs::File;

use clap::Args;
use tare_container::{Stream, Terminal};

use super::start::{end, forward_signals};
use crate::held;
use crate::relay::{self, Near};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare container exec web -- ps\n  \
    tare container exec -t web -- sh\n\n\
    The command is in the container's namespaces and cgroups, and as confined as its first process.\n\
    The exit code is the command's.")]
pub(in crate::cli) struct ExecArgs {
    /// The container
    name: String,
    /// Give the command a terminal of the container's
    #[arg(short, long)]
    tty: bool,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn run(args: &ExecArgs) -> anyhow::Result<u8> {
    tare_container::protect_own_executable()?;
    let (record, running) = held::find(&args.name)?;
    let mut spec = record.further(&args.command)?;
    if args.tty {
        spec.terminal = Some(Terminal::default());
    } else {
        spec.stdio = [Stream::Inherit, Stream::Inherit, Stream::Inherit];
    }
    let spawned = spec.prepare_in(&running).and_then(|prepared| prepared.spawn());
    let mut container = match spawned {
        Ok(container) => container,
        Err(error) => {
            eprintln!("tare: {error}");
            return Ok(error.shell_status());
        }
    };
    match container.take_terminal() {
        Some(terminal) => {
            let mut near = Near { terminal: File::from(terminal), container: &container };
            relay::converse(&mut near, false)?;
        }
        None => forward_signals(&container)?,
    }
    end(container)
}
