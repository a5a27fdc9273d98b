//! Machines that do not exist.

use std::fs;
use std::path::Path;

use super::{Source, limits, preflight, probes};
use crate::results::{Check, Level};

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

/// What one probe says of a machine that has these files and no others.
fn look(id: &str, files: &[(&str, &str)]) -> Check {
    let (_root, source) = machine(files);
    preflight(&source).into_iter().find(|check| check.id == id).unwrap()
}

fn assert_level(id: &str, files: &[(&str, &str)], level: Level) -> Check {
    let check = look(id, files);
    assert_eq!(check.level, level, "{check:?}");
    check
}

#[test]
fn test_every_probe_says_what_it_distorts_and_what_to_do() {
    let mut ids: Vec<&str> = probes().map(|probe| probe.id).collect();
    let count = ids.len();
    assert!(count >= 40, "{count}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are unique");
    for probe in probes() {
        assert!(!probe.distorts.is_empty() && !probe.remedy.is_empty(), "{}", probe.id);
        // They stand in the middle of a sentence.
        assert!(!probe.distorts.ends_with('.') && !probe.remedy.ends_with('.'), "{}", probe.id);
    }
}

#[test]
fn test_every_probe_answers_on_a_machine_that_shows_nothing() {
    let (_root, source) = machine(&[]);
    let checks = preflight(&source);
    assert_eq!(checks.len(), probes().count());
    for check in checks {
        assert!(!check.value.is_empty(), "{check:?}");
        assert_eq!(check.distorts.is_empty(), check.level == Level::Ok, "{check:?}");
        assert_eq!(check.remedy.is_none(), check.level == Level::Ok, "{check:?}");
    }
}

#[test]
fn test_virtualization_flag_is_a_whole_word() {
    let cpu = |flags: &str| format!("processor : 0\nflags : fpu {flags} lm\n");
    let (_root, with) = machine(&[("/proc/cpuinfo", &cpu("svm"))]);
    assert_eq!(super::virtualization::flag(&with), Some("svm"));
    assert_level("virtualization", &[("/proc/cpuinfo", &cpu("svm_lock"))], Level::Warn);
}

