//! `tare image build`: an image from a Dockerfile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::stderr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tare_container::build::{Build, BuildError, StepReport};
use tare_container::image::Reference;

use super::{open_store, summary};
use crate::cli::{exit, print_text};
use crate::interrupt;

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildArgs {
    /// The directory that COPY and ADD take files from
    #[arg(value_name = "DIR")]
    context: PathBuf,
    /// The Dockerfile [default: Dockerfile in that directory]
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The name the image gets
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Reference,
    /// Give a value to an ARG; without one, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Build this stage [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Build every layer again
    #[arg(long)]
    no_cache: bool,
    /// The network of commands
    #[arg(long, value_enum, default_value_t = Network::None)]
    network: Network,
    /// The time of everything in the image, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: u64,
    /// Print the image and each step as JSON
    #[arg(long)]
    json: bool,
}

/// The network of a build's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Network {
    /// A loopback alone
    None,
    /// The host's, with its resolv.conf
    Host,
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<u8> {
    interrupt::listen()?;
    let store = open_store()?;
    let file = args.file.clone().unwrap_or_else(|| args.context.join("Dockerfile"));
    let output = File::from(stderr().as_fd().try_clone_to_owned().context("standard error")?);
    let steps: RefCell<Vec<Value>> = RefCell::default();
    let on_step = |step: &StepReport<'_>| {
        let cached = if step.is_cached { "  (cached)" } else { "" };
        eprintln!("tare: line {}: {}{cached}", step.line, step.text);
        let step = json!({ "line": step.line, "text": step.text, "cached": step.is_cached });
        steps.borrow_mut().push(step);
    };
    let build = Build {
        store: &store,
        context: &args.context,
        dockerfile: &file,
        reference: &args.tag,
        args: values(&args.build_arg),
        target: args.target.as_deref(),
        use_cache: !args.no_cache,
        host_network: args.network == Network::Host,
        epoch_s: args.epoch,
        output: Some(&output),
        on_step: &on_step,
        is_interrupted: &interrupt::requested,
    };
    let built = match build.run() {
        Err(BuildError::Interrupted) => {
            eprintln!("tare: interrupted; {} is what it was before", args.tag);
            return Ok(exit::INTERRUPTED);
        }
        built => built?,
    };
    if !built.unused_args.is_empty() {
        let names = built.unused_args.join(", ");
        eprintln!("tare: no ARG of the Dockerfile takes {names}");
    }
    print_text(&if args.json {
        let mut value = summary(&args.tag, &built.image);
        value["steps"] = Value::from(steps.take());
        format!("{value:#}\n")
    } else {
        format!("{}  {}\n", args.tag, built.image.digest())
    })?;
    Ok(exit::OK)
}

/// One that is given without a value, and that the environment does not have, is not given.
fn values(args: &[String]) -> BTreeMap<String, String> {
    let pair = |arg: &String| match arg.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((arg.clone(), std::env::var(arg).ok()?)),
    };
    args.iter().filter_map(pair).collect()
}
