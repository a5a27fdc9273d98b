//! Nothing is left behind: not after an orderly end, not after an error, not after `kill -9`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tare_container::{CgroupError, Error, Limits, Program, Spec, sweep};

use crate::support::{Bench, skip};

/// Set for the helper process; its value is the directory of a root file system.
const HELPER: &str = "TARE_TEST_HELPER_ROOTFS";

const LIMITS: Limits =
    Limits { memory_bytes: Some(64 << 20), cpu: None, pids: Some(32), accounting: false };

/// Everything that a run could leave on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: String,
    cgroups: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    temporary: BTreeSet<String>,
    descriptors: usize,
    children: BTreeSet<String>,
}

impl Machine {
    fn now() -> Machine {
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), 0, &mut cgroups);
        Machine {
            mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            cgroups: cgroups.into_iter().filter(|path| path.contains("tare")).collect(),
            namespaces: box_namespaces(),
            temporary: names(&std::env::temp_dir())
                .into_iter()
                .filter(|name| name.contains("tare-"))
                .collect(),
            descriptors: names(Path::new("/proc/self/fd")).len(),
            children: own_children(),
        }
    }

    /// The kernel takes namespaces down after the last process has gone: wait for that.
    fn settles_to(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = Machine::now();
            if now == *self {
                return;
            }
            if Instant::now() > deadline {
                assert_eq!(now, *self);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn walk(directory: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth < 12 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path().to_string_lossy().into_owned());
            walk(&entry.path(), depth + 1, found);
        }
    }
}

/// Namespaces of processes whose host name is that of a box.
fn box_namespaces() -> BTreeSet<String> {
    let own = std::fs::read_link("/proc/self/ns/uts").unwrap();
    let mut found = BTreeSet::new();
    for pid in names(Path::new("/proc")).iter().filter(|n| n.parse::<u32>().is_ok()) {
        let namespace = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if namespace("uts").is_some_and(|uts| uts != own) && command.contains("sleep\x001004") {
            for kind in ["pid", "mnt", "uts", "ipc", "cgroup", "net"] {
                found.extend(namespace(kind).map(|link| link.to_string_lossy().into_owned()));
            }
        }
    }
    found
}

fn own_children() -> BTreeSet<String> {
    names(Path::new("/proc/self/task"))
        .iter()
        .flat_map(|task| {
            std::fs::read_to_string(format!("/proc/self/task/{task}/children"))
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether limits can be asked for on this machine.
fn cgroups_usable(test: &str, bench: &Bench) -> Option<()> {
    match (Spec { limits: LIMITS, ..bench.shell("") }).prepare() {
        Ok(_) => Some(()),
        Err(Error::Cgroup(e @ (CgroupError::NotMounted | CgroupError::NoController { .. }))) => {
            skip(test, &e.to_string())
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn test_orderly_and_failed_starts_leave_nothing() {
    let test = "test_orderly_and_failed_starts_leave_nothing";
    let Some(bench) = Bench::new(test) else { return };
    let before = Machine::now();
    let limits = if cgroups_usable(test, &bench).is_some() { LIMITS } else { Limits::default() };
    {
        let good = Spec { limits, ..bench.shell("sleep 1004 & true") }.prepare().unwrap();
        let program = Program::command("/absent");
        let bad = Spec { limits, program, ..bench.shell("") }.prepare().unwrap();
        let cwd = Spec { limits, cwd: "/absent".into(), ..bench.shell("") }.prepare().unwrap();
        for _ in 0..10 {
            assert!(good.spawn().unwrap().wait().unwrap().success());
            drop(good.spawn().unwrap());
            good.spawn().unwrap().remove().unwrap();
            bad.spawn().unwrap_err();
            cwd.spawn().unwrap_err();
        }
    }
    before.settles_to();
}

/// Not a test of its own: the process that is killed below.
#[test]
#[ignore = "run by test_killed_run_is_swept in a process of its own"]
fn helper_starts_boxes_and_waits() {
    let Some(rootfs) = std::env::var_os(HELPER) else { return };
    let rootfs = tare_container::Rootfs::Overlay { lower: vec![rootfs.into()], size_bytes: None };
    let spec = Spec::container(rootfs, Program::command("sh")).args([
        "sh",
        "-c",
        "sleep 1004 & sleep 1004",
    ]);
    let prepared = Spec { limits: LIMITS, ..spec }.prepare().unwrap();
    let boxes: Vec<_> = (0..3).map(|_| prepared.spawn().unwrap()).collect();
    println!("\nHELPER READY {}", boxes[0].cgroup_paths()[0].display());
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn test_killed_run_is_swept() {
    let test = "test_killed_run_is_swept";
    let Some(bench) = Bench::new(test) else { return };
    if cgroups_usable(test, &bench).is_none() {
        return;
    }
    sweep().unwrap();
    let before = Machine::now();
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "leftovers::helper_starts_boxes_and_waits"])
        .env(HELPER, bench.rootfs())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let cgroup = BufReader::new(helper.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("HELPER READY ").map(str::to_owned))
        .unwrap();
    // What lives is left alone.
    assert_eq!(sweep().unwrap().removed, Vec::<std::path::PathBuf>::new());
    assert!(Path::new(&cgroup).is_dir());
    assert!(!box_namespaces().is_empty());
    helper.kill().unwrap();
    helper.wait().unwrap();
    let swept = sweep().unwrap();
    // Three boxes and the run's keeper, in one or more hierarchies.
    assert!(swept.removed.len() >= 4 && swept.removed.len().is_multiple_of(4), "{swept:?}");
    assert!(swept.removed.contains(&cgroup.into()), "{swept:?}");
    assert_eq!(swept.undecided, Vec::<std::path::PathBuf>::new());
    before.settles_to();
}

/// Not a test of its own: sees all cgroups read-only.
#[test]
#[ignore = "run by test_read_only_cgroups in a process of its own"]
fn helper_with_read_only_cgroups() {
    let Some(rootfs) = std::env::var_os(HELPER) else { return };
    // SAFETY: only this process's view of mounts changes.
    let result = unsafe {
        libc::unshare(libc::CLONE_NEWNS)
            | libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
    };
    assert_eq!(result, 0);
    let layout = tare_container::CgroupLayout::detect().unwrap();
    for mount in layout.v1().iter().chain(layout.unified()) {
        let path = std::ffi::CString::new(mount.path.to_str().unwrap()).unwrap();
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        // SAFETY: a valid path; as above.
        let result = unsafe {
            libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null())
        };
        assert_eq!(result, 0);
    }
    let rootfs = tare_container::Rootfs::ReadOnly(rootfs.into());
    let spec = Spec::container(rootfs, Program::command("true")).args(["true"]);
    let error = Spec { limits: LIMITS, ..spec }.prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup(CgroupError::NotWritable { .. })), "{error}");
    assert!(error.to_string().contains("/sys/fs/cgroup"), "{error}");
    assert!(error.to_string().contains("read-write"), "{error}");
}

#[test]
fn test_read_only_cgroups_return_not_writable() {
    let test = "test_read_only_cgroups_return_not_writable";
    let Some(bench) = Bench::new(test) else { return };
    if cgroups_usable(test, &bench).is_none() {
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "leftovers::helper_with_read_only_cgroups"])
        .env(HELPER, bench.rootfs())
        .status()
        .unwrap();
    assert!(status.success());
}
