//! The checks, one function each.

use std::env;

use super::Source;
use crate::lab::{DETERMINISTIC, LAB_VARIABLE};
use crate::results::{Check, Level};

/// Runs every check.
pub fn preflight(source: &Source) -> Vec<Check> {
    CHECKS.iter().map(|check| check(source)).collect()
}

const CHECKS: [fn(&Source) -> Check; 20] = [
    cpu_model,
    cpus,
    virtualization,
    kvm_device,
    hypervisor,
    memory,
    kernel,
    kernel_command_line,
    governor,
    turbo,
    smt,
    steal,
    load,
    transparent_huge_pages,
    nx_huge_pages,
    mitigations,
    clock_source,
    cgroup_version,
    cgroup_favordynmods,
    swap,
];

fn check(id: &str, title: &str, value: Option<String>) -> Check {
    Check {
        id: id.to_owned(),
        title: title.to_owned(),
        level: Level::Ok,
        value: value.unwrap_or_else(|| "unknown".to_owned()),
        distorts: String::new(),
        remedy: None,
    }
}

trait Judge {
    fn note(self, distorts: &str) -> Check;
    fn warn(self, distorts: &str, remedy: &str) -> Check;
}

impl Judge for Check {
    fn note(self, distorts: &str) -> Check {
        Check { level: Level::Note, distorts: distorts.to_owned(), ..self }
    }

    fn warn(self, distorts: &str, remedy: &str) -> Check {
        Check {
            level: Level::Warn,
            distorts: distorts.to_owned(),
            remedy: Some(remedy.to_owned()),
            ..self
        }
    }
}

fn cpu_model(source: &Source) -> Check {
    check("cpu_model", "CPU", source.field("/proc/cpuinfo", "model name"))
}

fn cpus(source: &Source) -> Check {
    let online = source.text("/proc/cpuinfo").map(|text| {
        text.lines()
            .filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor"))
            .count()
    });
    let found = check("cpus", "CPUs online", online.map(|count| count.to_string()));
    if online == Some(1) {
        found.note(
            "the harness and the box share one CPU: each mark may cost the box a context switch",
        )
    } else {
        found
    }
}

/// `vmx`, `svm`, or nothing.
pub(super) fn virtualization_flag(source: &Source) -> Option<&'static str> {
    let flags = source.field("/proc/cpuinfo", "flags")?;
    ["vmx", "svm"].into_iter().find(|flag| flags.split_whitespace().any(|word| word == *flag))
}

fn virtualization(source: &Source) -> Check {
    match virtualization_flag(source) {
        Some(flag) => check("virtualization", "hardware virtualization", Some(flag.to_owned())),
        None => check("virtualization", "hardware virtualization", Some("none".to_owned())).warn(
            "no microVM runs on this machine in useful time",
            "tare runs the comparison in the lab, in virtual time; for wall clock use a machine \
             with VMX or SVM, or turn on nested virtualization in the hypervisor",
        ),
    }
}

fn kvm_device(source: &Source) -> Check {
    let is_there = source.exists("/dev/kvm");
    let found =
        check("kvm", "/dev/kvm", Some(if is_there { "present" } else { "absent" }.to_owned()));
    if is_there {
        return found;
    }
    found.warn("the microVM backend cannot run", "load the module kvm-intel or kvm-amd")
}

fn hypervisor(source: &Source) -> Check {
    if let Ok(flavour) = env::var(LAB_VARIABLE) {
        let found = check("hypervisor", "runs under", Some(format!("tare's lab ({flavour})")));
        if flavour == DETERMINISTIC {
            return found.note(
                "times are virtual: one instruction is one nanosecond; caches, TLB and world \
                 switches cost nothing",
            );
        }
        return found.warn(
            "the CPU is emulated without counting instructions: times say nothing about any machine",
            "tare lab --flavour deterministic",
        );
    }
    let flags = source.field("/proc/cpuinfo", "flags").unwrap_or_default();
    if !flags.split_whitespace().any(|word| word == "hypervisor") {
        return check("hypervisor", "runs under", Some("bare metal".to_owned()));
    }
    let vendor = source.text("/sys/class/dmi/id/sys_vendor");
    check("hypervisor", "runs under", Some(vendor.unwrap_or_else(|| "a hypervisor".to_owned()))).note(
        "a microVM here is a nested one: each of its exits costs several times what it costs on \
         bare metal",
    )
}

