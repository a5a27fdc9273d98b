//! `tare doctor`: the preflight, and which backends can run here.

use clap::Args;

use super::{KitArgs, exit};
use crate::backend::{self, Availability};
use crate::host::{Probe, Source, preflight, probes};
use crate::kit::Kit;
use crate::results::{Check, Level};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare doctor\n  \
    tare doctor --explain\n  \
    tare doctor --json | jq '.checks[] | select(.level == \"warn\")'")]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say of every check what it would distort, by how much, and the remedy, whatever it finds
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    #[command(flatten)]
    kit: KitArgs,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<u8> {
    let checks = preflight(&Source::live());
    let kit = Kit::new(args.kit.choice())?;
    let backends: Vec<_> =
        backend::all().iter().map(|backend| (backend.name(), backend.probe(&kit))).collect();
    if args.json {
        let backends: Vec<_> =
            backends.iter().map(|(name, found)| backend_json(name, found)).collect();
        let all = serde_json::json!({ "checks": checks, "backends": backends });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else if args.explain {
        checks.iter().zip(probes()).for_each(|(check, probe)| print_explained(check, probe));
    } else {
        checks.iter().for_each(print_check);
        println!();
        backends.iter().for_each(|(name, found)| print_backend(name, found));
    }
    Ok(exit::OK)
}

fn backend_json(name: &str, found: &Availability) -> serde_json::Value {
    match found {
        Availability::Ready => serde_json::json!({ "name": name, "available": true }),
        Availability::Unavailable { why, remedy } => {
            serde_json::json!({ "name": name, "available": false, "why": why, "remedy": remedy })
        }
    }
}

fn print_check(check: &Check) {
    print_found(check);
    if !check.distorts.is_empty() {
        print_line("distorts", &check.distorts);
    }
    if let Some(amount) = &check.amount {
        print_line("by how much", amount);
    }
    if let Some(remedy) = &check.remedy {
        print_line("remedy", remedy);
    }
}

/// What the check is for, where it finds nothing too.
fn print_explained(check: &Check, probe: &Probe) {
    print_found(check);
    print_line("distorts", probe.distorts);
    let amount = check.amount.as_deref().unwrap_or(probe.amount);
    if !amount.is_empty() {
        print_line("by how much", amount);
    }
    print_line("remedy", probe.remedy);
}

fn print_found(check: &Check) {
    let mark = match check.level {
        Level::Ok => "ok  ",
        Level::Note => "note",
        Level::Warn => "WARN",
    };
    println!("{mark}  {:<34} {}", check.title, check.value);
}

fn print_line(name: &str, text: &str) {
    println!("      {:<34} {name}: {text}", "");
}

fn print_backend(name: &str, found: &Availability) {
    match found {
        Availability::Ready => println!("ready backend  {name}"),
        Availability::Unavailable { why, remedy } => {
            println!("no    backend  {name}: {why}\n               remedy: {remedy}");
        }
    }
}
