//! Limits, on whatever cgroup layout there is.

use std::path::Path;
use std::time::Instant;

use tare_container::{
    CgroupError, CgroupLayout, CgroupStatistics, Container, CpuQuota, Error, Exit, Limits, Program,
    Spec,
};

use crate::support::{Bench, skip};

/// A spec with limits, ready; `None` after a loud skip where the machine has no such controller.
fn limited(test: &str, bench: &Bench, script: &str, limits: Limits) -> Option<Container> {
    let spec = Spec { limits, ..bench.shell(script) };
    match spec.prepare() {
        Ok(prepared) => Some(prepared.spawn().unwrap()),
        Err(Error::Cgroup(e @ (CgroupError::NotMounted | CgroupError::NoController { .. }))) => {
            skip(test, &e.to_string())
        }
        Err(e) => panic!("{e}"),
    }
}

fn finish(mut container: Container) -> (Exit, CgroupStatistics) {
    let paths = container.cgroup_paths();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.is_dir()));
    let exit = container.wait().unwrap();
    let statistics = container.cgroup().unwrap().unwrap();
    container.remove().unwrap();
    for path in paths {
        assert!(!path.exists(), "{} is left", path.display());
    }
    (exit, statistics)
}

#[test]
fn test_without_limits_no_cgroup_is_made() {
    let Some(bench) = Bench::new("test_without_limits_no_cgroup_is_made") else { return };
    let container = bench.shell("true").prepare().unwrap().spawn().unwrap();
    assert!(container.cgroup_paths().is_empty());
    assert_eq!(container.cgroup().unwrap(), None);
}

#[test]
fn test_memory_limit_kills() {
    let test = "test_memory_limit_kills";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    // tail keeps all it reads of a line without end.
    let script = "tail -n 1 /dev/zero; exit 5";
    let Some(container) = limited(test, &bench, script, limits) else { return };
    let (exit, statistics) = finish(container);
    // The shell is spared and finds its child dead, or is chosen itself.
    assert!([5, 137].contains(&exit.shell_status()), "{exit:?}");
    assert!(statistics.oom_kills.is_some_and(|kills| kills >= 1), "{statistics:?}");
    if let Some(peak) = statistics.memory_peak_bytes {
        assert!((8 << 20..=16 << 20).contains(&peak), "{statistics:?}");
    }
}

#[test]
fn test_memory_limit_spares_who_keeps_to_it() {
    let test = "test_memory_limit_spares";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let script = "head -c 4000000 /dev/zero | tail -n 1 | wc -c | grep -q 4000000";
    let Some(container) = limited(test, &bench, script, limits) else { return };
    let (exit, statistics) = finish(container);
    assert!(exit.success(), "{exit:?}");
    assert_eq!(statistics.oom_kills, Some(0));
}

#[test]
fn test_pids_limit_stops_forks() {
    let test = "test_pids_limit_stops_forks";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { pids: Some(5), ..Limits::default() };
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; exit 0";
    let Some(container) = limited(test, &bench, script, limits) else { return };
    let (exit, statistics) = finish(container);
    // The shell gives up at the fork that fails.
    assert!(!exit.success(), "{exit:?}");
    assert!(statistics.pids_refused.is_some_and(|n| n >= 1), "{statistics:?}");
    assert_eq!(statistics.pids_current, Some(0));
}

#[test]
fn test_cpu_quota_throttles() {
    let test = "test_cpu_quota_throttles";
    let Some(bench) = Bench::new(test) else { return };
    let cpu = Some(CpuQuota { quota_us: 10_000, period_us: 100_000 });
    let limits = Limits { cpu, ..Limits::default() };
    let script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
    let begin = Instant::now();
    let Some(container) = limited(test, &bench, script, limits) else { return };
    let (exit, statistics) = finish(container);
    assert!(exit.success());
    assert!(statistics.cpu_throttled_periods.is_some_and(|n| n >= 1), "{statistics:?}");
    assert!(statistics.cpu_throttled_us.is_some_and(|us| us > 0), "{statistics:?}");
    // A tenth of a processor: the wall clock runs much faster than the box.
    let used_us = exit.usage.user_us + exit.usage.system_us;
    assert!(begin.elapsed().as_micros() as u64 > 3 * used_us, "{used_us} µs used");
}

