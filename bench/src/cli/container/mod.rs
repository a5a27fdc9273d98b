//! `tare container`: run containers, and act on those that run.

mod attach;
mod exec;
mod kill;
mod ls;
mod pause;
mod rm;
mod run;
mod start;
mod stats;

use clap::Subcommand;

pub(super) use start::{Launch, Start, start};

/// Acts on containers.
#[derive(Debug, Subcommand)]
pub(super) enum ContainerCommand {
    /// Run a command in a container
    Run(run::RunArgs),
    /// Run a further command in a container that runs
    Exec(exec::ExecArgs),
    /// Take the terminal of a container
    Attach(attach::AttachArgs),
    /// Freeze all processes of a container
    Pause(pause::PauseArgs),
    /// Let a frozen container go on
    Resume(pause::PauseArgs),
    /// Send a signal to a container's first process
    Kill(kill::KillArgs),
    /// Show what containers use
    Stats(stats::StatsArgs),
    /// List the containers that run
    Ls(ls::LsArgs),
    /// Remove a container that runs
    Rm(rm::RmArgs),
}

pub(super) fn run(command: &ContainerCommand) -> anyhow::Result<u8> {
    match command {
        ContainerCommand::Run(args) => run::run(args),
        ContainerCommand::Exec(args) => exec::run(args),
        ContainerCommand::Attach(args) => attach::run(args),
        ContainerCommand::Pause(args) => pause::run(args, true),
        ContainerCommand::Resume(args) => pause::run(args, false),
        ContainerCommand::Kill(args) => kill::run(args),
        ContainerCommand::Stats(args) => stats::run(args),
        ContainerCommand::Ls(args) => ls::run(args),
        ContainerCommand::Rm(args) => rm::run(args),
    }
}
