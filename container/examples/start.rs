//! What a start costs, and what each part of it adds.
//!
//! `cargo run --release -p tare-container --example start -- [ROUNDS] [BUSYBOX]` (as root): every
//! variant is started ROUNDS times, interleaved, and the median from launch to exit is printed, and from launch to the beginning of the
//! program.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tare_container::{
    CpuQuota, Dev, Floor, Limits, Namespaces, Prepared, Proc, Program, Rootfs, SeccompFilter, Spec,
};

/// Rounds that are not counted.
const WARM_UP: usize = 10;

/// One row of the table.
struct Variant {
    name: &'static str,
    /// Runs it once; when its program had begun, if that can be told.
    run: Box<dyn Fn() -> Result<Option<Instant>, tare_container::Error>>,
    spawn_ns: Vec<u64>,
    total_ns: Vec<u64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let busybox = PathBuf::from(arguments.next().unwrap_or_else(|| "/bin/busybox".into()));
    let root = std::env::temp_dir().join(format!("tare-start-{}", std::process::id()));
    make_rootfs(&root, &busybox)?;
    let mut variants = variants(&root, &busybox)?;
    for round in 0..rounds + WARM_UP {
        for variant in &mut variants {
            let begin = Instant::now();
            let begun = (variant.run)()?;
            let total = begin.elapsed();
            if round >= WARM_UP {
                variant.total_ns.push(total.as_nanos() as u64);
                variant.spawn_ns.extend(begun.map(|at| (at - begin).as_nanos() as u64));
            }
        }
    }
    println!(
        "{:48} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "ms", "begun", "p10", "", "ended", "p10", "p90"
    );
    for variant in &mut variants {
        let (begun, ended) = (&mut variant.spawn_ns, &mut variant.total_ns);
        println!(
            "{:48} {:8.3} {:8.3} {:8} {:8.3} {:8.3} {:8.3}",
            variant.name,
            percentile_ms(begun, 50),
            percentile_ms(begun, 10),
            "",
            percentile_ms(ended, 50),
            percentile_ms(ended, 10),
            percentile_ms(ended, 90),
        );
    }
    drop(variants);
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

fn percentile_ms(samples_ns: &mut [u64], percent: usize) -> f64 {
    samples_ns.sort_unstable();
    let index = samples_ns.len() * percent / 100;
    samples_ns.get(index).copied().unwrap_or(0) as f64 / 1e6
}

fn make_rootfs(root: &Path, busybox: &Path) -> std::io::Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::copy(busybox, root.join("bin/true"))?;
    std::fs::set_permissions(root.join("bin/true"), std::fs::Permissions::from_mode(0o755))
}

fn variants(root: &Path, busybox: &Path) -> Result<Vec<Variant>, Box<dyn std::error::Error>> {
    let mut all = Vec::new();
    for (name, namespaces) in [
        ("floor: vfork, exec, wait", Namespaces::NONE),
        ("floor: clone3 all namespaces", Namespaces::ALL),
        ("floor: clone3 all but net", Namespaces::ALL.without(Namespaces::NET)),
    ] {
        let floor = Floor::new(File::open(busybox)?.into(), &["true".into()])?;
        let run = Box::new(move || floor.run(namespaces).map(|_| None));
        all.push(Variant { name, run, spawn_ns: Vec::new(), total_ns: Vec::new() });
    }
    let overlay = || Rootfs::Overlay { lower: vec![root.to_owned()], size_bytes: None };
    let command = || Program::command("/bin/true");
    let full = || Spec::container(overlay(), command()).args(["true"]);
    let bare = || Spec {
        proc: Proc::None,
        dev: Dev::None,
        sys: false,
        seccomp: None,
        capabilities: None,
        hostname: None,
        ..Spec::container(Rootfs::ReadOnly(root.to_owned()), command()).args(["true"])
    };
    let mut add = |name, spec: Spec| -> Result<(), tare_container::Error> {
        let prepared: Prepared = spec.prepare()?;
        if std::env::var_os("STEPS").is_some() {
            println!("{name}: {} steps", prepared.steps().count());
        }
        let run = Box::new(move || once(&prepared));
        all.push(Variant { name, run, spawn_ns: Vec::new(), total_ns: Vec::new() });
        Ok(())
    };
    add("process", Spec::process(Program::File(File::open(busybox)?.into())).args(["true"]))?;
    let program = Program::File(File::open(busybox)?.into());
    add("process, same session", Spec { session: false, ..Spec::process(program).args(["true"]) })?;
    add("bare: read-only root, all namespaces", bare())?;
    add("bare, bind root", Spec { rootfs: Rootfs::Bind(root.to_owned()), ..bare() })?;
    add("bare, overlay root", Spec { rootfs: overlay(), ..bare() })?;
    add(
        "bare, without net namespace",
        Spec { namespaces: Namespaces::ALL.without(Namespaces::NET), ..bare() },
    )?;
    add("bare + loopback", Spec { loopback: true, ..bare() })?;
    add("bare + hostname", Spec { hostname: Some("x".into()), ..bare() })?;
    add("bare + /proc full", Spec { proc: Proc::Full, ..bare() })?;
    add("bare + /proc processes only", Spec { proc: Proc::ProcessesOnly, ..bare() })?;
    add("bare + /proc masked", Spec { proc: Proc::Masked, ..bare() })?;
    add("bare + /dev minimal", Spec { dev: Dev::Minimal, ..bare() })?;
    add("bare + /dev full", Spec { dev: Dev::default(), ..bare() })?;
    add("bare + /sys", Spec { sys: true, ..bare() })?;
    add("bare + capabilities", Spec { capabilities: full().capabilities, ..bare() })?;
    add("bare + seccomp", Spec { seccomp: Some(SeccompFilter::standard()), ..bare() })?;
    add(
        "default, processes only, minimal /dev, no /sys",
        Spec { proc: Proc::ProcessesOnly, dev: Dev::Minimal, sys: false, ..full() },
    )?;
    add("default, read-only root", Spec { rootfs: Rootfs::ReadOnly(root.to_owned()), ..full() })?;
    add("default (overlay, everything)", full())?;
    add("default, same session", Spec { session: false, ..full() })?;
    if std::env::var_os("LIMITS").is_some() {
        add(
            "default + memory limit",
            Spec { limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() }, ..full() },
        )?;
        add(
            "default + memory, cpu, pids limits",
            Spec {
                limits: Limits {
                    memory_bytes: Some(64 << 20),
                    cpu: Some(CpuQuota { quota_us: 100_000, period_us: 100_000 }),
                    pids: Some(64),
                    accounting: false,
                },
                ..full()
            },
        )?;
    }
    Ok(all)
}

fn once(prepared: &Prepared) -> Result<Option<Instant>, tare_container::Error> {
    let mut container = prepared.spawn()?;
    let begun = Instant::now();
    let exit = container.wait()?;
    assert!(exit.success(), "{exit:?}");
    container.remove()?;
    Ok(Some(begun))
}
