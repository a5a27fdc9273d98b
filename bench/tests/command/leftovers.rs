//! A microVM leaves nothing: not after hundreds of rounds, and not where it or the harness is killed
//! at any moment. The guests are of a few instructions, so that this machine's /dev/kvm will do;
//! their VMM is the one that boots Linux, in its jail.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare::backend::{self, Assignment, Instance, Prepared};
use tare::guest_kernel;
use tare::kit::{Choice, Kit};
use tare_workload::{Channel, Job};
use tempfile::NamedTempFile;

use crate::common::{alone, is_root, may_run, output, tare, text};

#[path = "../../../vmm/tests/bare/guest.rs"]
#[expect(dead_code, reason = "the VMM's own tests use the rest")]
mod guest;

/// mov al, 0xfe; out 0x64, al: a guest that ends at once.
const RESET: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];
/// jmp to itself: one that never does.
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// Set for what other tests of this file run as a process of their own: a VMM is forked from a
/// process of one thread.
const INSIDE: &str = "TARE_TEST_INSIDE";
/// How long what was killed may take to go.
const PATIENCE: Duration = Duration::from_secs(20);

fn has_jails(test: &str) -> bool {
    may_run(test, "root and /dev/kvm", is_root() && Path::new("/dev/kvm").exists())
}

/// This very program, for one of the tests below that are not run by themselves.
fn inside(test: &str, temporary: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", test, "--test-threads=1", "--nocapture"]);
    command.env(INSIDE, "1").env("TMPDIR", temporary);
    command
}

fn kit(kernel: &NamedTempFile) -> Kit {
    let kernel = guest_kernel::Choice::File(kernel.path().to_owned());
    Kit::new(Choice { kernel, ..Choice::default() }).unwrap()
}

fn prepare(kit: &Kit) -> Box<dyn Prepared> {
    let assignment =
        Assignment { memory_mib: 16, ..Assignment::new(Job::new(Channel::Com1, "start")) };
    let prepared = backend::find("microvm").unwrap().prepare(kit, &assignment).unwrap();
    assert!(prepared.state().iter().any(|line| line.contains("jailed")), "{:?}", prepared.state());
    prepared
}

/// Waits for the end of an instance, and gives back what it held.
fn end(mut instance: Box<dyn Instance>) {
    let mut fds = [PollFd::new(instance.pidfd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(60_000_u16)).unwrap(), 1, "it does not end");
    instance.reap().unwrap();
    instance.clean().unwrap();
}

/// Moments of less than so many microseconds, at random.
fn moments(limit_us: u64) -> impl Iterator<Item = Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut state = now.as_nanos() as u64 | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_micros(state % limit_us)
    })
}

/// What a process of the harness has.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: BTreeSet<String>,
    threads: usize,
    mounts: usize,
    children: String,
    cgroups: BTreeSet<String>,
}

impl Holdings {
    fn now() -> Holdings {
        let pid = std::process::id();
        Holdings {
            descriptors: names("/proc/self/fd"),
            threads: names("/proc/self/task").len(),
            mounts: lines("/proc/self/mountinfo"),
            children: fs::read_to_string(format!("/proc/self/task/{pid}/children")).unwrap(),
            cgroups: cgroups_of(&format!("{pid}")),
        }
    }
}

fn lines(path: &str) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

/// How many mappings this process has. The allocator's come and go by themselves: no leak of each
/// round is so small.
fn mappings() -> usize {
    lines("/proc/self/maps")
}
const MAPPINGS_LEEWAY: usize = 20;

fn names(directory: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The cgroups of boxes of a process.
fn cgroups_of(pid: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(directory) = directories.pop() {
        for name in names(&directory) {
            let path = directory.join(&name);
            if !path.is_dir() {
                continue;
            }
            if directory.ends_with("tare") && name.split(['-', '.']).any(|part| part == pid) {
                found.insert(path.to_string_lossy().into_owned());
            }
            directories.push(path);
        }
    }
    found
}

#[test]
fn test_500_rounds_of_a_jailed_microvm_leak_nothing() {
    if has_jails("test_500_rounds_of_a_jailed_microvm_leak_nothing") {
        succeed("leftovers::inside_500_rounds");
    }
}

#[test]
fn test_jailed_vmm_killed_at_any_moment_leaves_nothing() {
    if has_jails("test_jailed_vmm_killed_at_any_moment_leaves_nothing") {
        succeed("leftovers::inside_killed_vmms");
    }
}

fn succeed(test: &str) {
    let _guard = alone();
    let temporary = tempfile::tempdir().unwrap();
    let shown = output(&mut inside(test, temporary.path()));
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("1 passed"), "{}", text(&shown));
    assert_eq!(names(temporary.path()), BTreeSet::new());
}

