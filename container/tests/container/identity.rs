//! Users, capabilities, clocks and parameters of a box, and its terminal and init.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use tare_container::{
    Capabilities, CapabilitySets, End, IdMap, Joined, NamespaceKind, Namespaces, Program, Spec,
    Stage, Terminal, TimeOffsets, User, UserNamespace,
};

use crate::support::Bench;

/// Root of the box is user 70000, as which the bench's directory must be reachable.
fn mapped(bench: &Bench, script: &str) -> Spec {
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.directory.path(), reachable).unwrap();
    let map = |outside| vec![IdMap { inside: 0, outside, count: 1000 }];
    let users = UserNamespace { uids: map(70_000), gids: map(80_000) };
    Spec { user_namespace: Some(users), ..bench.shell(script) }
}

#[test]
fn test_user_namespace_maps_root_to_another_user() {
    let Some(bench) = Bench::new("test_user_namespace_maps_root") else { return };
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; \
                  echo x > /new && stat -c %u /new; ls /dev | wc -l; echo y > /dev/null; \
                  ls /proc/1/ns/user > /dev/null && readlink /proc/self/ns/user; ls -d /sys/class";
    let (exit, text) = bench.run(mapped(&bench, script));
    assert!(exit.success(), "{text}");
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let expected = ["0", "0", "0 70000 1000", "0 80000 1000", "0", "14"];
    assert_eq!(lines[..6], expected, "{text}");
    assert_ne!(lines[6], own.to_str().unwrap());
    assert_eq!(lines[7], "/sys/class");
    // SAFETY: plain numbers. The change of user is not this process's.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 1);
}

#[test]
fn test_root_of_a_user_namespace_is_nobody_outside() {
    let Some(bench) = Bench::new("test_root_of_a_user_namespace_is_nobody") else { return };
    let secret = bench.directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mount = || tare_container::Mount::Bind {
        source: secret.clone(),
        target: "/secret".into(),
        read_only: true,
    };
    let spec = |spec: Spec| Spec { mounts: vec![mount()], ..spec };
    assert_eq!(bench.run(spec(bench.shell("cat /secret"))).1, "secret");
    let (exit, text) = bench.run(spec(mapped(&bench, "cat /secret")));
    assert!(!exit.success() && text.contains("Permission denied"), "{text}");
    let mut container = mapped(&bench, "sleep 1004").prepare().unwrap().spawn().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    assert!(status.contains("Uid:\t70000\t70000\t70000\t70000"), "{status}");
    container.kill().unwrap();
    assert_eq!(container.wait().unwrap().shell_status(), 137);
}

#[test]
fn test_user_that_is_not_mapped_returns_its_step() {
    let Some(bench) = Bench::new("test_user_that_is_not_mapped") else { return };
    let user = Some(User { uid: 1000, gid: 0, groups: vec![] });
    let error = Spec { user, ..mapped(&bench, "") }.prepare().unwrap().spawn().unwrap_err();
    assert!(matches!(error, tare_container::Error::Setup { stage: Stage::User, .. }), "{error}");
    assert!(error.to_string().contains("map this user"), "{error}");
}

