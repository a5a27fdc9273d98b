//! Synthetic results for tests: invented figures, in the shape of a real run.

use std::collections::BTreeMap;

use super::{
    Artifact, Better, Cell, Check, Clock, Edge, Failure, Floor, HostFacts, Level, MemoryUsage,
    MetricSamples, Results, Sample, Schedule, Status, Tool,
};
use crate::statistics::Rng;

/// Invented, as every figure here.
const SEED: u64 = 7;
const BLOCKS: u32 = 8;

/// A run of process, container, microvm and qemu, the last of which cannot run; one cell failed
/// and one replicate hung. Summaries are made; verdicts are not.
pub(crate) fn synthetic(clock: Clock) -> Results {
    let mut results = Results {
        tool: Tool {
            version: "0.0.0-synthetic".to_owned(),
            command: ["tare", "compare", "--out", "a dir"].map(str::to_owned).to_vec(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        },
        created: "2026-01-02T03:04:05Z".to_owned(),
        clock,
        seed: SEED,
        schedule: Schedule { warmup_blocks: 1, gap_ns: 0, timeout_ns: 60_000_000_000, stop: None },
        host: host(),
        artifacts: vec![
            Artifact {
                name: "guest kernel".to_owned(),
                version: "6.12.0-synthetic".to_owned(),
                bytes: 7_340_032,
                sha256: "ab".repeat(32),
            },
            Artifact {
                name: "agent".to_owned(),
                version: String::new(),
                bytes: 61_440,
                sha256: "cd".repeat(32),
            },
        ],
        floors: vec![
            floor("vfork+exec", "a static program that exits, from vfork to reaped", 180_000.0),
            floor("clone3+exec", "the same in all new namespaces", 520_000.0),
            floor("kvm", "a KVM guest of one instruction, from open to closed", 900_000.0),
        ],
        ..Results::default()
    };
    for backend in BACKENDS {
        for workload in WORKLOADS {
            let id = u32::try_from(results.cells.len()).unwrap();
            results.cells.push(cell(id, backend, workload));
        }
    }
    fail_some(&mut results.cells);
    results.order = order(&results.cells);
    results.summarise();
    results
}

struct Backend {
    name: &'static str,
    /// Launch to init.
    start_ns: f64,
    /// Cost of a file operation as a multiple of the process's.
    io: f64,
    pss_bytes: u64,
    ram_bytes: Option<u64>,
}

const BACKENDS: [&Backend; 4] = [
    &Backend { name: "process", start_ns: 240e3, io: 1.0, pss_bytes: 90 << 10, ram_bytes: None },
    &Backend { name: "container", start_ns: 810e3, io: 1.0, pss_bytes: 94 << 10, ram_bytes: None },
    &Backend {
        name: "microvm",
        start_ns: 41e6,
        io: 2.4,
        pss_bytes: 700 << 10,
        ram_bytes: Some(19 << 20),
    },
    &Backend {
        name: "qemu",
        start_ns: 98e6,
        io: 3.0,
        pss_bytes: 9 << 20,
        ram_bytes: Some(21 << 20),
    },
];

type Recipe = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str, f64)],
);

const FILE: &[(&str, &str, f64)] = &[
    ("seqread_bytes_per_s", "bytes/s", 3.1e9),
    ("randread_ns", "ns", 1_900.0),
    ("seqwrite_bytes_per_s", "bytes/s", 1.4e9),
    ("seqwrite_sync_bytes_per_s", "bytes/s", 0.6e9),
    ("randwrite_ns", "ns", 2_300.0),
    ("fsync_ns", "ns", 410_000.0),
    ("create_ns", "ns", 7_800.0),
    ("stat_ns", "ns", 900.0),
    ("unlink_ns", "ns", 6_100.0),
];

const WORKLOADS: [Recipe; 6] = [
    ("start", &[], &[]),
    ("start", &[("weighed", "idle")], &[]),
    (
        "cpu",
        &[],
        &[
            ("integer_ns", "ns", 2.31),
            ("float_ns", "ns", 84.2),
            ("sha256_bytes_per_s", "bytes/s", 0.41e9),
            ("read_bytes_per_s", "bytes/s", 9.7e9),
            ("write_bytes_per_s", "bytes/s", 6.3e9),
            ("copy_bytes_per_s", "bytes/s", 5.2e9),
            ("latency_ns", "ns", 88.0),
        ],
    ),
    ("file", &[("direct", "0")], FILE),
    ("file", &[("direct", "1")], FILE),
    ("probe", &[], &[("mark_ns", "ns", 1_200.0)]),
];

fn cell(id: u32, backend: &Backend, (workload, variant, metrics): Recipe) -> Cell {
    let variant: BTreeMap<String, String> =
        variant.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut cell = Cell {
        id,
        backend: backend.name.to_owned(),
        workload: workload.to_owned(),
        state: vec!["page cache of the host warm".to_owned()],
        prepare_ns: 3_200_000,
        ..Cell::default()
    };
    if backend.name == "qemu" {
        cell.status = Status::Unsupported {
            why: "qemu-system-x86_64 is not installed".to_owned(),
            remedy: "apt-get install qemu-system-x86".to_owned(),
        };
        cell.variant = variant;
        return cell;
    }
    let mut rng = Rng::for_purpose(SEED, &format!("{} {workload} {variant:?}", backend.name));
    let mut samples = (0..=BLOCKS).map(|block| {
        let mut sample = sample(block, backend, metrics, &mut rng);
        if variant.contains_key("weighed") {
            sample.memory = Some(memory(backend, &mut rng));
        }
        sample
    });
    cell.warmups = samples.by_ref().take(1).collect();
    cell.samples = samples.collect();
    cell.variant = variant;
    cell
}

