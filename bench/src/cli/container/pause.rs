//! `tare container pause` and `tare container resume`.

use clap::Args;

use crate::held;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tare container pause web\n  tare container resume web")]
pub(in crate::cli) struct PauseArgs {
    /// The container
    name: String,
}

pub(super) fn run(args: &PauseArgs, frozen: bool) -> anyhow::Result<u8> {
    let (record, _) = held::find(&args.name)?;
    anyhow::ensure!(
        !record.cgroups.is_empty(),
        "container {} has no cgroup, by which it could be frozen: that takes root",
        args.name
    );
    tare_container::freeze(&record.cgroups, frozen)?;
    Ok(crate::cli::exit::OK)
}
