//! What the kernel does with memory behind the boxes' backs.

use super::Source;
use super::probe::{Finding, Probe};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Less memory than this and guests of 128 MiB crowd out what is cached.
const ROOM_KIB: u64 = 1 << 20;

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "memory",
        title: "memory",
        distorts: "a machine that does not show its memory cannot be weighed",
        amount: "",
        remedy: "mount /proc",
        find: |source| {
            let value = source.field("/proc/meminfo", "MemTotal");
            Finding::note_if(value.is_none(), value)
        },
    },
    Probe {
        id: "memory_available",
        title: "memory available",
        distorts: "the kernel reclaims memory while boxes run, and drops the pages that were to be warm",
        amount: "",
        remedy: "stop what uses the memory, or measure with a smaller --memory-mib",
        find: |source| {
            let value = source.field("/proc/meminfo", "MemAvailable");
            Finding::warn_if(kib(source, "MemAvailable").is_some_and(|kib| kib < ROOM_KIB), value)
        },
    },
    Probe {
        id: "overcommit",
        title: "memory overcommit",
        distorts: "guest RAM counts as used when it is mapped, not when it is touched: launches are refused long before \
                   memory is used up, and density means nothing",
        amount: "",
        remedy: "sysctl vm.overcommit_memory=0",
        find: |source| {
            let mode = source.text("/proc/sys/vm/overcommit_memory");
            let limit = source.field("/proc/meminfo", "CommitLimit");
            let amount = limit.map(|limit| format!("no more than {limit} can be mapped in all"));
            Finding::warn_if(mode.as_deref() == Some("2"), mode).by(amount)
        },
    },
    Probe {
        id: "thp",
        title: "transparent huge pages",
        distorts: "guest RAM is faulted in by 4 KiB: a microVM boots slower",
        amount: "512 faults instead of one for each 2 MiB that a guest touches: several milliseconds of a boot",
        remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        find: |source| {
            let choice = source.choice(&format!("{THP}/enabled"));
            Finding::warn_if(choice.as_deref() == Some("never"), choice)
        },
    },
    Probe {
        id: "thp_defrag",
        title: "huge page defragmentation",
        distorts: "the first touch of memory may wait until the kernel has moved pages to make a huge one",
        amount: "",
        remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/defrag",
        find: |source| {
            let choice = source.choice(&format!("{THP}/defrag"));
            Finding::warn_if(choice.as_deref() == Some("always"), choice)
        },
    },
    Probe {
        id: "compaction",
        title: "proactive compaction",
        distorts: "the kernel moves pages in the background, and takes CPU time and cache for it",
        amount: "",
        remedy: "sysctl vm.compaction_proactiveness=20, the kernel's default, or 0",
        find: |source| {
            let value = source.text("/proc/sys/vm/compaction_proactiveness");
            let is_eager = value.as_deref().and_then(|text| text.parse::<u64>().ok()) > Some(20);
            Finding::note_if(is_eager, value)
        },
    },
    Probe {
        id: "ksm",
        title: "same-page merging (KSM)",
        distorts: "equal pages of many guests become one: memory shrinks while it is weighed, and ksmd takes CPU time",
        amount: "",
        remedy: "echo 2 > /sys/kernel/mm/ksm/run",
        find: |source| {
            let run = source.text("/sys/kernel/mm/ksm/run");
            let shared = source.text("/sys/kernel/mm/ksm/pages_sharing");
            let pages = shared.and_then(|text| text.parse::<u64>().ok());
            let amount = pages.map(|pages| format!("{} MiB are merged now", pages * 4 / 1024));
            let value = run.as_deref().map(|run| if run == "1" { "on" } else { "off" }.to_owned());
            Finding::warn_if(run.as_deref() == Some("1"), value).by(amount)
        },
    },
    Probe {
        id: "swap",
        title: "swap",
        distorts: "memory that was swapped out is missing from resident sizes",
        amount: "",
        remedy: "swapoff -a for the time of the run",
        find: |source| {
            let total = source.field("/proc/meminfo", "SwapTotal");
            let used = kib(source, "SwapTotal").zip(kib(source, "SwapFree"));
            let amount = used.map(|(total, free)| {
                format!("{} MiB are swapped out now", (total.saturating_sub(free)) / 1024)
            });
            Finding::note_if(total.as_deref().is_some_and(|text| text != "0 kB"), total).by(amount)
        },
    },
    Probe {
        id: "zswap",
        title: "zswap",
        distorts: "pages that were swapped out stay in memory, compressed, in nobody's resident size",
        amount: "",
        remedy: "echo N > /sys/module/zswap/parameters/enabled",
        find: |source| {
            let value = source.text("/sys/module/zswap/parameters/enabled");
            let has_swap = kib(source, "SwapTotal").is_some_and(|kib| kib > 0);
            Finding::note_if(has_swap && value.as_deref() == Some("Y"), value)
        },
    },
    Probe {
        id: "numa_balancing",
        title: "NUMA balancing",
        distorts: "the kernel unmaps pages to see who uses them, and moves them between nodes during a run",
        amount: "",
        remedy: "sysctl kernel.numa_balancing=0, and numactl --cpunodebind=0 --membind=0 tare …",
        find: |source| {
            let nodes = source.text("/sys/devices/system/node/online");
            let nodes = nodes.as_deref().map_or(1, super::cpu::members);
            let is_on =
                source.text("/proc/sys/kernel/numa_balancing").is_some_and(|text| text != "0");
            let value =
                format!("{} ({nodes} node{})", if is_on { "on" } else { "off" }, plural(nodes));
            Finding::warn_if(is_on && nodes > 1, value)
        },
    },
];

pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A field of `/proc/meminfo`, in KiB.
fn kib(source: &Source, field: &str) -> Option<u64> {
    source.field("/proc/meminfo", field)?.strip_suffix(" kB")?.trim().parse().ok()
}