#[test]
fn test_accounting_alone_counts_memory() {
    let test = "test_accounting_alone_counts_memory";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { accounting: true, ..Limits::default() };
    let script = "head -c 30000000 /dev/zero | tail -n 1 | wc -c";
    let Some(container) = limited(test, &bench, script, limits) else { return };
    let (_, statistics) = finish(container);
    if let Some(peak) = statistics.memory_peak_bytes {
        assert!(peak > 20_000_000, "{statistics:?}");
    }
}

#[test]
fn test_box_sees_its_cgroup_as_root() {
    let test = "test_box_sees_its_cgroup_as_root";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { memory_bytes: Some(64 << 20), pids: Some(9), ..Limits::default() };
    let unified = matches!(CgroupLayout::detect(), Ok(CgroupLayout::V2 { .. }));
    let prefix = if unified { "0::" } else { "memory:" };
    let script = format!("grep -q '{prefix}/$' /proc/self/cgroup");
    let Some(container) = limited(test, &bench, &script, limits) else { return };
    assert!(finish(container).0.success());
}

#[test]
fn test_box_is_born_in_its_cgroup_with_the_limits_asked() {
    let test = "test_box_is_born_in_its_cgroup";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits {
        memory_bytes: Some(32 << 20),
        cpu: Some(CpuQuota { quota_us: 50_000, period_us: 100_000 }),
        pids: Some(11),
        accounting: false,
    };
    let Some(container) = limited(test, &bench, "sleep 100", limits) else { return };
    let paths = container.cgroup_paths();
    let read = |directory: &Path, file: &str| {
        std::fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_owned()
    };
    let layout = CgroupLayout::detect().unwrap();
    for path in &paths {
        assert_eq!(read(path, "cgroup.procs"), container.pid().to_string());
    }
    let found = |file: &str, value: &str| paths.iter().any(|path| read(path, file) == value);
    assert!(found("pids.max", "11"));
    if let CgroupLayout::V2 { .. } = layout {
        assert_eq!(paths.len(), 1);
        assert!(found("memory.max", "33554432"));
        assert!(found("cpu.max", "50000 100000"));
    } else if !layout.v1().is_empty() {
        assert!(found("memory.limit_in_bytes", "33554432") || found("memory.max", "33554432"));
        assert!(found("cpu.cfs_quota_us", "50000") || found("cpu.max", "50000 100000"));
    }
    container.remove().unwrap();
}

#[test]
fn test_impossible_limit_returns_limit_refused() {
    let Some(bench) = Bench::new("test_impossible_limit") else { return };
    let cpu = Some(CpuQuota { quota_us: 1, period_us: 100_000 });
    let limits = Limits { cpu, ..Limits::default() };
    match (Spec { limits, ..bench.shell("") }).prepare().and_then(|p| p.spawn().map(drop)) {
        Err(Error::Cgroup(CgroupError::LimitRefused { path, .. })) => {
            assert!(path.to_string_lossy().contains("/tare/tare-"), "{}", path.display());
        }
        Err(Error::Cgroup(CgroupError::NotMounted | CgroupError::NoController { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn test_limited_boxes_start_from_many_threads_at_once() {
    let test = "test_limited_boxes_start_from_many_threads_at_once";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { memory_bytes: Some(64 << 20), pids: Some(8), ..Limits::default() };
    let Some(first) = limited(test, &bench, "exit 0", limits) else { return };
    let prepared = Spec { limits, ..bench.shell("exit 4") }.prepare().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let (exit, _) = finish(prepared.spawn().unwrap());
                    assert_eq!(exit.shell_status(), 4);
                }
            });
        }
    });
    finish(first);
}

#[test]
fn test_plain_process_with_limits_leaves_no_child_behind() {
    let test = "test_plain_process_with_limits_leaves_no_child_behind";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { pids: Some(8), ..Limits::default() };
    let Some(probe) = limited(test, &bench, "exit 0", limits) else { return };
    finish(probe);
    let program = Program::command(bench.rootfs().join("bin/sh"));
    let spec = Spec::process(program).args(["sh", "-c", "sleep 1004 & exit 6"]);
    let mut container = Spec { limits, ..spec }.prepare().unwrap().spawn().unwrap();
    assert_eq!(container.wait().unwrap().shell_status(), 6);
    // Without a pid namespace the background process lives on, in the cgroup.
    assert_eq!(container.cgroup().unwrap().unwrap().pids_current, Some(1));
    finish(container);
}