#[test]
fn test_joined_namespaces_are_those_of_another_box() {
    let Some(bench) = Bench::new("test_joined_namespaces") else { return };
    let mut first = bench.shell("sleep 1004").prepare().unwrap().spawn().unwrap();
    let joined = |kind: NamespaceKind| Joined {
        kind,
        file: File::open(format!("/proc/{}/ns/{}", first.pid(), kind.name())).unwrap().into(),
    };
    let mut spec = bench.shell(
        "echo $$; ps | grep -c 'sleep 100[4]'; cd /proc/self/ns; \
                                for n in pid ipc net; do readlink $n; done",
    );
    spec.joined = [NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Net].map(joined).into();
    spec.namespaces =
        Namespaces::ALL.without(Namespaces::PID).without(Namespaces::IPC).without(Namespaces::NET);
    let (exit, text) = bench.run(spec);
    assert!(exit.success(), "{text}");
    let mut lines = text.lines();
    assert_ne!(lines.next(), Some("1"));
    assert_eq!(lines.next(), Some("1"));
    for (line, kind) in lines.zip(["pid", "ipc", "net"]) {
        let link = std::fs::read_link(format!("/proc/{}/ns/{kind}", first.pid())).unwrap();
        assert_eq!(link.to_str(), Some(line));
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn test_time_namespace_shifts_its_clocks() {
    let Some(bench) = Bench::new("test_time_namespace_shifts") else { return };
    let mut spec = bench.shell("cut -d. -f1 /proc/uptime");
    spec.namespaces = Namespaces::ALL.with(Namespaces::TIME);
    spec.time_offsets = TimeOffsets { boottime_s: 1_000_000, ..TimeOffsets::default() };
    let (exit, text) = bench.run(spec);
    assert!(exit.success(), "{text}");
    assert!(text.trim().parse::<u64>().unwrap() >= 1_000_000, "{text}");
    let spec = Spec {
        time_offsets: TimeOffsets { monotonic_s: 1, ..TimeOffsets::default() },
        ..bench.shell("")
    };
    assert!(spec.prepare().unwrap_err().to_string().contains("Namespaces::TIME"));
}

#[test]
fn test_capability_sets_are_each_as_asked() {
    let Some(bench) = Bench::new("test_capability_sets_are_each_as_asked") else { return };
    let set = |names: &[&str]| {
        names.iter().fold(Capabilities::NONE, |all, n| all.with(Capabilities::named(n).unwrap()))
    };
    let sets = CapabilitySets {
        bounding: set(&["chown", "kill", "net_bind_service"]),
        effective: set(&["kill"]),
        permitted: set(&["chown", "kill"]),
        inheritable: set(&["kill"]),
        ambient: set(&["kill"]),
    };
    let spec = Spec {
        capabilities: None,
        capability_sets: Some(sets),
        user: Some(User { uid: 1000, gid: 1000, groups: vec![] }),
        program: Program::command("cat"),
        ..bench.shell("").args(["cat", "/proc/self/status"])
    };
    let text = bench.run(spec).1;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    };
    // An execution by anyone but root keeps what is ambient.
    assert_eq!(field("CapAmb"), set(&["kill"]).bits());
    assert_eq!(field("CapInh"), set(&["kill"]).bits());
    assert_eq!(field("CapPrm"), set(&["kill"]).bits());
    assert_eq!(field("CapEff"), set(&["kill"]).bits());
    assert_eq!(field("CapBnd"), sets.bounding.bits());
}

#[test]
fn test_oom_score_umask_names_and_parameters_are_the_boxs_own() {
    let Some(bench) = Bench::new("test_oom_score_umask_names") else { return };
    let mut spec = bench.shell(
        "cat /proc/self/oom_score_adj; umask; cat /proc/sys/kernel/domainname \
         /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni",
    );
    spec.oom_score_adj = Some(321);
    spec.umask = 0o077;
    spec.domainname = Some("inside".into());
    spec.sysctls =
        vec![("net.ipv4.ip_forward".into(), "1".into()), ("kernel.shmmni".into(), "1234".into())];
    let own = |path: &str| std::fs::read_to_string(path).unwrap();
    let paths =
        ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni", "/proc/self/oom_score_adj"];
    let before = paths.map(own);
    assert_eq!(bench.run(spec).1, "321\n0077\ninside\n1\n1234\n");
    assert_eq!(paths.map(own), before);
    for (name, problem) in [
        ("kernel.core_pattern", "belongs to no namespace"),
        ("vm.overcommit_memory", "belongs to no namespace"),
        ("net.../..", "no name of a parameter"),
    ] {
        let spec = Spec { sysctls: vec![(name.into(), "1".into())], ..bench.shell("") };
        let error = spec.prepare().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn test_terminal_is_the_boxs_own_and_controls_its_session() {
    let Some(bench) = Bench::new("test_terminal_is_the_boxs_own") else { return };
    let mut spec = bench.shell(
        "readlink /proc/self/fd/0; stty size; echo to-console > /dev/console; read line; \
         echo got $line; sleep 1004",
    );
    spec.terminal = Some(Terminal { rows: 33, columns: 101 });
    spec.init = true;
    let prepared = spec.prepare().unwrap();
    for _ in 0..2 {
        let mut container = prepared.spawn().unwrap();
        let terminal = container.take_terminal().unwrap();
        assert!(container.take_terminal().is_none());
        let mut terminal = File::from(terminal);
        let mut text = String::new();
        read_until(&mut terminal, &mut text, "to-console");
        assert!(text.starts_with("/dev/pts/0\r\n33 101\r\n"), "{text}");
        terminal.write_all(b"word\n").unwrap();
        read_until(&mut terminal, &mut text, "got word");
        // It controls the session: what interrupts at the terminal ends the program in its
        // foreground.
        terminal.write_all(&[3]).unwrap();
        assert_eq!(container.wait().unwrap().shell_status(), 128 + libc::SIGINT);
    }
}

fn read_until(terminal: &mut File, text: &mut String, end: &str) {
    use std::os::fd::AsRawFd;
    while !text.contains(end) {
        let mut poll = libc::pollfd { fd: terminal.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 30_000) }, 1, "{text}");
        let mut bytes = [0; 256];
        let count = terminal.read(&mut bytes).unwrap_or_else(|e| panic!("{e} after {text}"));
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[test]
fn test_init_reaps_forwards_and_ends_as_its_program() {
    let Some(bench) = Bench::new("test_init_reaps_forwards_and_ends") else { return };
    let init = |script: &str| Spec { init: true, ..bench.shell(script) };
    for status in [0, 7, 255] {
        let (exit, _) = bench.run(init(&format!("exit {status}")));
        assert_eq!(exit.end, End::Exited(status));
    }
    assert_eq!(bench.run(init("kill -9 $$")).0.end, End::Exited(137));
    let (_, text) = bench.run(init("echo $$; cat /proc/1/comm; readlink /proc/1/exe"));
    assert!(text.starts_with("2\n"), "{text}");
    assert!(text.contains("memfd:tare-init"), "{text}");
    // An orphan becomes the first process's child. An init reaps it; others let it be.
    for (spec, left) in [(init(ORPHAN), "S"), (bench.shell(ORPHAN), "Z")] {
        let container = spec.prepare().unwrap().spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while states_of_children(container.pid()) != left {
            assert!(Instant::now() < deadline, "{}", states_of_children(container.pid()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // A signal without a handler ends the program, which is not the first process.
    let mut spec = init("echo ready; sleep 1004 & wait");
    let (mut reader, writer) = std::io::pipe().unwrap();
    spec.stdio[1] = tare_container::Stream::File(writer.into());
    let prepared = spec.prepare().unwrap();
    let mut container = prepared.spawn().unwrap();
    reader.read_exact(&mut [0; 6]).unwrap();
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.wait().unwrap().end, End::Exited(128 + libc::SIGTERM));
}

/// A child that ends after its parent; the first process, or the init's program, sleeps.
const ORPHAN: &str = "sh -c 'sleep 0.1 &'; exec sleep 1004";

/// One letter each: S sleeps, Z is a zombie.
fn states_of_children(pid: u32) -> String {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let state = |child: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let (name, rest) = stat.rsplit_once(") ").unwrap_or_default();
        // What still is the shell of the script has not come to the end.
        let is_shell = name.ends_with("(sh") || name.ends_with("(sh)");
        if is_shell { "?".to_owned() } else { rest.chars().take(1).collect() }
    };
    let mut states: Vec<String> =
        children.unwrap_or_default().split_ascii_whitespace().map(state).collect();
    states.sort();
    states.concat()
}

#[test]
fn test_init_says_what_a_shell_says_of_a_missing_command() {
    let Some(bench) = Bench::new("test_init_says_what_a_shell_says") else { return };
    let garbage = bench.rootfs().join("bin/garbage");
    std::fs::write(&garbage, "text").unwrap();
    for (command, status) in [("absent", 127), ("/bin/absent", 127), ("garbage", 126)] {
        let program = Program::command(command);
        let spec = Spec { init: true, program, ..bench.shell("").args([command]) };
        assert_eq!(bench.run(spec).0.end, End::Exited(status), "{command}");
    }
}
