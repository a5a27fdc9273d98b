//! OCI bundles.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tare_container::{Bundle, Exit, OciError};

use crate::support::{Bench, stream};

/// What runtimes write for a bundle, for `script`.
fn config(script: &str) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 100, "soft": 50 }],
            "noNewPrivileges": true,
            "apparmorProfile": "",
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bundle",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                              "/proc/sysrq-trigger"],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(value, |value, name| match name.parse::<usize>() {
        Ok(index) => &mut value[index],
        Err(_) => &mut value[name],
    })
}

fn with(script: &str, changes: &[(&str, Value)]) -> Value {
    let mut config = config(script);
    for (path, value) in changes {
        *at(&mut config, path) = value.clone();
    }
    config
}

fn open(bench: &Bench, config: &Value) -> Result<Bundle, OciError> {
    std::fs::write(bench.directory.path().join("config.json"), config.to_string()).unwrap();
    Bundle::open(bench.directory.path())
}

fn run(bench: &Bench, config: &Value) -> (Exit, String) {
    try_run(bench, config).unwrap()
}

fn try_run(bench: &Bench, config: &Value) -> Result<(Exit, String), OciError> {
    let mut output = tempfile::tempfile().unwrap();
    let mut bundle = open(bench, config)?;
    bundle.spec_mut().stdio = [tare_container::Stream::Null, stream(&output), stream(&output)];
    let prepared = bundle.prepare("test")?;
    let mut container = prepared.spawn()?;
    let exit = container.wait().unwrap();
    container.remove().unwrap();
    prepared.after_end();
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    Ok((exit, text))
}

#[test]
fn test_bundle_runs_as_its_configuration_says() {
    let Some(bench) = Bench::new("test_bundle_runs_as") else { return };
    let script = "hostname; echo $$ $A; ulimit -Sn; ulimit -Hn; grep CapEff /proc/self/status; \
        grep NoNewPrivs /proc/self/status; (echo x > /etc/x) 2>/dev/null || echo read-only; \
        echo y > /tmp/y; cat /tmp/y; ls /dev | tr '\\n' ' '; (echo z > /proc/sys/kernel/sem) \
        2>/dev/null || echo protected; cat /proc/timer_list; ls /sys/firmware; ls /sys/fs/cgroup \
        | wc -l; (: < /dev/ptmx) && echo ptmx; exit 3";
    let (exit, text) = run(&bench, &config(script));
    assert_eq!(exit.shell_status(), 3, "{text}");
    let cgroups = text.lines().rev().nth(1).unwrap().parse::<u32>().unwrap();
    assert!(cgroups > 0);
    let expected = format!(
        "bundle\n1 b\n50\n100\nCapEff:\t00000000080000e1\nNoNewPrivs:\t1\nread-only\ny\nfd full \
         mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero protected\n{cgroups}\
         \nptmx\n"
    );
    assert_eq!(text.replace(" \nprotected", " protected"), expected);
}

/// Kind and numbers of a device of the host's that no box has, and that can be opened here.
fn hosts_device() -> Option<(&'static str, u32, u32)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
    std::fs::read_dir("/dev").ok()?.flatten().find_map(|entry| {
        let metadata = std::fs::metadata(entry.path()).ok()?;
        let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let kind = metadata.file_type();
        let kind = match (kind.is_block_device(), kind.is_char_device()) {
            (true, _) => "b",
            (_, true) => "c",
            _ => return None,
        };
        // Not those of memory and terminals: a box has some of each, and opening may mean more.
        let usual = matches!(major, 1 | 4 | 5 | 136);
        let mut options = std::fs::OpenOptions::new();
        let opens = options.read(true).custom_flags(libc::O_NONBLOCK).open(entry.path()).is_ok();
        (!usual && opens).then_some((kind, major, minor))
    })
}

#[test]
fn test_node_that_a_bundles_box_makes_does_not_work() {
    let Some(bench) = Bench::new("test_node_that_a_bundles_box_makes") else { return };
    let Some((kind, major, minor)) = hosts_device() else {
        let why = "the host has no device that can be opened";
        return crate::support::skip("test_node_that_a_bundles_box_makes", why).unwrap_or(());
    };
    let script = format!(
        "mknod /dev/own c 1 5 && head -c 1 /dev/own | wc -c; mknod /dev/host {kind} {major} \
         {minor}; (: < /dev/host) 2>&1"
    );
    let denied = |text: &str| text.matches("Operation not permitted").count();
    // /dev/own is /dev/zero, which is the box's; the other is not.
    let (_, text) = run(&bench, &config(&script));
    assert!(denied(&text) == 1 && text.starts_with("1\n"), "{text}");
    let mut without = config(&script);
    without["linux"].as_object_mut().unwrap().remove("resources");
    assert_eq!(denied(&run(&bench, &without).1), 1);
    // Unless its rules say so.
    let rules = json!([{ "allow": false, "access": "rwm" },
        { "allow": true, "type": kind, "major": major, "minor": minor, "access": "r" }]);
    let (_, text) = run(&bench, &with(&script, &[("linux.resources.devices", rules)]));
    assert_eq!(denied(&text), 0, "{text}");
}

