//! What a boxed root could try to get out, and that every door is shut.
//!
//! The program of the box is this test program itself. It tries each door of `doors.rs` and says what
//! came of it; so does the same program as root outside of any box, but for a mount and a UTS
//! namespace that keep what it does from the machine: there the doors must be open, or their being
//! shut would prove nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use tare_container::{
    Capabilities, Descriptor, IdMap, Namespaces, Program, Rootfs, Spec, Stream, UserNamespace,
};

use crate::doors::{Control, DOORS, Outside, is_executable};
use crate::support::Bench;

const PID: &str = "TARE_DOORS_PID";
const SOCKET: &str = "TARE_DOORS_SOCKET";
const PORT: &str = "TARE_DOORS_PORT";
const KEY: &str = "TARE_DOORS_KEY";
const FILE: &str = "TARE_DOORS_FILE";
/// Set outside of a box: each door gets mounts of its own, for some change them.
const CONTROL: &str = "TARE_DOORS_CONTROL";

/// Not a test of its own: the program of the box.
#[test]
#[ignore = "run in a box by the tests below"]
fn helper_tries_every_door() {
    let Ok(pid) = std::env::var(PID) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse().unwrap();
    let outside = Outside {
        pid: pid.parse().unwrap(),
        socket: std::env::var(SOCKET).unwrap(),
        port: number(PORT) as u16,
        key: number(KEY),
        file: std::env::var(FILE).unwrap(),
    };
    for door in DOORS {
        // Each in a process of its own: one that is open may lead elsewhere.
        // SAFETY: the child makes system calls and writes a line.
        let child = unsafe { libc::fork() };
        if child == 0 {
            if std::env::var_os(CONTROL).is_some() {
                // SAFETY: only this child's view changes.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            }
            let line = match (door.attempt)(&outside) {
                Ok(()) => format!("DOOR {}: open\n", door.name),
                Err(error) => format!("DOOR {}: {error}\n", door.name),
            };
            // SAFETY: a buffer of that length; ends the child.
            unsafe {
                libc::write(1, line.as_ptr().cast(), line.len());
                libc::_exit(0);
            }
        }
        // SAFETY: our own child.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
}

/// What of the machine a box may not reach.
struct Prey {
    victim: std::process::Child,
    _socket: UnixListener,
    name: String,
    listener: TcpListener,
    key: i32,
    shared: i32,
    file: tempfile::NamedTempFile,
}

impl Prey {
    fn new() -> Prey {
        let key = 0x7a5e_0000 | (std::process::id() as i32 & 0xffff);
        let name = format!("tare-doors-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        // SAFETY: plain numbers.
        let shared = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o600) };
        assert!(shared >= 0);
        Prey {
            victim: std::process::Command::new("sleep").arg("1004").spawn().unwrap(),
            _socket: UnixListener::bind_addr(&address).unwrap(),
            name,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            key,
            shared,
            file: tempfile::NamedTempFile::new_in("/").unwrap(),
        }
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        // SAFETY: plain numbers; the memory is of this test.
        unsafe { libc::shmctl(self.shared, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// What came of each door, by name.
fn try_doors(bench: &Bench, prey: &Prey, spec: Spec) -> BTreeMap<String, String> {
    let value = |name: &str, value: &dyn std::fmt::Display| format!("{name}={value}").into();
    let port = prey.listener.local_addr().unwrap().port();
    let spec = Spec {
        env: spec
            .env
            .into_iter()
            .chain([
                value(PID, &prey.victim.id()),
                value(SOCKET, &prey.name),
                value(PORT, &port),
                value(KEY, &prey.key),
                value(FILE, &prey.file.path().display()),
            ])
            .collect(),
        ..spec
    }
    .args(["doors", "--ignored", "--exact", "--nocapture", "escape::helper_tries_every_door"]);
    let (exit, text) = bench.run(spec);
    assert!(exit.success(), "{text}");
    let found: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once("DOOR ")?.1.split_once(": "))
        .map(|(name, what)| (name.to_owned(), what.to_owned()))
        .collect();
    assert_eq!(found.len(), DOORS.len(), "{text}");
    found
}

fn itself() -> Program {
    let path = std::env::current_exe().unwrap();
    assert!(is_executable(path.to_str().unwrap()));
    Program::File(File::open(path).unwrap().into())
}

fn assert_shut(found: &BTreeMap<String, String>, of: &str) {
    for door in DOORS {
        assert_ne!(found[door.name], "open", "{of}: {}", door.name);
    }
}

#[test]
fn test_every_door_is_shut_to_a_boxed_root_and_open_outside() {
    let Some(bench) = Bench::new("test_every_door_is_shut") else { return };
    let prey = Prey::new();
    // A descriptor is passed where there is to be one.
    let stray = Descriptor { number: 9, source: Stream::File(File::open("/").unwrap().into()) };
    let control = Spec {
        namespaces: Namespaces::MOUNT.with(Namespaces::UTS),
        descriptors: vec![stray],
        env: vec![format!("{CONTROL}=1").into()],
        ..Spec::process(Program::command(std::env::current_exe().unwrap()))
    };
    let found = try_doors(&bench, &prey, control);
    for door in DOORS.iter().filter(|door| door.control == Control::Works) {
        // What the kernel does not have proves nothing here.
        let is_absent = found[door.name].contains("Function not implemented");
        assert!(found[door.name] == "open" || is_absent, "outside: {}", door.name);
    }
    let open = found.values().filter(|what| *what == "open").count();
    assert!(open >= 40, "only {open} of {} doors are open outside", DOORS.len());
    let boxed = || Spec::container(bench.overlay(), itself());
    assert_shut(&try_doors(&bench, &prey, boxed()), "default container");
    let read_only = Spec { rootfs: Rootfs::ReadOnly(bench.rootfs()), ..boxed() };
    assert_shut(&try_doors(&bench, &prey, read_only), "read-only root");
    let bind = Spec { rootfs: Rootfs::Bind(bench.rootfs()), init: false, ..boxed() };
    assert_shut(&try_doors(&bench, &prey, bind), "writable root of the host's");
}

#[test]
fn test_every_door_is_shut_to_root_of_a_user_namespace() {
    let Some(bench) = Bench::new("test_every_door_is_shut_to_root_of_a_user_namespace") else {
        return;
    };
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.directory.path(), reachable).unwrap();
    let map = |outside| vec![IdMap { inside: 0, outside, count: 1000 }];
    let users = UserNamespace { uids: map(70_000), gids: map(70_000) };
    let spec = Spec { user_namespace: Some(users), ..Spec::container(bench.overlay(), itself()) };
    assert_shut(&try_doors(&bench, &Prey::new(), spec), "user namespace");
}

/// Not a test of its own: boxes whose command is the program that starts them.
#[test]
#[ignore = "run by test_runtimes_own_file in a process of its own"]
fn helper_starts_itself_in_a_box() {
    let Ok(is_protected) = std::env::var("TARE_TEST_PROTECT") else { return };
    if is_protected == "yes" {
        tare_container::protect_own_executable().unwrap();
    }
    let Some(bench) = Bench::new("helper_starts_itself_in_a_box") else { return };
    let evil = bench.rootfs().join("bin/evil");
    std::os::unix::fs::symlink("/proc/self/exe", evil).unwrap();
    let spec = Spec::container(bench.overlay(), Program::command("evil"));
    let found = try_doors(&bench, &Prey::new(), spec);
    println!("\nOWN FILE {}", found["the program's file"]);
}

#[test]
fn test_runtimes_own_file_cannot_be_written_by_a_box_that_executes_it() {
    let Some(bench) = Bench::new("test_runtimes_own_file") else { return };
    // A copy, as it is to be written to.
    let program = bench.directory.path().join("runtime");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (is_protected, is_open) in [("no", true), ("yes", false)] {
        let output = std::process::Command::new(&program)
            .args(["--ignored", "--exact", "--nocapture", "escape::helper_starts_itself_in_a_box"])
            .env("TARE_TEST_PROTECT", is_protected)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("OWN FILE"), "{text}");
        assert_eq!(text.contains("OWN FILE open"), is_open, "{is_protected}: {text}");
    }
}

/// The filter alone and the capabilities alone each shut most doors: neither hides that the other is
/// missing.
#[test]
fn test_filter_and_capabilities_shut_doors_each_by_itself() {
    let Some(bench) = Bench::new("test_filter_and_capabilities_shut_doors") else { return };
    let prey = Prey::new();
    let boxed = || Spec::container(bench.overlay(), itself());
    let filter = try_doors(&bench, &prey, Spec { capabilities: None, ..boxed() });
    let capabilities = try_doors(&bench, &prey, Spec { seccomp: None, ..boxed() });
    for name in ["mount a tmpfs", "load a module", "reboot", "bpf", "host name", "clock"] {
        assert_ne!(filter[name], "open", "filter: {name}");
        assert_ne!(capabilities[name], "open", "capabilities: {name}");
    }
    // What only the filter shuts: any user may do it.
    for name in ["io_uring", "add a key", "new user namespace"] {
        assert_ne!(filter[name], "open", "filter: {name}");
        assert_eq!(capabilities[name], "open", "without a filter: {name}");
    }
    assert!(!Capabilities::DOCKER.contains(Capabilities::named("sys_admin").unwrap()));
}
