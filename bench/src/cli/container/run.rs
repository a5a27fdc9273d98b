//! `tare container run`.

use std::path::PathBuf;

use clap::Args;
use tare_container::{CpuQuota, Limits, Program, Resources, Rootfs, Spec, Stream, Terminal};

use super::{Launch, Start, start};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tare container run --rootfs /srv/busybox -- sh -c 'echo $$; id'\n  \
    tare container run --rootfs /srv/busybox -t -- sh\n  \
    tare container run --rootfs /srv/busybox -d --name web --pids 100 -- httpd -f\n\n\
    Changes to the root file system vanish with the container. It ends with this command; with -d,\n\
    with a process that holds it and does nothing else. Whoever is not root gets a user namespace of\n\
    its own, and no limits. The exit code is the command's.")]
pub(in crate::cli) struct RunArgs {
    /// Directory with the root file system
    #[arg(long, value_name = "DIR", env = "TARE_ROOTFS")]
    rootfs: PathBuf,
    #[command(flatten)]
    start: Start,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,
    /// Put an init before the command, which reaps what it leaves behind
    #[arg(long)]
    init: bool,
    /// Bring up the loopback interface
    #[arg(long)]
    loopback: bool,
    /// Most memory, in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    memory_mib: Option<u64>,
    /// Most processes and threads
    #[arg(long, value_name = "COUNT")]
    pids: Option<u64>,
    /// Most processor time, in hundredths of a processor
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    cpu_percent: Option<u64>,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<u8> {
    tare_container::protect_own_executable()?;
    let is_root = nix::unistd::geteuid().is_root();
    let rootfs = Rootfs::Overlay { lower: vec![args.rootfs.clone()], size_bytes: None };
    let program = Program::command(args.command.first().cloned().unwrap_or_default());
    let spec =
        if is_root { Spec::container(rootfs, program) } else { Spec::rootless(rootfs, program) };
    let mut spec = Spec {
        init: args.init,
        loopback: args.loopback,
        terminal: args.tty.then(Terminal::default),
        limits: Limits {
            memory_bytes: args.memory_mib.map(|mib| mib << 20),
            pids: args.pids,
            cpu: args
                .cpu_percent
                .map(|percent| CpuQuota { quota_us: percent * 1000, period_us: 100_000 }),
            accounting: false,
        },
        // So that it can be paused.
        resources: Resources { freezer: is_root, ..Resources::default() },
        ..spec.args(&args.command)
    };
    if !args.tty && !args.start.is_detached() {
        spec.stdio = [Stream::Inherit, Stream::Inherit, Stream::Inherit];
    }
    let command = args.command.clone();
    start(&args.start, Launch::Spec { spec: Box::new(spec), command, rootless: !is_root })
}