#[test]
fn test_bundle_with_user_namespace_and_parameters() {
    let Some(bench) = Bench::new("test_bundle_with_user_namespace") else { return };
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.directory.path(), reachable).unwrap();
    // The runtime makes mount points in a root that its box's root cannot write to.
    for name in ["sys/fs", "dev/pts"] {
        std::fs::create_dir_all(bench.rootfs().join(name)).unwrap();
    }
    let map = json!([{ "containerID": 0, "hostID": 90000, "size": 10 }]);
    let mut config = with(
        "cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null && cat /proc/sys/net/ipv4/ip_forward; \
         umask; id -G",
        &[
            ("linux.uidMappings", map.clone()),
            ("linux.gidMappings", map),
            ("linux.sysctl", json!({ "net.ipv4.ip_forward": "1" })),
            ("process.user", json!({ "uid": 1, "gid": 2, "umask": 63, "additionalGids": [4, 7] })),
            ("process.oomScoreAdj", json!(77)),
        ],
    );
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    config["linux"].as_object_mut().unwrap().remove("resources");
    let pts = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    *at(&mut config, "mounts.2.options") = pts;
    let (exit, text) = run(&bench, &config);
    assert!(exit.success(), "{text}");
    assert_eq!(text.trim(), "0 90000 10\n1\n0077\n2 4 7");
}

#[test]
fn test_seccomp_profile_of_a_bundle_decides() {
    let Some(bench) = Bench::new("test_seccomp_profile_of_a_bundle") else { return };
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17 },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] },
        ],
    });
    let script = "mkdir /tmp/x 2>&1 | grep -o 'File exists'; kill -0 1 && echo may; \
                  kill -USR1 1 2>/dev/null || echo may not";
    let (_, text) = run(&bench, &with(script, &[("linux.seccomp", profile.clone())]));
    assert_eq!(text, "File exists\nmay\nmay not\n");
    let mut misspelt = profile;
    *at(&mut misspelt, "syscalls.0.names.0") = json!("mkdirr");
    let error = open(&bench, &with("", &[("linux.seccomp", misspelt)])).unwrap_err().to_string();
    assert!(
        error.contains("linux.seccomp.syscalls[0].names") && error.contains("mkdirr"),
        "{error}"
    );
}

#[test]
fn test_hooks_run_in_order_where_they_belong() {
    let Some(bench) = Bench::new("test_hooks_run_in_order") else { return };
    let log = bench.directory.path().join("log");
    File::create(&log).unwrap();
    let hook = |name: &str| {
        let script = format!(
            "read state; echo {name} $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts) \
             $X >> {0}; echo \"$state\" | grep -q '\"id\":\"test\"' || exit 1",
            log.display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["X=y", "PATH=/bin:/usr/bin"] }])
    };
    // In the box there is neither the log nor the program of the host's.
    let inside = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo started > /tmp/hook"],
                          "env": ["PATH=/bin"] }]);
    let hooks = json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"), "startContainer": inside,
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    let (exit, text) = run(&bench, &with("cat /tmp/hook", &[("hooks", hooks.clone())]));
    assert!(exit.success());
    assert_eq!(text, "started\n");
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
    };
    let log_text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Vec<&str>> = log_text.lines().map(|line| line.split(' ').collect()).collect();
    let names: Vec<&str> = lines.iter().map(|words| words[0]).collect();
    assert_eq!(names, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);
    for words in &lines {
        let is_inside = words[0] == "createContainer";
        assert_eq!(words[1] != own("mnt"), is_inside, "{words:?}");
        assert_eq!(words[2] != own("uts"), is_inside, "{words:?}");
        assert_eq!(words[3], "y");
    }
    for kind in ["prestart", "createContainer", "startContainer"] {
        let fails = json!({ kind: [{ "path": "/bin/false" }], "poststop": hook("stop") });
        let error = try_run(&bench, &with("true", &[("hooks", fails)])).unwrap_err();
        let OciError::Hook { kind: got, problem, .. } = &error else { panic!("{error}") };
        assert_eq!((*got, problem.as_str()), (kind, "exit status 1"));
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap().matches("stop ").count(), 4);
    let slow = json!([{ "path": "/bin/sleep", "args": ["sleep", "1004"], "timeout": 1 }]);
    let slow = json!({ "createRuntime": slow });
    let error = try_run(&bench, &with("true", &[("hooks", slow)])).unwrap_err();
    assert!(error.to_string().contains("not done after 1 s"), "{error}");
}

