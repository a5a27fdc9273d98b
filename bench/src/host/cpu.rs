//! How fast the CPU runs, and how steadily.

use super::Source;
use super::probe::{Finding, Probe};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "cpu_model",
        title: "CPU",
        distorts: "a machine that does not name its CPU cannot be compared with any other",
        amount: "",
        remedy: "name it beside the figures",
        find: |source| {
            let value = source.field("/proc/cpuinfo", "model name");
            Finding::note_if(value.is_none(), value)
        },
    },
    Probe {
        id: "cpus",
        title: "CPUs online",
        distorts: "the harness and the box share one CPU: a mark may cost the box a context switch",
        amount: "what a mark costs is measured in the run (workload probe)",
        remedy: "use a machine with at least two CPUs",
        find: |source| {
            let online = online(source);
            Finding::note_if(online == Some(1), online.map(|count| count.to_string()))
        },
    },
    Probe {
        id: "affinity",
        title: "CPUs allowed to tare",
        distorts: "boxes compete for fewer CPUs than the machine has",
        amount: "",
        remedy: "run tare without taskset and outside of a cpuset",
        find: |source| {
            let list = source.field("/proc/self/status", "Cpus_allowed_list");
            let allowed = list.as_deref().map(members);
            let is_less = allowed.zip(online(source)).is_some_and(|(few, all)| few < all);
            let amount =
                allowed.zip(online(source)).map(|(few, all)| format!("{few} of {all} CPUs"));
            Finding::note_if(is_less, list).by(amount)
        },
    },
    Probe {
        id: "microcode",
        title: "CPU microcode",
        distorts: "a hypervisor hides the revision, and with it which mitigations the CPU applies by itself",
        amount: "",
        remedy: "ask who runs the machine below",
        find: |source| {
            let value = source.field("/proc/cpuinfo", "microcode");
            let is_hidden = matches!(value.as_deref(), None | Some("0x1" | "0xffffffff"));
            Finding::note_if(is_hidden, value)
        },
    },
    Probe {
        id: "governor",
        title: "frequency governor",
        distorts: "short boxes run at a lower clock rate than long ones",
        amount: "as much as the clock rate can change, which the machine does not show",
        remedy: "cpupower frequency-set -g performance; in a virtual machine, that is for its host",
        find: governor,
    },
    Probe {
        id: "turbo",
        title: "turbo clock",
        distorts: "the clock rate depends on heat and on neighbours; interleaving spreads this evenly over all boxes",
        amount: "as much as the turbo clock is above the base clock, which the machine does not show",
        remedy: "echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo, or echo 0 > /sys/devices/system/cpu/cpufreq/boost",
        find: turbo,
    },
    Probe {
        id: "idle_states",
        title: "CPU idle states",
        distorts: "a CPU that sleeps deeply wakes late: boxes that wait (disk, network, marks) seem slower than they are",
        amount: "",
        remedy: "cpupower idle-set -D 10, or hold /dev/cpu_dma_latency open with a small value",
        find: idle_states,
    },
    Probe {
        id: "smt",
        title: "SMT",
        distorts: "two boxes, or a box and the harness, may share one core's units",
        amount: "two threads of a core do up to 1.3 times the work of one (Marr and others, Intel Technology Journal \
                 2002): each runs at about two thirds of its speed",
        remedy: "echo off > /sys/devices/system/cpu/smt/control",
        find: |source| match source.text("/sys/devices/system/cpu/smt/active").as_deref() {
            Some("1") => Finding::note("on".to_owned()),
            Some("0") => Finding::ok("off".to_owned()),
            _ => Finding::ok(None),
        },
    },
    Probe {
        id: "mitigations",
        title: "CPU mitigations (spectre_v2)",
        distorts: "mitigations are off: system calls and exits are cheaper than in production",
        amount: "page table isolation alone cost 0.1–6 % at the system-call rates of a large service (Gregg 2018)",
        remedy: "boot without mitigations=off",
        find: |source| {
            let spectre = source.text("/sys/devices/system/cpu/vulnerabilities/spectre_v2");
            let line = source.text("/proc/cmdline").unwrap_or_default();
            Finding::note_if(line.split_whitespace().any(|word| word == "mitigations=off"), spectre)
        },
    },
    Probe {
        id: "clock_source",
        title: "clock source",
        distorts: "reading the clock is a system call or worse, and every stamp pays for it",
        amount: "the run shows it as clock_ns; tens of nanoseconds are good",
        remedy: "boot with clocksource=tsc if the TSC is stable",
        find: |source| {
            let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
            let name = source.text(path);
            let is_good = matches!(name.as_deref(), Some("tsc" | "kvm-clock") | None);
            Finding::warn_if(!is_good, name)
        },
    },
];

