//! MicroVMs that are copies of one: restored and cloned from the snapshot of a real Linux.

use std::path::PathBuf;
use std::time::Duration;

use crate::common::{among_labs, load_only, may_run, output, text};
use crate::lab::{has_lab, lab};
use tare::backend::{self, Assignment, Output};
use tare::guest_kernel;
use tare::harness::{Attendant, Conduct, density, replicate};
use tare::kit::{Choice, Kit};
use tare::results::{MemoryUsage, Status};
use tare_workload::{Channel, Job};

/// Runs the next test where there can be a microVM: this very program, in the lab.
#[test]
fn test_copies_of_a_microvm_are_each_their_own() {
    if !may_run("test_copies_of_a_microvm", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--program").arg(std::env::current_exe().unwrap());
    let inner = "copies::inside_the_lab_copies_run";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

/// Of the lab's kernel and root file system.
pub(crate) fn kit() -> Kit {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let kernel = path("TARE_KERNEL").map_or_else(Default::default, guest_kernel::Choice::File);
    Kit::new(Choice { kernel, rootfs: path("TARE_ROOTFS"), ..Choice::default() }).unwrap()
}

#[derive(Default)]
struct Ear(Vec<u8>);

impl Attendant for Ear {
    fn output(&mut self, is_stderr: bool, bytes: &[u8]) {
        assert!(!is_stderr, "{}", String::from_utf8_lossy(bytes));
        self.0.extend_from_slice(bytes);
    }
}

#[test]
#[ignore = "needs a host that can run microVMs: test_copies_of_a_microvm_are_each_their_own runs it"]
fn inside_the_lab_copies_run() {
    let kit = kit();
    let script = "head -c 16 /dev/urandom | md5sum; date +%s; cat /proc/uptime";
    let workload = tare_workload::find("run").unwrap();
    for (name, with) in
        [("microvm:snapshot", Output::Captured), ("microvm:clone", Output::Captured)]
    {
        let assignment = Assignment {
            with_rootfs: true,
            output: with,
            ..Assignment::new(Job {
                command: ["sh", "-c", script].map(str::to_owned).to_vec(),
                ..Job::new(Channel::Com1, workload.name())
            })
        };
        let prepared = backend::find(name).unwrap().prepare(&kit, &assignment).unwrap();
        // Long enough for a clock that stood still to be found out.
        std::thread::sleep(Duration::from_secs(3));
        let said: Vec<Vec<String>> = (0..2)
            .map(|_| {
                prepared.reset().unwrap();
                let mut ear = Ear::default();
                let timeout = Duration::from_secs(60);
                let conduct = Conduct { workload, weigh: false, timeout };
                replicate(prepared.as_ref(), conduct, &mut ear).unwrap();
                String::from_utf8(ear.0).unwrap().lines().map(str::to_owned).collect()
            })
            .collect();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(said[0][0], said[1][0], "{name}: the same random numbers");
        for said in &said {
            let age = now.as_secs().abs_diff(said[1].parse().unwrap());
            assert!(age <= 1, "{name}: its clock is {age} s off: {said:?}");
            // To the guest no time has passed while it was a file.
            let uptime: f64 = said[2].split(' ').next().unwrap().parse().unwrap();
            assert!(uptime < 2.0, "{name}: {said:?}");
        }
    }
}

const EVERY_MICROVM: &str = "microvm,microvm:pooled,microvm:snapshot,microvm:clone";

#[test]
fn test_every_workload_runs_in_copies_that_begin_sooner() {
    if !may_run("test_every_workload_runs_in_copies", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "compare", "--on", EVERY_MICROVM, "--workload", "probe,file"]);
    let shown = output(command.args(["--replicates", "1", "--warmups", "0"]));
    assert!(shown.status.success(), "{}", text(&shown));
    let results = load_only(&directory.path().join("results"));
    for cell in &results.cells {
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        assert!(cell.failures.is_empty(), "{}: {:?}", cell.title(), cell.failures);
    }
    let median = |backend: &str, metric: &str| {
        let mut cells = results.cells.iter();
        let cell = cells.find(|cell| cell.backend == backend && cell.workload == "probe");
        cell.unwrap().summary(metric).unwrap().median.value
    };
    let init_ns = |backend: &str| median(backend, "launch_to_init_ns");
    let enter_ns = |backend: &str| median(backend, "launch_to_enter_ns");
    let ratio = enter_ns("microvm:pooled") / enter_ns("microvm");
    assert!(ratio <= 0.5, "filled memory leaves {ratio} of a launch's time to enter");
    let ratio = init_ns("microvm:pooled") / init_ns("microvm");
    assert!(ratio <= 0.85, "filled memory leaves {ratio} of a boot's time to init");
    for backend in ["microvm:snapshot", "microvm:clone"] {
        let ratio = init_ns(backend) / init_ns("microvm");
        assert!(ratio <= 0.3, "{backend} takes {ratio} of a boot's time to init");
    }
}

#[test]
fn test_a_hundred_clones_are_light() {
    if !may_run("test_a_hundred_clones_are_light", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--program").arg(std::env::current_exe().unwrap());
    let inner = "copies::inside_the_lab_a_hundred_clones_live";
    let shown = output(command.args(["--", "--ignored", "--exact", inner, "--nocapture"]));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
}

#[test]
#[ignore = "needs a host that can run microVMs: test_a_hundred_clones_are_light runs it"]
fn inside_the_lab_a_hundred_clones_live() {
    let kit = kit();
    let assignment = Assignment::new(Job { hold_ms: 600_000, ..Job::new(Channel::Com1, "start") });
    let prepared = backend::find("microvm:clone").unwrap().prepare(&kit, &assignment).unwrap();
    let found = density(prepared.as_ref(), 100, Duration::from_secs(60)).unwrap();
    println!("{} bytes each", found.each_bytes());
    for (name, what, bytes) in &found.parts {
        println!("{:>9} {name}: {what}", bytes / i64::from(found.count));
    }
    let mean = |of: fn(&MemoryUsage) -> u64| {
        found.boxes.iter().map(of).sum::<u64>() / u64::from(found.count)
    };
    println!("{:>9} private dirty of the VMM", mean(|usage| usage.private_dirty_bytes));
    println!("{:>9} guest RAM touched", mean(|usage| usage.guest_ram_touched_bytes.unwrap()));
    assert_eq!(found.boxes.len(), 100);
    assert!((64 << 10..1536 << 10).contains(&found.each_bytes()), "{}", found.each_bytes());
}

/// All of `tare snapshot`, in one lab.
#[test]
fn test_snapshots_are_kept_checked_restored_and_removed() {
    if !may_run("test_snapshots_are_kept", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let tare = assert_cmd::cargo::cargo_bin!("tare");
    let script = format!(
        "try() {{ name=$1; shift; {tare} snapshot \"$@\" >/tmp/said 2>&1; \
           echo \"$name: exit $?: $(tr '\\n' ' ' </tmp/said)\"; rm /tmp/said; }}
         cd /tmp; before=$(cat /proc/mounts; ls -a $TMPDIR; ls /sys/fs/cgroup)
         try create create kept
         try twice create kept
         try ls ls --json .
         try inspect inspect kept
         try verify verify kept
         try restore restore kept -- sh -c 'echo \"this is $(cat /proc/sys/kernel/hostname)\"; exit 3'
         try another restore kept -- sh -c 'touch /mark && ls /mark'
         try fresh restore kept -- ls /mark
         try missing restore kept -- /no/such
         cp -a kept damaged; echo x | dd of=damaged/snapshot/memory bs=1 seek=16777216 conv=notrunc 2>/dev/null
         try damaged verify damaged
         mv kept/snapshot/state kept/snapshot/state.partial
         try unfinished restore kept -- true
         mv kept/snapshot/state.partial kept/snapshot/state
         sed -i 's/quiet/quiet x=1/' damaged/machine.json
         try different restore damaged -- true
         touch damaged/mine; try mine rm damaged; rm damaged/mine
         try rm rm kept damaged
         [ \"$before\" = \"$(cat /proc/mounts; ls -a $TMPDIR; ls /sys/fs/cgroup)\" ] && echo clean; ls",
        tare = tare.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--with").arg(tare).args(["--program", "/bin/busybox", "--", "sh", "-c", &script]);
    let shown = output(&mut command);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    for (name, code, word) in [
        ("create", 0, "bytes of memory"),
        ("twice", 1, "File exists"),
        ("ls", 0, "\"memory_bytes\": 134217728"),
        ("inspect", 0, "128 MiB"),
        ("verify", 0, "whole"),
        ("restore", 3, "this is"),
        ("another", 0, "/mark"),
        ("fresh", 1, "No such file"),
        ("missing", 4, "/no/such"),
        ("damaged", 1, "checksum"),
        ("unfinished", 1, "not finished"),
        ("different", 1, "command line"),
        ("mine", 1, "mine is in it"),
        ("rm", 0, ""),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("{name}: ")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing: {}", text(&shown)));
        assert!(line.starts_with(&format!("{name}: exit {code}: ")), "{line}");
        assert!(line.contains(word), "'{word}' is missing: {line}");
    }
    assert!(said.lines().any(|line| line == "clean"), "{}", text(&shown));
    assert!(!said.lines().any(|line| line == "kept" || line == "damaged"), "{}", text(&shown));
}
