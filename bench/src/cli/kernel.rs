//! `tare kernel`: build guest kernels and find them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tare_kernels::{Build, Cache, Source, Stderr};

use super::exit;
use crate::kit::recipe;

#[derive(Debug, Subcommand)]
pub(super) enum KernelCommand {
    /// Build the guest kernel, unless it is in the cache already
    Build(BuildArgs),
    /// Print the path of the kernel that microVMs boot
    Path,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tare kernel build --source ~/src/linux-6.12")]
pub(super) struct BuildArgs {
    /// Kernel source tree [default: Debian's package linux-source-6.12]
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

pub(super) fn run(command: &KernelCommand) -> anyhow::Result<u8> {
    let cache = Cache::open()?;
    match command {
        KernelCommand::Build(args) => {
            let source = args.source.clone().map_or(Source::Debian, Source::Tree);
            let kernel = Build { source, ..recipe(&cache) }.run(&Stderr::new())?;
            println!("{}", kernel.vmlinux.display());
            Ok(exit::OK)
        }
        KernelCommand::Path => match recipe(&cache).cached()? {
            Some(kernel) => {
                println!("{}", kernel.vmlinux.display());
                Ok(exit::OK)
            }
            None => {
                eprintln!("tare: no guest kernel has been built yet; run `tare kernel build`");
                Ok(exit::MISSING)
            }
        },
    }
}
