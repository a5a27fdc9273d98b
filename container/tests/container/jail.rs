//! The caller's own code in a jail: what a forked child sees and may do before and after.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use tare_container::{
    Capabilities, CgroupError, Dev, Entrance, Error, Jail, Limits, Namespaces, Proc, Program,
    Rootfs, Spec, Stream, User,
};

use crate::support::{Bench, skip};

const NOBODY: u32 = 65534;

fn spec(root: &std::path::Path) -> Spec {
    Spec {
        args: Vec::new(),
        proc: Proc::None,
        dev: Dev::None,
        sys: false,
        seccomp: None,
        user: Some(User { uid: NOBODY, gid: NOBODY, groups: Vec::new() }),
        capabilities: Some(Capabilities::NONE),
        stdio: [Stream::Inherit, Stream::Inherit, Stream::Inherit],
        ..Spec::container(Rootfs::ReadOnly(root.to_owned()), Program::Caller)
    }
}

/// Runs `test` in a fork of the test runner, where it is the only thread. [`Jail::fork`] asks for
/// that: the allocator's lock could be another thread's, and in the child it would be so for ever.
fn with_one_thread(name: &str, test: fn(&Bench)) {
    let Some(bench) = Bench::new(name) else { return };
    // SAFETY: musl's own fork leaves the child an allocator that works; of the standard library's
    // locks the tests below use none that the runner's other threads do.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    if pid == 0 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            assert_eq!(fs::read_dir("/proc/self/task").unwrap().count(), 1);
            test(&bench);
        }));
        if let Err(payload) = &outcome {
            // The runner's buffer for a panic's message is lost with this process.
            let said = payload.downcast_ref::<String>().map_or("it panicked", String::as_str);
            let _ = writeln!(io::stderr(), "{name}: {said}");
        }
        let failed = outcome.is_err();
        // SAFETY: ends this process at once; exit handlers belong to the runner.
        unsafe { libc::_exit(i32::from(failed)) }
    }
    let mut status = 0;
    // SAFETY: a child of this process and a valid address.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "{name} failed in its fork: its message is above");
}

