//! `tare kernel`: build guest kernels and find them.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Subcommand};
use tare_kernels::{Build, Cache, PRACTICAL, Source, Stderr, VARIANTS, Variant};

use super::{exit, print_text};
use crate::guest_kernel::{Choice, Error};

#[derive(Debug, Subcommand)]
pub(super) enum KernelCommand {
    /// Build a guest kernel, unless it is in the cache already
    Build(BuildArgs),
    /// Print the path of a guest kernel
    Path(VariantArg),
    /// List the variants, what each is for and where it is
    Ls,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare kernel build\n  \
    tare kernel build --all\n  \
    tare kernel build full --source ~/src/linux-6.12")]
pub(super) struct BuildArgs {
    #[command(flatten)]
    variant: VariantArg,
    /// Build every variant
    #[arg(long, conflicts_with = "variant")]
    all: bool,
    /// Kernel source tree [default: Debian's package linux-source-6.12]
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct VariantArg {
    /// Which kernel
    #[arg(default_value = PRACTICAL.name, value_parser = variant_names())]
    variant: String,
}

impl VariantArg {
    fn variant(&self) -> &'static Variant {
        // The parser lets nothing else through.
        Variant::by_name(&self.variant).unwrap_or(&PRACTICAL)
    }
}

fn variant_names() -> PossibleValuesParser {
    let values = VARIANTS.iter().map(|it| PossibleValue::new(it.name).help(it.summary));
    PossibleValuesParser::new(values)
}

pub(super) fn run(command: &KernelCommand) -> anyhow::Result<u8> {
    match command {
        KernelCommand::Build(args) => build(args),
        KernelCommand::Path(args) => match Choice::Variant(args.variant()).find() {
            Ok(kernel) => {
                print_text(&format!("{}\n", kernel.path.display()))?;
                Ok(exit::OK)
            }
            Err(error @ Error::NotBuilt(_)) => {
                eprintln!("tare: {error}");
                Ok(exit::MISSING)
            }
            Err(error) => Err(error.into()),
        },
        KernelCommand::Ls => {
            for variant in VARIANTS {
                let place = match Choice::Variant(variant).find() {
                    Ok(kernel) => kernel.path.display().to_string(),
                    Err(Error::NotBuilt(_)) => "not built".to_owned(),
                    Err(error) => return Err(error.into()),
                };
                print_text(&format!(
                    "{:<10}{}\n{:<10}{place}\n",
                    variant.name, variant.summary, ""
                ))?;
            }
            Ok(exit::OK)
        }
    }
}

fn build(args: &BuildArgs) -> anyhow::Result<u8> {
    let cache = Cache::open()?;
    let source = args.source.clone().map_or(Source::Debian, Source::Tree);
    let one = [*args.variant.variant()];
    for variant in VARIANTS.iter().filter(|variant| args.all || one.contains(variant)) {
        let kernel = Build { cache: &cache, variant, source: source.clone() }.run(&Stderr::new())?;
        print_text(&format!("{}\n", kernel.vmlinux.display()))?;
    }
    Ok(exit::OK)
}
