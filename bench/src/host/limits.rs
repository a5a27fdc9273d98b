//! What tare and its boxes may use, and what they stand on.

use std::env;

use super::Source;
use super::probe::{Finding, Probe};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "cgroup",
        title: "cgroups",
        distorts: "without the unified hierarchy alone, a container with limits joins its cgroup by moving a task, which \
                   waits for RCU",
        amount: "12–14 ms instead of 0.45 (measured for this project)",
        remedy: "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup",
        find: |source| {
            let mounts = source.text("/proc/self/mounts").unwrap_or_default();
            let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
            match (has("cgroup2"), has("cgroup")) {
                (true, false) => Finding::ok("v2".to_owned()),
                (true, true) => Finding::note("hybrid".to_owned()),
                (false, true) => Finding::note("v1".to_owned()),
                (false, false) => Finding::warn("none mounted".to_owned())
                    .by("containers cannot be limited at all".to_owned()),
            }
        },
    },
    Probe {
        id: "favordynmods",
        title: "cgroup favordynmods",
        distorts: "moving a task between cgroups waits for RCU; what a foreign engine moves, waits",
        amount: "12–14 ms for each move instead of 0.45 (measured for this project)",
        remedy: "mount -o remount,favordynmods /sys/fs/cgroup (it makes forks a little slower)",
        find: |source| {
            let mounts = source.text("/proc/self/mounts").unwrap_or_default();
            let is_on = mounts.lines().any(|line| {
                line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"))
                    && line.contains("favordynmods")
            });
            Finding::note_if(!is_on, if is_on { "on" } else { "off" }.to_owned())
        },
    },
    Probe {
        id: "cgroup_controllers",
        title: "cgroup controllers",
        distorts: "limits of memory, CPU time or processes cannot be set or shown to hold",
        amount: "",
        remedy: "boot with cgroup_enable=memory, and mount every controller",
        find: controllers,
    },
    Probe {
        id: "cpu_quota",
        title: "CPU quota of tare's own cgroup",
        distorts: "all boxes together are stopped whenever the quota of a period is used up",
        amount: "",
        remedy: "run tare outside of a limited container or slice",
        find: cpu_quota,
    },
    Probe {
        id: "memory_limit",
        title: "memory limit of tare's own cgroup",
        distorts: "the page cache that was to stay warm counts against the limit and is dropped",
        amount: "",
        remedy: "run tare outside of a limited container or slice",
        find: |source| {
            let limit = own_limit(source, "memory", "memory.max", "memory.limit_in_bytes");
            // Version 1 writes "none" as the greatest number of pages.
            let bytes =
                limit.and_then(|text| text.parse::<u64>().ok()).filter(|&bytes| bytes < 1 << 60);
            match bytes {
                Some(bytes) => Finding::warn(format!("{} MiB", bytes >> 20)),
                None => Finding::ok("none".to_owned()),
            }
        },
    },
    Probe {
        id: "open_files",
        title: "open files",
        distorts: "a microVM takes about a dozen descriptors: with many alive, launches fail for want of them",
        amount: "",
        remedy: "ulimit -n 65536",
        find: |source| {
            let limit = soft_limit(source, "Max open files");
            let amount = limit.map(|files| format!("room for about {} microVMs", files / 12));
            let value = limit.map(|files| files.to_string());
            Finding::note_if(limit.is_some_and(|files| files < 4096), value).by(amount)
        },
    },
    Probe {
        id: "processes",
        title: "processes and threads",
        distorts: "with many boxes alive, launches fail for want of process numbers",
        amount: "",
        remedy: "sysctl kernel.pid_max=4194304; ulimit -u unlimited; raise pids.max of tare's cgroup",
        find: |source| {
            let number = |path: &str| source.text(path)?.parse::<u64>().ok();
            let own = own_limit(source, "pids", "pids.max", "pids.max");
            let limits = [
                number("/proc/sys/kernel/pid_max"),
                number("/proc/sys/kernel/threads-max"),
                soft_limit(source, "Max processes"),
                own.and_then(|text| text.parse().ok()),
            ];
            let least = limits.into_iter().flatten().min();
            Finding::note_if(
                least.is_some_and(|most| most < 4096),
                least.map(|most| most.to_string()),
            )
        },
    },
    Probe {
        id: "scratch",
        title: "file system of the scratch directory",
        distorts: "the workload 'file' measures that file system: on a tmpfs memory and no disk, on an overlay also the \
                   copying up, on a network its latency",
        amount: "",
        remedy: "TMPDIR=/a/directory/on/the/disk/to/be/measured tare …",
        find: |source| {
            let directory = env::temp_dir();
            let kind = source
                .text("/proc/self/mounts")
                .and_then(|mounts| file_system(&mounts, &directory));
            let value = kind.as_deref().map(|kind| format!("{kind} ({})", directory.display()));
            match kind.as_deref() {
                Some("tmpfs" | "ramfs" | "rootfs" | "overlay") => Finding::note(value),
                Some(kind)
                    if kind.starts_with("nfs")
                        || kind.starts_with("fuse")
                        || kind == "9p"
                        || kind == "cifs" =>
                {
                    Finding::warn(value)
                }
                _ => Finding::ok(value),
            }
        },
    },
];

