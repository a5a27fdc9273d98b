//! `tare image base`: images that others begin with, made without a registry.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tare_container::build::Tree;
use tare_container::image::Reference;
use tare_kernels::{Cache, Stderr, rootfs};

use super::{open_store, summary};
use crate::cli::{exit, print_text};
use crate::rundir::RunDir;

/// Of commands in a container, as Docker has it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a fresh Debian has that differs from one installation to the next, or is of no use: the
/// content of these directories.
const EMPTIED: [&str; 6] =
    ["dev", "proc", "run", "tmp", "var/cache/apt/archives", "var/lib/apt/lists"];
/// And these files.
const REMOVED: [&str; 9] = [
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/ldconfig/aux-cache",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
];

#[derive(Debug, Args)]
pub(in crate::cli) struct BaseArgs {
    /// What it is made of
    #[arg(value_enum)]
    kind: Kind,
    /// The name it gets [default: busybox, or debian:SUITE]
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<Reference>,
    /// Debian's suite
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Where Debian's packages are [default: what debootstrap takes]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The time of everything in the image, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: u64,
    /// Print what was stored as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The static busybox of this machine and its commands
    Busybox,
    /// Debian's essential packages, by debootstrap
    Debian,
}

pub(super) fn run(args: &BaseArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let run_dir;
    let (tree, command, default_name) = match args.kind {
        Kind::Busybox => {
            let tree = rootfs::base(&Cache::open()?, &Stderr::new())?;
            (tree, "sh", "busybox".to_owned())
        }
        Kind::Debian => {
            run_dir = RunDir::new()?;
            let tree = run_dir.path().join("debian");
            if !debootstrap(args, &tree)? {
                eprintln!("tare: there is no debootstrap; install it: apt-get install debootstrap");
                return Ok(exit::MISSING);
            }
            clean(&tree)?;
            (tree, "bash", format!("debian:{}", args.suite))
        }
    };
    let reference = match &args.name {
        Some(name) => name.clone(),
        None => default_name.parse()?,
    };
    let origin = format!("tare image base {default_name}");
    let tree = Tree {
        path: &tree,
        origin: &origin,
        command: &[command],
        env: &[PATH],
        epoch_s: args.epoch,
    };
    let image = tree.store(&store, &reference)?;
    print_text(&if args.json {
        format!("{:#}\n", summary(&reference, &image))
    } else {
        format!("{reference}  {}\n", image.digest())
    })?;
    Ok(exit::OK)
}

/// Installs Debian into a new directory; false if there is no debootstrap.
fn debootstrap(args: &BaseArgs, tree: &Path) -> anyhow::Result<bool> {
    // It knows no `--` that ends options.
    let is_option = |text: &String| text.starts_with('-');
    anyhow::ensure!(
        !is_option(&args.suite) && !args.mirror.as_ref().is_some_and(is_option),
        "a suite is a name as bookworm, and a mirror an address"
    );
    let mut command = Command::new("debootstrap");
    command.arg("--variant=minbase").arg(&args.suite).arg(tree).args(&args.mirror);
    // Its output is progress, and standard output has the result alone.
    command.stdin(Stdio::null()).stdout(io::stderr());
    let status = match command.status() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        status => status.context("cannot run debootstrap")?,
    };
    anyhow::ensure!(
        status.success(),
        "debootstrap failed ({status}); what it printed says why: it needs root and the network"
    );
    Ok(true)
}

fn clean(tree: &Path) -> anyhow::Result<()> {
    for directory in EMPTIED {
        let directory = tree.join(directory);
        for entry in listed(&directory)? {
            remove(&entry)?;
        }
    }
    REMOVED.iter().try_for_each(|file| remove(&tree.join(file)))
}

fn listed(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.path())).collect(),
        }
    };
    list().with_context(|| format!("cannot list {}", directory.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