fn memory(source: &Source) -> Check {
    check("memory", "memory", source.field("/proc/meminfo", "MemTotal"))
}

fn kernel(source: &Source) -> Check {
    check("kernel", "kernel", source.text("/proc/sys/kernel/osrelease"))
}

fn kernel_command_line(source: &Source) -> Check {
    check("command_line", "kernel command line", source.text("/proc/cmdline"))
}

fn governor(source: &Source) -> Check {
    let governor = source.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    match governor.as_deref() {
        None => check("governor", "frequency governor", Some("not visible".to_owned()))
            .note("the host below decides on the clock rate; expect drift over a run"),
        Some("performance") => check("governor", "frequency governor", governor),
        Some(_) => check("governor", "frequency governor", governor).warn(
            "short boxes run at a lower clock rate than long ones",
            "cpupower frequency-set -g performance",
        ),
    }
}

fn turbo(source: &Source) -> Check {
    let no_turbo = source.text("/sys/devices/system/cpu/intel_pstate/no_turbo");
    let boost = source.text("/sys/devices/system/cpu/cpufreq/boost");
    let is_on = no_turbo.as_deref() == Some("0") || boost.as_deref() == Some("1");
    match (is_on, no_turbo.or(boost)) {
        (true, _) => check("turbo", "turbo clock", Some("on".to_owned())).note(
            "the clock rate depends on heat and on neighbours; interleaving spreads this evenly",
        ),
        (false, Some(_)) => check("turbo", "turbo clock", Some("off".to_owned())),
        (false, None) => check("turbo", "turbo clock", Some("not visible".to_owned())),
    }
}

fn smt(source: &Source) -> Check {
    let active = source.text("/sys/devices/system/cpu/smt/active");
    match active.as_deref() {
        Some("1") => check("smt", "SMT", Some("on".to_owned()))
            .note("two boxes, or a box and the harness, may share one core's units"),
        Some("0") => check("smt", "SMT", Some("off".to_owned())),
        _ => check("smt", "SMT", None),
    }
}

/// Fields of the first line of `/proc/stat`: user nice system idle iowait irq softirq steal.
fn steal(source: &Source) -> Check {
    let text = source.text("/proc/stat").unwrap_or_default();
    let times: Vec<u64> = text
        .lines()
        .next()
        .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default();
    let total: u64 = times.iter().take(8).sum();
    let stolen = times.get(7).copied().unwrap_or(0);
    let share = if total == 0 { 0.0 } else { 100.0 * stolen as f64 / total as f64 };
    let found = check("steal", "CPU time stolen since boot", Some(format!("{share:.2} %")));
    if share > 1.0 {
        return found.warn(
            "the hypervisor takes the CPU away in the middle of measurements",
            "use a dedicated or a quieter machine",
        );
    }
    found
}

fn load(source: &Source) -> Check {
    let load = source.text("/proc/loadavg");
    let first: Option<f64> = load.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    let found = check("load", "load average", load);
    if first.is_some_and(|load| load > 1.0) {
        return found
            .warn("other work competes with the boxes", "stop it, or wait until it is done");
    }
    found
}