/// How many CPUs `/proc/cpuinfo` lists.
pub(super) fn online(source: &Source) -> Option<usize> {
    let text = source.text("/proc/cpuinfo")?;
    let is_head = |line: &&str| line.split(':').next().is_some_and(|key| key.trim() == "processor");
    Some(text.lines().filter(is_head).count())
}

/// How many numbers a list such as `0-2,5` has.
pub(super) fn members(list: &str) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let ends = first.trim().parse::<usize>().ok().zip(last.trim().parse::<usize>().ok());
        ends.map_or(0, |(first, last)| last.saturating_sub(first) + 1)
    };
    list.split(',').map(count).sum()
}

fn khz(source: &Source, name: &str) -> Option<f64> {
    let text = source.text(&format!("/sys/devices/system/cpu/cpu0/cpufreq/{name}"))?;
    text.parse().ok().filter(|khz: &f64| *khz > 0.0)
}

fn governor(source: &Source) -> Finding {
    let governor = source.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let range = khz(source, "cpuinfo_min_freq").zip(khz(source, "cpuinfo_max_freq"));
    let amount = range.map(|(low, high)| {
        format!("up to {:.1} ×: {:.1} to {:.1} GHz here", high / low, low / 1e6, high / 1e6)
    });
    match governor.as_deref() {
        None => Finding::note("not visible".to_owned()),
        Some("performance") => Finding::ok(governor),
        Some(_) => Finding::warn(governor).by(amount),
    }
}

fn turbo(source: &Source) -> Finding {
    let no_turbo = source.text("/sys/devices/system/cpu/intel_pstate/no_turbo");
    let boost = source.text("/sys/devices/system/cpu/cpufreq/boost");
    let is_on = no_turbo.as_deref() == Some("0") || boost.as_deref() == Some("1");
    let range = khz(source, "base_frequency").zip(khz(source, "cpuinfo_max_freq"));
    let amount = range.map(|(base, high)| {
        format!("up to {:.2} ×: {:.1} to {:.1} GHz here", high / base, base / 1e6, high / 1e6)
    });
    match (is_on, no_turbo.or(boost)) {
        (true, _) => Finding::note("on".to_owned()).by(amount),
        (false, Some(_)) => Finding::ok("off".to_owned()),
        (false, None) => Finding::ok("not visible".to_owned()),
    }
}

/// An idle state that takes longer than this to leave is worth knowing of.
const DEEP_US: u64 = 50;

fn idle_states(source: &Source) -> Finding {
    let driver = source.text("/sys/devices/system/cpu/cpuidle/current_driver");
    let state = |index: u32| {
        let directory = format!("/sys/devices/system/cpu/cpu0/cpuidle/state{index}");
        let latency = source.text(&format!("{directory}/latency"))?.parse::<u64>().ok()?;
        let is_off = source.text(&format!("{directory}/disable")).as_deref() == Some("1");
        Some(if is_off { 0 } else { latency })
    };
    let deepest_us = (0..10).filter_map(state).max();
    let value = match (driver, deepest_us) {
        (Some(driver), Some(us)) => Some(format!("{driver}, {us} µs to leave the deepest")),
        (driver, _) => driver,
    };
    let amount = deepest_us.map(|us| format!("up to {us} µs for each time that a CPU is woken"));
    Finding::note_if(deepest_us.is_some_and(|us| us > DEEP_US), value).by(amount)
}
