//! The caller's own code in a jail: what a forked child sees and may do before and after.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tare_container::{
    Capabilities, Dev, Entrance, Error, Jail, Namespaces, Proc, Program, Rootfs, Spec, Stream, User,
};

use crate::support::Bench;

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
    for error in [program.jail().err(), slot.jail().err(), start] {
        assert!(matches!(error, Some(Error::Invalid { .. })), "{error:?}");
    }
}