/// A file with a harmless text, one that distorts, and how much that matters.
#[test]
fn test_probes_of_one_file_tell_good_from_bad() {
    use Level::{Note, Warn};
    let cases: &[(&str, &str, &str, &str, Level)] = &[
        (
            "thp",
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never",
            "always madvise [never]",
            Warn,
        ),
        (
            "thp_defrag",
            "/sys/kernel/mm/transparent_hugepage/defrag",
            "always [madvise] never",
            "[always] madvise",
            Warn,
        ),
        ("ksm", "/sys/kernel/mm/ksm/run", "0", "1", Warn),
        ("overcommit", "/proc/sys/vm/overcommit_memory", "0", "2", Warn),
        ("compaction", "/proc/sys/vm/compaction_proactiveness", "20", "90", Note),
        (
            "memory_available",
            "/proc/meminfo",
            "MemAvailable: 2000000 kB",
            "MemAvailable: 200000 kB",
            Warn,
        ),
        ("swap", "/proc/meminfo", "SwapTotal: 0 kB", "SwapTotal: 5 kB", Note),
        ("nested_paging", "/sys/module/kvm_intel/parameters/ept", "Y", "N", Warn),
        ("nx_huge_pages", "/sys/module/kvm/parameters/nx_huge_pages", "never", "Y", Note),
        ("halt_poll", "/sys/module/kvm/parameters/halt_poll_ns", "0", "200000", Note),
        (
            "governor",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "performance",
            "powersave",
            Warn,
        ),
        ("turbo", "/sys/devices/system/cpu/cpufreq/boost", "0", "1", Note),
        ("smt", "/sys/devices/system/cpu/smt/active", "0", "1", Note),
        ("mitigations", "/proc/cmdline", "quiet", "quiet mitigations=off", Note),
        ("command_line", "/proc/cmdline", "quiet", "idle=poll", Note),
        (
            "clock_source",
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            "tsc",
            "hpet",
            Warn,
        ),
        ("microcode", "/proc/cpuinfo", "microcode : 0x2007006", "microcode : 0xffffffff", Note),
        ("kernel", "/proc/sys/kernel/osrelease", "6.1.0-30-amd64", "4.19.0-6-amd64", Warn),
        ("tracing", "/sys/kernel/tracing/current_tracer", "nop", "function", Warn),
        ("aslr", "/proc/sys/kernel/randomize_va_space", "2", "0", Note),
        ("entropy", "/proc/sys/kernel/random/entropy_avail", "256", "40", Warn),
        ("autogroup", "/proc/sys/kernel/sched_autogroup_enabled", "0", "1", Note),
        ("timer_slack", "/proc/self/timerslack_ns", "50000", "100000000", Note),
        ("perf_events", "/proc/sys/kernel/perf_event_paranoid", "2", "3", Note),
        ("seccomp", "/proc/self/status", "Seccomp:\t0", "Seccomp:\t2", Warn),
        (
            "mandatory_access",
            "/proc/self/attr/current",
            "unconfined",
            "docker-default (enforce)",
            Note,
        ),
        (
            "cgroup_controllers",
            "/sys/fs/cgroup/cgroup.controllers",
            "cpu io memory pids",
            "cpu io pids",
            Warn,
        ),
        (
            "open_files",
            "/proc/self/limits",
            "Max open files  unlimited unlimited files",
            "Max open files  1024 4096 files",
            Note,
        ),
        ("processes", "/proc/sys/kernel/pid_max", "4194304", "1000", Note),
        (
            "favordynmods",
            "/proc/self/mounts",
            "c /c cgroup2 rw,favordynmods 0 0",
            "c /c cgroup2 rw 0 0",
            Note,
        ),
        (
            "steal",
            "/proc/stat",
            "cpu  100 0 100 800 0 0 0 0 0 0",
            "cpu  100 0 100 700 0 0 0 100 0 0",
            Warn,
        ),
        ("load", "/proc/loadavg", "0.10 0 0 1/2 3", "3.50 0 0 1/2 3", Warn),
        (
            "pressure",
            "/proc/pressure/cpu",
            "some avg10=0.00 avg60=9",
            "some avg10=64.34 avg60=9",
            Warn,
        ),
        ("irqbalance", "/proc/17/comm", "sh", "irqbalance\n", Note),
    ];
    for (id, path, good, bad, level) in cases {
        assert_level(id, &[(path, good)], Level::Ok);
        assert_level(id, &[(path, bad)], *level);
    }
}

#[test]
fn test_kernel_regression_needs_version_setting_and_mount_together() {
    let files = |release, setting, mount| {
        look(
            "kernel_regression",
            &[
                ("/proc/sys/kernel/osrelease", release),
                ("/sys/module/kvm/parameters/nx_huge_pages", setting),
                ("/proc/self/mounts", mount),
            ],
        )
        .level
    };
    let plain = "c /c cgroup2 rw 0 0";
    assert_eq!(files("6.1.0-30-amd64", "N", plain), Level::Warn);
    assert_eq!(files("6.13.2", "N", plain), Level::Ok);
    assert_eq!(files("5.15.0", "N", plain), Level::Ok);
    assert_eq!(files("6.1.0", "never", plain), Level::Ok);
    assert_eq!(files("6.1.0", "N", "c /c cgroup2 rw,favordynmods 0 0"), Level::Ok);
}

#[test]
fn test_governor_says_how_far_the_clock_can_move() {
    let directory = "/sys/devices/system/cpu/cpu0/cpufreq";
    let files = [
        (format!("{directory}/scaling_governor"), "schedutil"),
        (format!("{directory}/cpuinfo_min_freq"), "800000"),
        (format!("{directory}/cpuinfo_max_freq"), "2800000"),
    ];
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let check = assert_level("governor", &files, Level::Warn);
    assert_eq!(check.amount.unwrap(), "up to 3.5 ×: 0.8 to 2.8 GHz here");
}