#[test]
#[ignore = "a test above runs it as a process of one thread"]
fn inside_500_rounds() {
    let kernel = guest::kernel(&RESET);
    let kit = kit(&kernel);
    let prepared = prepare(&kit);
    let rounds = |count| (0..count).for_each(|_| end(prepared.launch().unwrap()));
    rounds(5);
    let (before, mapped) = (Holdings::now(), mappings());
    rounds(500);
    assert_eq!(Holdings::now(), before);
    assert!(mappings() < mapped + MAPPINGS_LEEWAY, "{} of {mapped}", mappings());
}

#[test]
#[ignore = "a test above runs it as a process of one thread"]
fn inside_killed_vmms() {
    let kernel = guest::kernel(&SPIN);
    let kit = kit(&kernel);
    let prepared = prepare(&kit);
    let (mut before, mapped) = (None, mappings());
    // The way to the guest takes less than a millisecond on an idle machine.
    for moment in moments(3000).take(100) {
        let mut instance = prepared.launch().unwrap();
        thread::sleep(moment);
        instance.kill();
        end(instance);
        let now = Holdings::now();
        assert_eq!(&now, before.get_or_insert_with(Holdings::now), "killed after {moment:?}");
    }
    assert!(mappings() < mapped + MAPPINGS_LEEWAY, "{} of {mapped}", mappings());
}

/// Launches microVMs that end at once and others that do not, until the end of the world.
#[test]
#[ignore = "the next test runs it, and kills it"]
fn inside_a_harness_to_be_killed() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let kernels = [guest::kernel(&RESET), guest::kernel(&SPIN)];
    let kits = kernels.each_ref().map(kit);
    let [brief, endless] = kits.each_ref().map(prepare);
    println!("\nready");
    loop {
        end(brief.launch().unwrap());
        let mut instance = endless.launch().unwrap();
        thread::sleep(Duration::from_millis(1));
        instance.kill();
        end(instance);
    }
}

#[test]
fn test_harness_killed_at_any_moment_leaves_nothing_that_the_next_run_does_not_remove() {
    if !has_jails("test_harness_killed_at_any_moment") {
        return;
    }
    let _guard = alone();
    let helper = "leftovers::inside_a_harness_to_be_killed";
    let temporary = tempfile::tempdir().unwrap();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut pids = Vec::new();
    for moment in moments(20_000).take(30) {
        let mut run = inside(helper, temporary.path()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(run.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "it got nowhere");
        thread::sleep(moment);
        run.kill().unwrap();
        run.wait().unwrap();
        pids.push(run.id().to_string());
        // Its VMMs are forks of it and have its command line.
        let deadline = Instant::now() + PATIENCE;
        while lives(helper) {
            assert!(Instant::now() < deadline, "a VMM outlives its harness, killed at {moment:?}");
            thread::sleep(Duration::from_millis(5));
        }
        let place = temporary.path().to_string_lossy().into_owned();
        assert!(!mounts().contains(&place), "{}", mounts());
    }
    let mut next = tare();
    next.args(["launch", "--host", "local", "--on", "process", "--", "true"]);
    let shown = output(next.env("TMPDIR", temporary.path()));
    assert!(shown.status.success(), "{}", text(&shown));
    // The kernels of the guests are files of the test's own.
    let left: Vec<_> =
        names(temporary.path()).into_iter().filter(|name| name.contains("tare")).collect();
    assert!(left.is_empty(), "{left:?}");
    for pid in pids {
        assert_eq!(cgroups_of(&pid), BTreeSet::new());
    }
}

/// Whether a process runs with this among its arguments.
fn lives(argument: &str) -> bool {
    names("/proc").iter().filter(|name| name.parse::<u32>().is_ok()).any(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
}
