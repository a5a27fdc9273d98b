//! Boxes without any privilege: as user 1000.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tare_container::{
    Bundle, Dev, Error, Limits, Program, Rootfs, Running, Spec, Stream, Terminal, UserNamespace,
};

use crate::support::{Bench, skip, stream};

/// Set for the helper process; its value is the directory of a root file system.
const HELPER: &str = "TARE_TEST_ROOTLESS_ROOTFS";

fn output(mut spec: Spec) -> (i32, String) {
    let mut file = tempfile::tempfile().unwrap();
    spec.stdio = [Stream::Null, stream(&file), stream(&file)];
    let mut container = spec.prepare().unwrap().spawn().unwrap();
    let status = container.wait().unwrap().shell_status();
    container.remove().unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    (status, text)
}

/// Not a test of its own: what user 1000 does.
#[test]
#[ignore = "run by test_rootless_boxes as user 1000"]
fn helper_without_privileges() {
    let Some(rootfs) = std::env::var_os(HELPER) else { return };
    // SAFETY: no arguments.
    assert_eq!(unsafe { libc::geteuid() }, 1000);
    let overlay = || Rootfs::Overlay { lower: vec![rootfs.clone().into()], size_bytes: None };
    let shell =
        |script: &str| Spec::rootless(overlay(), Program::command("sh")).args(["sh", "-c", script]);
    let (status, text) = output(shell(
        "id -u; cat /proc/self/uid_map | tr -s ' '; hostname; echo $$; echo x > /etc/new && cat \
         /etc/new; rm /bin/date && ls /bin | grep -c date; echo y > /dev/null && head -c 3 \
         /dev/zero | wc -c; ls /dev/pts; cat /sys/class/net/lo/flags; wc -c < /proc/timer_list; \
         grep -c Seccomp:.2 /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null || echo refused; \
         exit 5",
    ));
    let expected = "0\n 0 1000 1\ntare\n1\nx\n0\n3\nptmx\n0x8\n0\n1\nrefused\n";
    assert_eq!((status, text.as_str()), (5, expected));
    // Its own loopback, a read-only root, and the host's directory as root.
    let (_, text) = output(Spec { loopback: true, ..shell("cat /sys/class/net/lo/flags") });
    assert_eq!(text, "0x9\n");
    let script = "(echo x > /etc/x) 2>/dev/null || echo read-only";
    let rootfs_of = |rootfs| Spec { rootfs, ..shell(script) };
    assert_eq!(output(rootfs_of(Rootfs::ReadOnly(rootfs.clone().into()))).1, "read-only\n");
    let own = tempfile::tempdir().unwrap();
    for name in ["upper", "work"] {
        std::fs::create_dir(own.path().join(name)).unwrap();
    }
    let kept = Rootfs::OverlayOn {
        lower: vec![rootfs.clone().into()],
        upper: own.path().join("upper"),
        work: own.path().join("work"),
        volatile: false,
    };
    let (status, text) = output(Spec { rootfs: kept, ..shell("echo kept > /etc/k; rm /bin/id") });
    assert_eq!(status, 0, "{text}");
    let upper = own.path().join("upper");
    assert_eq!(std::fs::read_to_string(upper.join("etc/k")).unwrap(), "kept\n");
    // A terminal, an init and a further process.
    let terminal = Some(Terminal { rows: 3, columns: 4 });
    let mut container = Spec { terminal, init: true, ..shell("stty size; sleep 1004") }
        .prepare()
        .unwrap()
        .spawn()
        .unwrap();
    let mut end = File::from(container.take_terminal().unwrap());
    let running = Running::of(&container).unwrap();
    let further = Spec::process(Program::command("/bin/sh")).args([
        "sh",
        "-c",
        "test $(id -u) = 0 && test $(hostname) = tare && exit 6",
    ]);
    let mut second = further.prepare_in(&running).unwrap().spawn().unwrap();
    assert_eq!(second.wait().unwrap().shell_status(), 6);
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.wait().unwrap().shell_status(), 128 + libc::SIGTERM);
    let mut text = String::new();
    let _ = end.read_to_string(&mut text);
    assert_eq!(text, "3 4\r\n");
    refused(&shell);
    bundle(own.path(), rootfs.to_str().unwrap());
    println!("\nROOTLESS DONE");
}

/// What takes more than a user namespace says so.
fn refused(shell: &dyn Fn(&str) -> Spec) {
    let limits = Limits { pids: Some(5), ..Limits::default() };
    let error = Spec { limits, ..shell("") }.prepare().unwrap_err();
    assert!(matches!(error, Error::Cgroup(_)), "{error}");
    assert!(error.to_string().contains("run as root"), "{error}");
    // Without a user namespace nothing of a box can be made.
    let error = Spec { user_namespace: None, dev: Dev::None, ..shell("") }
        .prepare()
        .and_then(|prepared| prepared.spawn().map(drop))
        .unwrap_err();
    assert!(error.to_string().contains("root"), "{error}");
    // Ids of others are root's to give.
    let mut users = UserNamespace::own();
    users.uids[0].outside = 0;
    let error = Spec { user_namespace: Some(users), ..shell("") }.prepare().unwrap_err();
    assert!(error.to_string().contains("map"), "{error}");
}

/// The same by a bundle, as rootless runtimes write it.
fn bundle(directory: &std::path::Path, rootfs: &str) {
    let map = serde_json::json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let namespaces: Vec<_> = ["user", "mount", "pid", "uts", "ipc", "network"]
        .iter()
        .map(|kind| serde_json::json!({ "type": kind }))
        .collect();
    let config = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", "test $$ = 1 && exit 8"],
                     "env": ["PATH=/bin"], "cwd": "/" },
        "root": { "path": rootfs, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": { "namespaces": namespaces, "uidMappings": map, "gidMappings": map },
    });
    let bundle = Bundle::parse(directory, config.to_string().as_bytes()).unwrap();
    let mut container = bundle.prepare("rootless").unwrap().spawn().unwrap();
    assert_eq!(container.wait().unwrap().shell_status(), 8);
}

#[test]
fn test_rootless_boxes() {
    let test = "test_rootless_boxes";
    let Some(bench) = Bench::new(test) else { return };
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let clone = std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone");
    let apparmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let is_refused = most.trim() == "0"
        || clone.is_ok_and(|value| value.trim() == "0")
        || std::fs::read_to_string(apparmor).is_ok_and(|value| value.trim() == "1");
    if is_refused {
        return skip(test, "this host lets nobody but root make user namespaces").unwrap_or(());
    }
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.directory.path(), reachable).unwrap();
    // Files of whom the user namespace does not know would be nobody's.
    let owned = Command::new("chown").args(["-hR", "1000:1000"]).arg(bench.rootfs()).status();
    assert!(owned.unwrap().success());
    let program = bench.directory.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--ignored", "--exact", "--nocapture", "rootless::helper_without_privileges"])
        .env(HELPER, bench.rootfs())
        .current_dir("/")
        .uid(1000)
        .gid(1000)
        .output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = output.unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("ROOTLESS DONE"), "{stdout}{stderr}");
}
