//! What else happens on the machine.

use super::Source;
use super::cpu::online;
use super::probe::{Finding, Probe};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "steal",
        title: "CPU time stolen since boot",
        distorts: "the hypervisor takes the CPU away in the middle of measurements",
        amount: "",
        remedy: "use a dedicated or a quieter machine",
        find: steal,
    },
    Probe {
        id: "load",
        title: "load average",
        distorts: "other work competes with the boxes",
        amount: "",
        remedy: "stop it, or wait until it is done",
        find: |source| {
            let load = source.text("/proc/loadavg");
            let first: Option<f64> =
                load.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
            let cpus = online(source).unwrap_or(1);
            let amount = first.map(|load| {
                format!("{load:.1} tasks want the {cpus} CPU{}", super::memory::plural(cpus))
            });
            Finding::warn_if(first.is_some_and(|load| load > 1.0), load).by(amount)
        },
    },
    Probe {
        id: "pressure",
        title: "CPU pressure over 10 s",
        distorts: "tasks that could run wait for a CPU, boxes too",
        amount: "",
        remedy: "stop other work, or wait until it is done",
        find: |source| {
            let text = source.text("/proc/pressure/cpu");
            let average = text.as_deref().and_then(|text| {
                text.split_whitespace()
                    .find_map(|word| word.strip_prefix("avg10="))?
                    .parse::<f64>()
                    .ok()
            });
            let amount =
                average.map(|share| format!("for {share:.0} % of the time some task waited"));
            let value = average.map(|share| format!("{share:.1} %"));
            Finding::warn_if(average.is_some_and(|share| share > 10.0), value).by(amount)
        },
    },
    Probe {
        id: "irqbalance",
        title: "irqbalance",
        distorts: "interrupts move between CPUs during a run, and with them the work of disks and networks",
        amount: "",
        remedy: "systemctl stop irqbalance for the time of the run",
        find: |source| {
            let is_there = source
                .entries("/proc")
                .iter()
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
                .any(|pid| {
                    source.text(&format!("/proc/{pid}/comm")).as_deref() == Some("irqbalance")
                });
            Finding::note_if(is_there, if is_there { "running" } else { "not running" }.to_owned())
        },
    },
];

/// Fields of the first line of `/proc/stat`: user nice system idle iowait irq softirq steal.
fn steal(source: &Source) -> Finding {
    let text = source.text("/proc/stat").unwrap_or_default();
    let times: Vec<u64> = text
        .lines()
        .next()
        .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default();
    let total: u64 = times.iter().take(8).sum();
    let stolen = times.get(7).copied().unwrap_or(0);
    let share = if total == 0 { 0.0 } else { 100.0 * stolen as f64 / total as f64 };
    Finding::warn_if(share > 1.0, format!("{share:.2} %"))
        .by(format!("{share:.1} % of the CPU time, in lumps of milliseconds"))
}
