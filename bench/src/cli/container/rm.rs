//! `tare container rm`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::held;

/// How long a killed container may take to vanish.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tare container rm -f web\n\n\
    A container that has ended needs no removing. Returns when nothing of it is left.")]
pub(in crate::cli) struct RmArgs {
    /// Kill it if it runs
    #[arg(short, long)]
    force: bool,
    /// The container
    name: String,
}

pub(super) fn run(args: &RmArgs) -> anyhow::Result<u8> {
    let (record, running) = held::find(&args.name)?;
    anyhow::ensure!(args.force, "container {} runs: use -f to kill it", args.name);
    // What is frozen dies only once it is thawed, in version 1.
    if tare_container::is_frozen(&record.cgroups) == Some(true) {
        tare_container::freeze(&record.cgroups, false)?;
    }
    running.signal(libc::SIGKILL)?;
    let mut fds = [PollFd::new(running.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(10_000u16));
    // Its holder tidies up.
    let deadline = Instant::now() + PATIENCE;
    while held::all().iter().any(|other| other.name == args.name && other.pid == record.pid) {
        anyhow::ensure!(Instant::now() < deadline, "container {} does not end", args.name);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(crate::cli::exit::OK)
}
