//! What cgroups do beyond the usual limits: freezing, devices, block devices, fork bombs.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tare_container::{
    CgroupError, CgroupStatistics, Container, DeviceRule, Error, IoLimit, Limits, Program,
    Resources, Spec, Stream, freeze, is_frozen,
};

use crate::support::{Bench, skip};

/// Starts it; `None` after a loud skip where the machine has no such controller.
fn start(test: &str, spec: Spec) -> Option<Container> {
    match spec.prepare() {
        Ok(prepared) => Some(prepared.spawn().unwrap()),
        Err(Error::Cgroup(e @ (CgroupError::NotMounted | CgroupError::NoController { .. }))) => {
            skip(test, &e.to_string())
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn test_fork_bomb_stays_within_its_limit() {
    let test = "test_fork_bomb_stays_within_its_limit";
    let Some(bench) = Bench::new(test) else { return };
    let limits = Limits { pids: Some(24), ..Limits::default() };
    // Every process makes two more, and goes on doing so.
    let spec = Spec { limits, init: true, ..bench.shell("b() { b | b & b; }; b") };
    let Some(container) = start(test, spec) else { return };
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut most = 0;
    loop {
        let statistics = container.cgroup().unwrap().unwrap();
        most = most.max(statistics.pids_current.unwrap());
        if statistics.pids_refused.unwrap() > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{statistics:?}");
    }
    assert!((2..=24).contains(&most), "{most}");
    // The host forks as before, and the bomb ends as a whole, if its first shell has not given up.
    assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    let paths = container.cgroup_paths();
    assert!(!container.remove().unwrap().success());
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn test_frozen_box_does_nothing_until_it_is_thawed() {
    let test = "test_frozen_box_does_nothing";
    let Some(bench) = Bench::new(test) else { return };
    let (input, mut to_box) = std::io::pipe().unwrap();
    let (mut from_box, output) = std::io::pipe().unwrap();
    let resources = Resources { freezer: true, ..Resources::default() };
    let spec = Spec {
        resources,
        program: Program::command("cat"),
        stdio: [Stream::File(input.into()), Stream::File(output.into()), Stream::Null],
        ..bench.shell("").args(["cat"])
    };
    let Some(container) = start(test, spec) else { return };
    let mut echo = |byte: u8| {
        to_box.write_all(&[byte]).unwrap();
        let mut answer = [0];
        from_box.read_exact(&mut answer).unwrap();
        answer[0]
    };
    let paths = container.cgroup_paths();
    assert_eq!(echo(1), 1);
    assert_eq!(is_frozen(&paths), Some(false));
    freeze(&paths, true).unwrap();
    assert_eq!(is_frozen(&paths), Some(true));
    // It answers only after it has been thawed, on another thread.
    let thawed = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            thawed.store(true, std::sync::atomic::Ordering::SeqCst);
            freeze(&paths, false).unwrap();
        });
        assert_eq!(echo(2), 2);
        assert!(thawed.load(std::sync::atomic::Ordering::SeqCst));
    });
    // A frozen box can be removed.
    freeze(&paths, true).unwrap();
    assert_eq!(container.remove().unwrap().shell_status(), 137);
    assert!(matches!(freeze(&[], true), Err(CgroupError::NotFrozen { .. })));
}

#[test]
fn test_device_rules_refuse_what_nodes_would_allow() {
    let test = "test_device_rules_refuse";
    let Some(bench) = Bench::new(test) else { return };
    let rule = |allow, minor, read, write| DeviceRule {
        allow,
        kind: None,
        major: Some(1),
        minor,
        read,
        write,
    };
    // /dev/null wholly, /dev/full to be read: neither /dev/zero nor /dev/tty.
    let rules = vec![
        rule(false, Some(5), true, true),
        rule(true, Some(3), true, true),
        rule(true, Some(7), true, false),
    ];
    let script = "head -c 1 /dev/null && echo null; head -c 1 /dev/zero > /dev/null || echo no \
                  zero; head -c 1 /dev/full > /dev/null && echo full; (echo x > /dev/full) 2>&1 | \
                  grep -o 'not permitted'; (: < /dev/tty) 2>&1 | grep -o 'not permitted'";
    let resources = Resources { devices: Some(rules), ..Resources::default() };
    let mut file = tempfile::tempfile().unwrap();
    let stdio = [Stream::Null, crate::support::stream(&file), Stream::Null];
    let Some(mut container) = start(test, Spec { resources, stdio, ..bench.shell(script) }) else {
        return;
    };
    container.wait().unwrap();
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "null\nno zero\nfull\nnot permitted\nnot permitted\n");
}

#[test]
fn test_io_limit_is_the_devices_and_writes_are_counted() {
    use std::os::unix::fs::MetadataExt;
    let test = "test_io_limit_is_the_devices";
    let Some(bench) = Bench::new(test) else { return };
    let device = std::fs::metadata(bench.directory.path()).unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    if major == 0 {
        return skip(test, "temporary files are not on a block device").unwrap_or(());
    }
    let (bytes, limit) = (3 << 20, 2 << 20);
    let io = IoLimit { major, minor, write_bytes_per_s: Some(limit), ..IoLimit::default() };
    let resources = Resources { io: vec![io], ..Resources::default() };
    let mount = tare_container::Mount::Bind {
        source: bench.directory.path().to_owned(),
        target: "/disk".into(),
        read_only: false,
    };
    let script =
        format!("dd if=/dev/zero of=/disk/file bs=65536 count={} oflag=direct", bytes / 65536);
    let mut spec = Spec { resources, ..bench.shell(&script) };
    spec.mounts.push(mount);
    let begin = Instant::now();
    let Some(mut container) = start(test, spec) else { return };
    if !container.wait().unwrap().success() {
        return skip(test, "temporary files cannot be written past the page cache").unwrap_or(());
    }
    // The first second's worth may pass at once.
    let least = Duration::from_secs_f64((bytes - limit) as f64 / limit as f64);
    assert!(begin.elapsed() >= least, "{:?} for {bytes} bytes", begin.elapsed());
    let statistics = CgroupStatistics::of(&container.cgroup_paths()).unwrap();
    assert!(statistics.io_written_bytes.is_some_and(|n| n >= bytes), "{statistics:?}");
}