/// Skewed as times are: never below the base, sometimes well above it.
fn skewed(base: f64, rng: &mut Rng) -> f64 {
    (base * (1.0 - 0.02 * (1.0 - rng.unit()).ln())).round()
}

fn sample(block: u32, backend: &Backend, metrics: &[(&str, &str, f64)], rng: &mut Rng) -> Sample {
    let mut sample = Sample { block, peak_rss_bytes: Some(3 << 20), ..Sample::default() };
    let init_ns = skewed(backend.start_ns, rng) as u64;
    let mut edges = vec![(Edge::Launch, 0), (Edge::Init, init_ns)];
    if backend.ram_bytes.is_some() {
        edges.extend([(Edge::Enter, init_ns / 9), (Edge::Kernel, init_ns / 8)]);
        sample.vm_exits = Some(BTreeMap::from([("io".to_owned(), 41), ("mmio".to_owned(), 3)]));
    }
    for (edge, after_ns) in
        [(Edge::Ready, 20e3), (Edge::Done, 30e3), (Edge::Exit, 150e3), (Edge::Clean, 200e3)]
    {
        edges.push((edge, init_ns + skewed(after_ns, rng) as u64));
    }
    edges.sort_by_key(|(edge, _)| *edge);
    let mut latest_ns = 0;
    for (edge, at_ns) in edges {
        latest_ns = latest_ns.max(at_ns);
        sample.edges_ns.insert(edge, latest_ns);
    }
    sample.metrics = metrics
        .iter()
        .map(|(name, unit, base)| reported(name, unit, *base, backend, rng))
        .collect();
    sample
}

fn reported(name: &str, unit: &str, base: f64, backend: &Backend, rng: &mut Rng) -> MetricSamples {
    let is_io = FILE.iter().any(|(candidate, ..)| *candidate == name);
    let factor = if is_io { backend.io } else { 1.0 };
    let (better, scale) =
        if unit == "bytes/s" { (Better::Higher, 1.0 / factor) } else { (Better::Lower, factor) };
    let draw = |rng: &mut Rng| (skewed(base * scale * 1e3, rng) / 1e3 * 10.0).round() / 10.0;
    MetricSamples {
        name: name.to_owned(),
        unit: unit.to_owned(),
        better,
        values: (0..3).map(|_| draw(rng)).collect(),
    }
}

fn memory(backend: &Backend, rng: &mut Rng) -> MemoryUsage {
    let pss_bytes = skewed(backend.pss_bytes as f64 / 1024.0, rng) as u64 * 1024;
    MemoryUsage {
        pss_bytes,
        private_dirty_bytes: pss_bytes / 2,
        rss_bytes: pss_bytes * 2,
        guest_ram_touched_bytes: backend.ram_bytes,
        system_delta_bytes: Some(i64::try_from(pss_bytes * 3).unwrap()),
        system_kernel_bytes: Some(i64::try_from(pss_bytes).unwrap()),
        system_page_cache_bytes: Some(4096),
    }
}

fn floor(name: &str, what: &str, base: f64) -> Floor {
    let mut rng = Rng::for_purpose(SEED, name);
    let samples_ns = (0..BLOCKS).map(|_| skewed(base, &mut rng) as u64).collect();
    Floor { name: name.to_owned(), what: what.to_owned(), samples_ns }
}

fn fail_some(cells: &mut [Cell]) {
    let hung = cells.iter_mut().find(|cell| cell.backend == "microvm").unwrap();
    hung.samples.pop();
    hung.failures
        .push(Failure { block: BLOCKS, why: "no end after 60 s; last edge: kernel".to_owned() });
    let is_broken = |cell: &&mut Cell| cell.title() == "process probe";
    let broken = cells.iter_mut().find(is_broken).unwrap();
    broken.samples.clear();
    broken.warmups.clear();
    let why = "the box said </script><b>\"no\"</b> & died".to_owned();
    broken.failures = vec![Failure { block: 0, why: why.clone() }];
    broken.status = Status::Failed { why };
}

fn order(cells: &[Cell]) -> Vec<u32> {
    let launches = cells.iter().flat_map(|cell| {
        vec![cell.id; cell.samples.len() + cell.warmups.len() + cell.failures.len()]
    });
    let mut order: Vec<u32> = launches.collect();
    Rng::new(SEED).shuffle(&mut order);
    order
}

fn host() -> HostFacts {
    HostFacts {
        kernel: "6.1.0-synthetic".to_owned(),
        cpu_model: "Synthetic CPU <1>".to_owned(),
        cpus: 2,
        memory_bytes: 8 << 30,
        virtualization: "bare metal, KVM by VMX".to_owned(),
        cgroup: "v2".to_owned(),
        clocksource: "tsc".to_owned(),
        checks: vec![
            Check {
                id: "governor".to_owned(),
                title: "CPU frequency governor".to_owned(),
                value: "powersave".to_owned(),
                level: Level::Warn,
                distorts: "short runs are measured at a low clock".to_owned(),
                amount: Some("up to 3.5 ×: 0.8 to 2.8 GHz here".to_owned()),
                remedy: Some("cpupower frequency-set -g performance".to_owned()),
            },
            Check {
                id: "clocksource".to_owned(),
                title: "Clock source".to_owned(),
                value: "tsc".to_owned(),
                ..Check::default()
            },
        ],
    }
}