/// Type of the file system that holds a directory: the last mount with the longest path above it.
pub(super) fn file_system(mounts: &str, directory: &std::path::Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind)) = (words.next(), words.next()) else { continue };
        let is_above = directory.starts_with(place.replace("\\040", " "));
        if is_above && best.is_none_or(|(length, _)| place.len() >= length) {
            best = Some((place.len(), kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// A soft limit of `/proc/self/limits`; unlimited is the greatest number.
fn soft_limit(source: &Source, name: &str) -> Option<u64> {
    let text = source.text("/proc/self/limits")?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

fn controllers(source: &Source) -> Finding {
    let unified = source.text("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let table = source.text("/proc/cgroups").unwrap_or_default();
    // subsys_name hierarchy num_cgroups enabled (cgroups(7)); hierarchy 0 is the unified one.
    let is_bound = |name: &str| {
        table.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.first() == Some(&name) && words.get(1) != Some(&"0") && words.get(3) == Some(&"1")
        })
    };
    let has = |name: &&str| unified.split_whitespace().any(|word| word == *name) || is_bound(name);
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Finding::ok(CONTROLLERS.join(", "));
    }
    Finding::warn(format!("without {}", missing.join(", ")))
}

/// The tightest limit on this process's way to the root of a hierarchy.
fn own_limit(source: &Source, controller: &str, unified: &str, legacy: &str) -> Option<String> {
    let own = source.text("/proc/self/cgroup")?;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = if names.is_empty() {
            ("/sys/fs/cgroup".to_owned(), unified)
        } else if names.split(',').any(|name| name == controller) {
            (format!("/sys/fs/cgroup/{controller}"), legacy)
        } else {
            continue;
        };
        let mut directory = path.trim_end_matches('/');
        let mut least: Option<String> = None;
        loop {
            let found =
                source.text(&format!("{root}{directory}/{file}")).filter(|text| !is_none(text));
            // All are of the same form: the first number decides.
            if let Some(text) = found
                && least.as_deref().is_none_or(|other| leading(&text) < leading(other))
            {
                least = Some(text);
            }
            match directory.rsplit_once('/') {
                Some((parent, _)) => directory = parent,
                None => break,
            }
        }
        if least.is_some() {
            return least;
        }
    }
    None
}

fn is_none(text: &str) -> bool {
    text.starts_with("max") || text.starts_with('-')
}

fn leading(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
}

fn cpu_quota(source: &Source) -> Finding {
    // "50000 100000" in the unified hierarchy, the quota alone in version 1, whose period is 100 ms
    // unless someone has changed it (Documentation/scheduler/sched-bwc.rst).
    let Some(text) = own_limit(source, "cpu", "cpu.max", "cpu.cfs_quota_us") else {
        return Finding::ok("none".to_owned());
    };
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let share = match numbers.as_slice() {
        [quota, period, ..] if *period > 0.0 => quota / period,
        [quota] => quota / 100_000.0,
        _ => return Finding::ok(text),
    };
    Finding::warn(format!("{share:.2} CPUs"))
        .by(format!("all boxes together get {share:.2} CPUs and then stand still"))
}
