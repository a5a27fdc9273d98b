//! `tare image pull`: an image from a registry.

use std::time::Duration;

use clap::Args;
use tare_container::pull::{Address, Patience, Pull};

use super::{open_store, summary};
use crate::cli::{exit, print_text};
use crate::progress::LateBar;

#[derive(Debug, Args)]
pub(in crate::cli) struct PullArgs {
    /// The image: [REGISTRY/]NAME[:TAG][@DIGEST]; without a registry, of Docker Hub
    #[arg(value_name = "REF")]
    address: Address,
    /// Ask the registry without TLS
    #[arg(long)]
    plain_http: bool,
    /// Give a server up that says nothing for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    silence_s: u64,
    /// Try each request so often
    #[arg(long, value_name = "COUNT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Print what was stored as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PullArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let bar = LateBar::new("pulling");
    let on_bytes = |bytes, total| bar.advance(bytes, total);
    let patience = Patience {
        attempts: args.attempts,
        silence: Duration::from_secs(args.silence_s),
        ..Patience::default()
    };
    let pull = Pull {
        plain_http: args.plain_http,
        patience,
        on_bytes: &on_bytes,
        ..Pull::new(&args.address)
    };
    let image = pull.run(&store)?;
    drop(bar);
    let reference = args.address.reference();
    print_text(&if args.json {
        format!("{:#}\n", summary(reference, &image))
    } else {
        format!("{reference}  {}\n", image.digest())
    })?;
    Ok(exit::OK)
}
