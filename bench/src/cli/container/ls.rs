//! `tare container ls`.

use clap::Args;

use crate::cli::print_text;
use crate::held::{self, Record};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tare container ls\n  tare container ls --json\n\n\
    A container that has ended is gone. Containers of other users are not shown.")]
pub(in crate::cli) struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn status(record: &Record) -> &'static str {
    if tare_container::is_frozen(&record.cgroups) == Some(true) { "paused" } else { "running" }
}

pub(super) fn run(args: &LsArgs) -> anyhow::Result<u8> {
    let records = held::all();
    let text = if args.json {
        let json: Vec<_> = records
            .iter()
            .map(|record| {
                serde_json::json!({
                    "name": record.name,
                    "pid": record.pid,
                    "status": status(record),
                    "command": record.command,
                    "started_unix_s": record.started_unix_s,
                    "has_terminal": record.has_terminal,
                    "bundle": record.bundle.as_ref().map(|(directory, _)| directory),
                })
            })
            .collect();
        format!("{}\n", serde_json::to_string_pretty(&json)?)
    } else {
        let mut text = format!("{:20} {:>8} {:8} command\n", "name", "pid", "status");
        for record in &records {
            let command = record.command.join(" ");
            let (name, pid, status) = (&record.name, record.pid, status(record));
            text.push_str(&format!("{name:20} {pid:>8} {status:8} {}\n", command.escape_debug()));
        }
        text
    };
    print_text(&text)?;
    Ok(crate::cli::exit::OK)
}
