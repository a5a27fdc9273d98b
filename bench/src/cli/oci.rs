//! `tare oci`: bundles of the OCI runtime specification.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use tare_container::Bundle;

use super::container::{Launch, Start, start};

/// Runs bundles.
#[derive(Debug, Subcommand)]
pub(super) enum OciCommand {
    /// Run the bundle in a directory
    Run(RunArgs),
}

/// Arguments of `tare oci run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare oci run /srv/bundle\n  \
    tare oci run -d --name web /srv/bundle\n\n\
    Does what config.json says, as of version 1.2 of the runtime specification. What is not\n\
    supported is refused by its name. The exit code is the process's; tare container has what can\n\
    be done with it while it runs.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    start: Start,
    /// The bundle
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
}

pub(super) fn run(command: &OciCommand) -> anyhow::Result<u8> {
    let OciCommand::Run(args) = command;
    tare_container::protect_own_executable()?;
    let path = args.bundle.join("config.json");
    let config = std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}: name the directory of a bundle", path.display())
    })?;
    let directory = args.bundle.canonicalize()?;
    let mut bundle = Bundle::parse(&directory, config.as_bytes())?;
    if !args.start.is_detached() {
        bundle.inherit_streams();
    }
    // So that it can be paused.
    bundle.spec_mut().resources.freezer = nix::unistd::geteuid().is_root();
    start(&args.start, Launch::Bundle { bundle: Box::new(bundle), directory, config })
}
