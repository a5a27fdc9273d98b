//! What the kernel is, and how it is set.

use super::Source;
use super::probe::{Finding, Probe};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "kernel",
        title: "kernel",
        distorts: "tare counts on clone3 into a cgroup and the new mount API, which are of Linux 5.7; containers fall \
                   back to slower ways",
        amount: "joining a cgroup by moving a task takes 12–14 ms instead of 0.45 (measured for this project)",
        remedy: "use a newer kernel",
        find: |source| {
            let release = source.text("/proc/sys/kernel/osrelease");
            let is_old =
                release.as_deref().and_then(version).is_some_and(|version| version < (5, 7));
            Finding::warn_if(is_old, release)
        },
    },
    Probe {
        id: "kernel_regression",
        title: "known regressions of this kernel",
        distorts: "creating a VM waits until a thread of the kernel has joined its creator's cgroup",
        amount: "8.8 ms instead of 1.9 ms for each VM (5.15 against 6.9, hyperlight-dev/hyperlight issue 47; \
                 Firecracker's host set-up guide names 6.1)",
        remedy: "mount -o remount,favordynmods /sys/fs/cgroup, or load kvm with nx_huge_pages=never",
        find: regression,
    },
    Probe {
        id: "command_line",
        title: "kernel command line",
        distorts: "the kernel was told to poll instead of sleeping when idle: waking is quicker than in production",
        amount: "",
        remedy: "boot without idle=poll and processor.max_cstate",
        find: |source| {
            let line = source.text("/proc/cmdline");
            let polls = line.as_deref().is_some_and(|line| {
                line.split_whitespace()
                    .any(|word| word == "idle=poll" || word.starts_with("processor.max_cstate="))
            });
            Finding::note_if(polls, line)
        },
    },
    Probe {
        id: "debug",
        title: "kernel debugging",
        distorts: "a kernel that checks its own locks is slower in every system call",
        amount: "",
        remedy: "use a kernel without CONFIG_PROVE_LOCKING",
        find: |source| {
            let is_on = source.exists("/proc/lockdep");
            let value = if is_on { "lockdep" } else { "none seen" };
            Finding::warn_if(is_on, value.to_owned())
        },
    },
    Probe {
        id: "tracing",
        title: "kernel tracing",
        distorts: "a tracer adds to every function or event that it follows",
        amount: "",
        remedy: "echo nop > /sys/kernel/tracing/current_tracer",
        find: |source| {
            let path = "/tracing/current_tracer";
            let under = |root: &str| source.text(&format!("{root}{path}"));
            let tracer = under("/sys/kernel").or_else(|| under("/sys/kernel/debug"));
            Finding::warn_if(tracer.as_deref().is_some_and(|name| name != "nop"), tracer)
        },
    },
    Probe {
        id: "aslr",
        title: "address randomisation",
        distorts: "every instance has the same layout in memory, so that a layout's luck is in all samples of a box",
        amount: "layout alone can outweigh a compiler's optimisation (Mytkowicz and others, ASPLOS 2009)",
        remedy: "sysctl kernel.randomize_va_space=2",
        find: |source| {
            let value = source.text("/proc/sys/kernel/randomize_va_space");
            // The lab's figures are exact because nothing in it is random.
            Finding::note_if(!crate::lab::is_lab() && value.as_deref() == Some("0"), value)
        },
    },
    Probe {
        id: "entropy",
        title: "entropy",
        distorts: "a program that asks for random numbers may wait for them",
        amount: "",
        remedy: "install rng-tools or give the machine a virtio-rng device",
        find: |source| {
            let value = source.text("/proc/sys/kernel/random/entropy_avail");
            let is_low =
                value.as_deref().and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n < 128);
            Finding::warn_if(is_low, value.map(|bits| format!("{bits} bits")))
        },
    },
    Probe {
        id: "autogroup",
        title: "scheduling by session",
        distorts: "a session of its own is a scheduling group of its own: a container's first wait for a CPU can take a \
                   time slice, a plain process's does not",
        amount: "about 9 µs for each session (measured for this project), a time slice on a busy machine",
        remedy: "sysctl kernel.sched_autogroup_enabled=0",
        find: |source| {
            let value = source.text("/proc/sys/kernel/sched_autogroup_enabled");
            Finding::note_if(value.as_deref() == Some("1"), on_off(value))
        },
    },
    Probe {
        id: "timer_slack",
        title: "timer slack",
        distorts: "sleeps and time-outs end late",
        amount: "",
        remedy: "start tare from a shell whose /proc/self/timerslack_ns is 50000",
        find: |source| {
            let value = source.text("/proc/self/timerslack_ns");
            let slack_ns = value.as_deref().and_then(|text| text.parse::<u64>().ok());
            let amount = slack_ns.map(|ns| format!("up to {} µs", ns / 1000));
            let is_large = slack_ns.is_some_and(|ns| ns > 50_000);
            Finding::note_if(is_large, value.map(|ns| format!("{ns} ns"))).by(amount)
        },
    },
    Probe {
        id: "perf_events",
        title: "performance counters",
        distorts: "hardware counters cannot be read, so an outlier cannot be explained by them",
        amount: "no figure changes",
        remedy: "sysctl kernel.perf_event_paranoid=2",
        find: |source| {
            let value = source.text("/proc/sys/kernel/perf_event_paranoid");
            let is_closed = value.as_deref().and_then(|text| text.parse::<i64>().ok()) > Some(2);
            Finding::note_if(is_closed, value)
        },
    },
    Probe {
        id: "seccomp",
        title: "seccomp around tare",
        distorts: "every system call of every box, the plain process too, passes a filter first, and some may be refused",
        amount: "",
        remedy: "run tare outside of a container, or with --security-opt seccomp=unconfined",
        find: |source| match source.field("/proc/self/status", "Seccomp").as_deref() {
            Some("0") => Finding::ok("none".to_owned()),
            Some("1" | "2") => Finding::warn("filtered".to_owned()),
            _ => Finding::ok(None),
        },
    },
    Probe {
        id: "mandatory_access",
        title: "AppArmor or SELinux around tare",
        distorts: "every file that a box opens is looked up in a profile, and mounts may be refused",
        amount: "",
        remedy: "run tare unconfined",
        find: |source| {
            let profile = source.text("/proc/self/attr/current");
            let profile = profile.map(|text| text.trim_end_matches('\0').to_owned());
            let is_confined = profile.as_deref().is_some_and(|name| {
                !name.is_empty() && !name.contains("unconfined") && name != "kernel"
            });
            Finding::note_if(is_confined, profile.or_else(|| Some("none".to_owned())))
        },
    },
];

/// `on` or `off` for a number.
fn on_off(value: Option<String>) -> Option<String> {
    value.map(|text| if text == "0" { "off" } else { "on" }.to_owned())
}

/// Major and minor number of a release such as `6.1.0-30-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A VM's thread for the recovery of huge pages is moved into its creator's cgroup, which waits for
/// RCU in 6.x; since 6.13 it is a task of the creator itself and moves nowhere.
fn regression(source: &Source) -> Finding {
    let release = source.text("/proc/sys/kernel/osrelease");
    let is_in_range =
        release.as_deref().and_then(version).is_some_and(|it| ((6, 0)..(6, 13)).contains(&it));
    let has_threads = !matches!(
        source.text("/sys/module/kvm/parameters/nx_huge_pages").as_deref(),
        None | Some("never")
    );
    let mounts = source.text("/proc/self/mounts").unwrap_or_default();
    let is_remedied = mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup2") && line.contains("favordynmods"));
    if is_in_range && has_threads && !is_remedied {
        return Finding::warn("KVM's huge page recovery (6.0 to 6.12)".to_owned());
    }
    Finding::ok("none known".to_owned())
}