#[test]
fn test_idle_states_name_the_deepest_that_is_enabled() {
    let directory = "/sys/devices/system/cpu/cpu0/cpuidle";
    let files = |disable| {
        look(
            "idle_states",
            &[
                ("/sys/devices/system/cpu/cpuidle/current_driver", "intel_idle"),
                (&format!("{directory}/state0/latency"), "2"),
                (&format!("{directory}/state1/latency"), "133"),
                (&format!("{directory}/state1/disable"), disable),
            ],
        )
    };
    assert_eq!(files("1").level, Level::Ok);
    let deep = files("0");
    assert_eq!(deep.level, Level::Note);
    assert!(deep.amount.unwrap().contains("133 µs"));
}

#[test]
fn test_affinity_of_fewer_than_all_cpus_is_noted() {
    let cpus = "processor : 0\n\nprocessor : 1\n\nprocessor : 2\n";
    let files = |list| [("/proc/cpuinfo", cpus), ("/proc/self/status", list)];
    assert_level("affinity", &files("Cpus_allowed_list:\t0-2"), Level::Ok);
    let check = assert_level("affinity", &files("Cpus_allowed_list:\t0,2"), Level::Note);
    assert_eq!(check.amount.unwrap(), "2 of 3 CPUs");
}

#[test]
fn test_numa_balancing_matters_on_several_nodes_only() {
    let files = |nodes| {
        [("/proc/sys/kernel/numa_balancing", "1"), ("/sys/devices/system/node/online", nodes)]
    };
    assert_level("numa_balancing", &files("0"), Level::Ok);
    assert_eq!(assert_level("numa_balancing", &files("0-1"), Level::Warn).value, "on (2 nodes)");
}

#[test]
fn test_zswap_without_swap_is_nothing() {
    let zswap = ("/sys/module/zswap/parameters/enabled", "Y");
    assert_level("zswap", &[zswap, ("/proc/meminfo", "SwapTotal: 0 kB")], Level::Ok);
    assert_level("zswap", &[zswap, ("/proc/meminfo", "SwapTotal: 9 kB")], Level::Note);
}

#[test]
fn test_cgroup_tells_hybrid_from_v2() {
    let hybrid = [("/proc/self/mounts", "c /c cgroup rw 0 0\nc2 /u cgroup2 rw 0 0\n")];
    assert_eq!(assert_level("cgroup", &hybrid, Level::Note).value, "hybrid");
    assert_eq!(
        assert_level("cgroup", &[("/proc/self/mounts", "c /u cgroup2 rw 0 0\n")], Level::Ok).value,
        "v2"
    );
    assert_level("cgroup", &[], Level::Warn);
}

#[test]
fn test_cpu_quota_of_any_cgroup_above_is_found() {
    let v2 = [
        ("/proc/self/cgroup", "0::/a/b\n"),
        ("/sys/fs/cgroup/a/cpu.max", "50000 100000\n"),
        ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
    ];
    assert_eq!(assert_level("cpu_quota", &v2, Level::Warn).value, "0.50 CPUs");
    let v1 = [
        ("/proc/self/cgroup", "1:cpu:/\n0::/\n"),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n"),
    ];
    assert_eq!(assert_level("cpu_quota", &v1, Level::Warn).value, "1.50 CPUs");
    let none =
        [("/proc/self/cgroup", "1:cpu:/\n"), ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")];
    assert_eq!(assert_level("cpu_quota", &none, Level::Ok).value, "none");
}

#[test]
fn test_memory_limit_without_end_is_none() {
    let own = ("/proc/self/cgroup", "4:memory:/x\n");
    let path = "/sys/fs/cgroup/memory/x/memory.limit_in_bytes";
    assert_level("memory_limit", &[own, (path, "9223372036854771712")], Level::Ok);
    let check = assert_level("memory_limit", &[own, (path, "2147483648")], Level::Warn);
    assert_eq!(check.value, "2048 MiB");
}

#[test]
fn test_file_system_is_that_of_the_longest_and_last_mount() {
    let mounts =
        "a / ext4 rw 0 0\nb /var tmpfs rw 0 0\nc /var/tmp xfs rw 0 0\nd / overlay rw 0 0\n";
    let of = |path: &str| limits::file_system(mounts, Path::new(path)).unwrap();
    assert_eq!([of("/var/tmp/x"), of("/var/t"), of("/home")], ["xfs", "tmpfs", "overlay"]);
    assert_eq!(limits::file_system("", Path::new("/")), None);
}