fn transparent_huge_pages(source: &Source) -> Check {
    let choice = source.choice("/sys/kernel/mm/transparent_hugepage/enabled");
    let found = check("thp", "transparent huge pages", choice.clone());
    if choice.as_deref() == Some("never") {
        return found.warn(
            "guest RAM is faulted in by 4 KiB: a microVM boots slower by several milliseconds",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    found
}

fn nx_huge_pages(source: &Source) -> Check {
    let value = source.text("/sys/module/kvm/parameters/nx_huge_pages");
    let found = check("nx_huge_pages", "KVM nx_huge_pages", value.clone());
    if value.as_deref() == Some("Y") {
        return found.note("KVM splits huge pages that a guest executes from (CVE-2018-12207)");
    }
    found
}

fn mitigations(source: &Source) -> Check {
    let line = source.text("/proc/cmdline").unwrap_or_default();
    let spectre = source.text("/sys/devices/system/cpu/vulnerabilities/spectre_v2");
    let found = check("mitigations", "CPU mitigations (spectre_v2)", spectre);
    if line.split_whitespace().any(|word| word == "mitigations=off") {
        return found
            .note("mitigations are off: system calls and exits are cheaper than in production");
    }
    found
}

fn clock_source(source: &Source) -> Check {
    let name = source.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let found = check("clock_source", "clock source", name.clone());
    match name.as_deref() {
        Some("tsc" | "kvm-clock") | None => found,
        Some(_) => found.warn(
            "reading the clock is a system call or worse, and every stamp pays for it",
            "boot with clocksource=tsc if the TSC is stable",
        ),
    }
}

fn cgroup_version(source: &Source) -> Check {
    let mounts = source.text("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup2"), has("cgroup")) {
        (true, false) => check("cgroup", "cgroups", Some("v2".to_owned())),
        (both, true) => {
            let name = if both { "hybrid" } else { "v1" };
            check("cgroup", "cgroups", Some(name.to_owned())).note(
                "a container with limits joins its cgroup by moving a task, which waits for RCU: \
                 about 12 ms",
            )
        }
        (false, false) => check("cgroup", "cgroups", Some("none mounted".to_owned()))
            .warn("containers cannot be limited", "mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn cgroup_favordynmods(source: &Source) -> Check {
    let mounts = source.text("/proc/self/mounts").unwrap_or_default();
    let is_on = mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup2") && line.contains("favordynmods"));
    check("favordynmods", "cgroup favordynmods", Some(if is_on { "on" } else { "off" }.to_owned()))
}

fn swap(source: &Source) -> Check {
    let total = source.field("/proc/meminfo", "SwapTotal");
    let found = check("swap", "swap", total.clone());
    if total.as_deref().is_some_and(|text| text != "0 kB") {
        return found.note("memory that was swapped out is missing from resident sizes");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Source) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let source = Source::below(root.path());
        (root, source)
    }

    #[test]
    fn test_every_check_answers_on_a_machine_that_shows_nothing() {
        let (_root, source) = machine(&[]);
        let checks = preflight(&source);
        assert_eq!(checks.len(), CHECKS.len());
        let mut ids: Vec<_> = checks.iter().map(|check| check.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), CHECKS.len(), "ids are unique");
    }

    #[test]
    fn test_virtualization_flag_is_a_whole_word() {
        let (_root, with) = machine(&[("/proc/cpuinfo", "processor : 0\nflags : fpu svm lm\n")]);
        assert_eq!(virtualization_flag(&with), Some("svm"));
        let (_root, without) = machine(&[("/proc/cpuinfo", "flags : fpu svm_lock lm\n")]);
        assert_eq!(virtualization_flag(&without), None);
        assert_eq!(virtualization(&without).level, Level::Warn);
    }

    #[test]
    fn test_thp_never_warns_and_madvise_does_not() {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let (_root, never) = machine(&[(path, "always madvise [never]\n")]);
        assert_eq!(transparent_huge_pages(&never).level, Level::Warn);
        let (_root, madvise) = machine(&[(path, "always [madvise] never\n")]);
        assert_eq!(transparent_huge_pages(&madvise).level, Level::Ok);
    }

    #[test]
    fn test_cgroup_version_tells_hybrid_from_v2() {
        let (_root, hybrid) =
            machine(&[("/proc/self/mounts", "c /c cgroup rw 0 0\nc2 /u cgroup2 rw 0 0\n")]);
        assert_eq!(cgroup_version(&hybrid).value, "hybrid");
        let (_root, unified) =
            machine(&[("/proc/self/mounts", "c2 /u cgroup2 rw,favordynmods 0 0\n")]);
        assert_eq!(cgroup_version(&unified).value, "v2");
        assert_eq!(cgroup_favordynmods(&unified).value, "on");
    }

    #[test]
    fn test_steal_over_one_percent_warns() {
        let (_root, source) = machine(&[("/proc/stat", "cpu  100 0 100 700 0 0 0 100 0 0\n")]);
        assert_eq!(steal(&source).level, Level::Warn);
        assert_eq!(steal(&source).value, "10.00 %");
    }
}