/// Forks into the jail and waits: the function's exit status.
fn status(jail: &Jail, child: fn(Entrance<'_>) -> i32) -> i32 {
    // SAFETY: `with_one_thread` has seen that there is no other.
    let mut container = unsafe { jail.fork(child) }.unwrap();
    container.wait().unwrap().shell_status()
}

fn empty_jail(bench: &Bench) -> Jail {
    let root = bench.directory.path().join("empty");
    fs::create_dir(&root).unwrap();
    spec(&root).jail().unwrap()
}

fn is(condition: bool, code: i32) -> Result<(), i32> {
    if condition { Ok(()) } else { Err(code) }
}

fn is_open(fd: i32) -> bool {
    // SAFETY: a system call on plain numbers.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Each number names a promise that was not kept.
fn inspect(entrance: Entrance<'_>) -> Result<(), i32> {
    is(fs::exists("/proc/self/stat").unwrap_or(false), 1)?;
    let open = || (3..64).filter(|fd| is_open(*fd)).count();
    // SAFETY: nothing below uses a descriptor of before.
    unsafe { entrance.close_all_but(&[1]) };
    entrance.enter().map_err(|_| 2)?;
    is(open() == 0, 14)?;
    // SAFETY: system calls on plain numbers.
    let (uid, gid, pid) = unsafe { (libc::getuid(), libc::getgid(), libc::getpid()) };
    is((uid, gid) == (NOBODY, NOBODY), 3)?;
    is(pid == 1, 4)?;
    is(!fs::exists("/proc/self/stat").unwrap_or(true), 5)?;
    is(fs::read_dir("/").map_err(|_| 6)?.count() == 0, 7)?;
    is(fs::write("/file", b"x").is_err(), 8)?;
    // SAFETY: as above.
    is(unsafe { libc::setuid(0) } != 0, 9)?;
    // SAFETY: as above.
    is(unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0, 10)?;
    is(fs::metadata("/..").map_err(|_| 11)?.ino() == fs::metadata("/").map_err(|_| 11)?.ino(), 12)?;
    // SAFETY: as above.
    is(unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1, 13)
}

#[test]
fn test_jail_entered_sees_only_its_root_and_has_no_privileges() {
    with_one_thread("test_jail_entered_sees_only_its_root_and_has_no_privileges", |bench| {
        let jail = empty_jail(bench);
        for _ in 0..3 {
            assert_eq!(status(&jail, |entrance| inspect(entrance).err().unwrap_or(0)), 0);
        }
    });
}

#[test]
fn test_jail_children_share_its_namespaces_and_have_their_own_processes() {
    let Some(bench) = Bench::new("test_jail_children_share_its_namespaces") else { return };
    let root = bench.directory.path().join("empty");
    fs::create_dir(&root).unwrap();
    let jail = spec(&root).jail().unwrap();
    let sleep = || {
        // SAFETY: the child only sleeps.
        let forked = unsafe {
            jail.fork(|entrance| {
                if entrance.enter().is_ok() {
                    libc::pause();
                }
                1
            })
        };
        forked.unwrap()
    };
    let (one, other) = (sleep(), sleep());
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let pids = [&one, &other].map(|container| container.pid().to_string());
    let deadline = Instant::now() + Duration::from_secs(20);
    // It enters the namespace of its mounts last.
    while pids.iter().any(|pid| of(pid, "mnt") == of("self", "mnt")) {
        assert!(Instant::now() < deadline, "it does not enter");
        thread::sleep(Duration::from_millis(1));
    }
    for kind in ["uts", "ipc", "net", "mnt"] {
        assert_eq!(of(&pids[0], kind), of(&pids[1], kind), "{kind}");
        assert_ne!(of(&pids[0], kind), of("self", kind), "{kind}");
    }
    assert_ne!(of(&pids[0], "pid"), of(&pids[1], "pid"));
}

#[test]
fn test_jail_child_that_panics_ends_by_itself() {
    with_one_thread("test_jail_child_that_panics_ends_by_itself", |bench| {
        assert_eq!(status(&empty_jail(bench), |_| panic!("as the test wants it")), 101);
    });
}

#[test]
fn test_jail_dropped_container_kills_its_child() {
    with_one_thread("test_jail_dropped_container_kills_its_child", |bench| {
        let jail = empty_jail(bench);
        // SAFETY: `with_one_thread` has seen that there is no other.
        let container = unsafe {
            jail.fork(|_| {
                libc::pause();
                0
            })
        };
        let container = container.unwrap();
        let pid = container.pid();
        assert!(fs::exists(format!("/proc/{pid}/status")).unwrap());
        drop(container);
        assert!(!fs::exists(format!("/proc/{pid}/status")).unwrap());
    });
}

#[test]
fn test_jail_of_a_program_or_start_of_none_is_refused() {
    let program = Spec { program: Program::command("/bin/true"), ..spec("/".as_ref()) };
    let slot = Spec { stdio: [Stream::Slot(0), Stream::Null, Stream::Null], ..spec("/".as_ref()) };
    let start = Spec { namespaces: Namespaces::ALL, ..spec("/".as_ref()) }.prepare().err();
    let proc = Spec { proc: Proc::Masked, ..spec("/".as_ref()) };
    for error in [program.jail().err(), slot.jail().err(), proc.jail().err(), start] {
        assert!(matches!(error, Some(Error::Invalid { .. })), "{error:?}");
    }
}

#[test]
fn test_jail_has_a_cgroup_ready_for_each_child_and_leaves_none() {
    let name = "test_jail_has_a_cgroup_ready_for_each_child_and_leaves_none";
    let Some(bench) = Bench::new(name) else { return };
    let root = bench.directory.path().join("empty");
    fs::create_dir(&root).unwrap();
    let limits = Limits { accounting: true, ..Limits::default() };
    let jail = match (Spec { limits, ..spec(&root) }).jail() {
        Err(Error::Cgroup(
            error @ (CgroupError::NotMounted | CgroupError::NoController { .. }),
        )) => {
            return skip(name, &error.to_string()).unwrap_or_default();
        }
        other => other.unwrap(),
    };
    let mut all = BTreeSet::new();
    for round in 1..=3 {
        jail.ready().unwrap();
        jail.ready().unwrap();
        // SAFETY: the child does nothing.
        let mut container = unsafe { jail.fork(|_| 0) }.unwrap();
        let paths = container.cgroup_paths();
        assert!(!paths.is_empty() && paths.iter().all(|path| path.is_dir()), "{paths:?}");
        container.wait().unwrap();
        assert!(container.cgroup().unwrap().is_some());
        container.remove().unwrap();
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
        all.extend(paths.iter().cloned());
        assert_eq!(all.len(), paths.len() * round, "each has its own: {all:?}");
    }
    jail.ready().unwrap();
    drop(jail);
    let own = format!("tare-{}-", std::process::id());
    for parent in all.iter().filter_map(|path| path.parent()) {
        let left = fs::read_dir(parent).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(&own)), "{left:?}");
    }
}