#[test]
fn test_what_is_not_supported_is_refused_by_its_name() {
    let Some(bench) = Bench::new("test_what_is_not_supported") else { return };
    for (path, value, name) in [
        ("surprise", json!(1), "surprise is not"),
        (
            "process.ioPriority",
            json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 1 }),
            "process.ioPriority",
        ),
        ("process.scheduler", json!({ "policy": "SCHED_FIFO" }), "process.scheduler"),
        ("process.apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
        ("process.selinuxLabel", json!("x"), "process.selinuxLabel"),
        ("linux.mountLabel", json!("x"), "linux.mountLabel"),
        ("linux.intelRdt", json!({ "closID": "x" }), "linux.intelRdt"),
        ("linux.personality", json!({ "domain": "LINUX32" }), "linux.personality"),
        ("linux.resources.rdma", json!({}), "linux.resources.rdma"),
        ("linux.resources.network", json!({ "classID": 1 }), "linux.resources.network"),
        ("linux.resources.hugepageLimits", json!([]), "linux.resources.hugepageLimits"),
        ("linux.resources.memory", json!({ "kernel": 1 }), "linux.resources.memory.kernel"),
        ("linux.resources.memory", json!({ "disableOOMKiller": true }), "disableOOMKiller"),
        (
            "linux.resources.cpu",
            json!({ "realtimePeriod": 1 }),
            "linux.resources.cpu.realtimePeriod",
        ),
        ("linux.resources.blockIO", json!({ "weight": 10 }), "linux.resources.blockIO.weight"),
        ("linux.seccomp", json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "SCMP_ACT_NOTIFY"),
        (
            "linux.seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }),
            "linux.seccomp.listenerPath",
        ),
        ("linux.cgroupsPath", json!("system.slice:x:y"), "linux.cgroupsPath"),
        ("linux.namespaces", json!([{ "type": "pid" }]), "linux.namespaces"),
        (
            "linux.namespaces.4",
            json!({ "type": "mount", "path": "/proc/1/ns/mnt" }),
            "namespaces[4].path",
        ),
        ("mounts.0.type", json!("ext4"), "mounts[0].type"),
        ("mounts.0.uidMappings", json!([]), "mounts[0].uidMappings"),
        (
            "mounts.0",
            json!({ "destination": "/x", "type": "bind", "source": "rel" }),
            "mounts[0].source",
        ),
        (
            "mounts.0",
            json!({ "destination": "/x", "type": "bind", "source": "/", "options": ["odd"] }),
            "mounts[0].options",
        ),
        ("windows", json!({}), "windows"),
        ("vm", json!({}), "vm is not"),
        ("ociVersion", json!("2.0.0"), "ociVersion"),
        ("hooks", json!({ "later": [] }), "hooks.later"),
    ] {
        let error = open(&bench, &with("true", &[(path, value)])).unwrap_err();
        assert!(matches!(error, OciError::Unsupported { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
    for (path, value, name) in [
        ("process.args", json!([]), "process.args"),
        ("process.env", json!(["novalue"]), "process.env"),
        ("process.rlimits.0.soft", json!(101), "process.rlimits"),
        ("process.consoleSize", json!({ "height": 1, "width": 2 }), ""),
        ("root", Value::Null, "root"),
        ("mounts.0.destination", json!("relative"), "mounts[0].destination"),
        ("linux.uidMappings", json!([]), "linux.uidMappings"),
        ("linux.rootfsPropagation", json!("odd"), "linux.rootfsPropagation"),
        ("linux.resources.unified", json!({ "../../x.y": "1" }), "linux.resources.unified"),
        ("linux.resources.memory", json!({ "swap": 5 }), "linux.resources.memory.swap"),
        ("hooks", json!({ "poststop": [{ "path": "relative" }] }), "hooks.poststop"),
    ] {
        match open(&bench, &with("true", &[(path, value)])) {
            Ok(_) => assert_eq!(name, "", "{path} is taken"),
            Err(error) => assert!(error.to_string().contains(name) && !name.is_empty(), "{error}"),
        }
    }
    std::fs::write(bench.directory.path().join("config.json"), "{ not json").unwrap();
    let error = Bundle::open(bench.directory.path()).unwrap_err();
    assert!(matches!(error, OciError::Malformed { .. }), "{error}");
    let error = Bundle::open(Path::new("/no/such/bundle")).unwrap_err();
    assert!(error.to_string().contains("/no/such/bundle/config.json"), "{error}");
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z/.:=\\x00-\\x7f]{0,12}".prop_map(Value::from),
            prop_oneof![
                Just("SCMP_ACT_ALLOW"),
                Just("mount"),
                Just("CAP_CHOWN"),
                Just("/proc"),
                Just("user"),
                Just("rbind")
            ]
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Paths of everything in `value`.
    fn paths(value: &Value, path: &str, all: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(name, v)| (name.clone(), v)).collect(),
            Value::Array(list) => {
                list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect()
            }
            _ => Vec::new(),
        };
        for (name, child) in children {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            paths(child, &path, all);
            all.push(path);
        }
    }

    proptest! {
        #[test]
        fn test_any_json_in_any_place_never_panics(index in any::<usize>(), value in any_json()) {
            let mut config = config("true");
            let mut all = Vec::new();
            paths(&config, "", &mut all);
            let path = &all[index % all.len()];
            *at(&mut config, path) = value;
            // Nothing is started, and nothing made.
            let _ = Bundle::parse(Path::new("/"), config.to_string().as_bytes());
        }

        #[test]
        fn test_any_text_never_panics(text in "\\PC{0,64}", value in any_json()) {
            let _ = Bundle::parse(Path::new("/"), text.as_bytes());
            let _ = Bundle::parse(Path::new("/"), value.to_string().as_bytes());
        }
    }
}
