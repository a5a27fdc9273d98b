//! `tare container` and `tare oci`: for whoever has root and a static busybox.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::RwLockWriteGuard;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::{alone, is_root, may_run, output, tare, text};

/// A root file system, and where the containers of one test keep their records.
/// Other tests look at the whole host for traces of containers.
struct Place(TempDir, #[expect(dead_code)] RwLockWriteGuard<'static, ()>);

impl Place {
    fn new(test: &str) -> Option<Place> {
        let busybox = Path::new("/bin/busybox");
        if !may_run(test, "root and /bin/busybox", is_root() && busybox.is_file()) {
            return None;
        }
        let place = Place(tempfile::tempdir().unwrap(), alone());
        let root = place.0.path().join("rootfs");
        for directory in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "cat", "echo", "hostname", "stty", "grep", "ps"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        Some(place)
    }

    fn tare(&self, words: &[&str]) -> Command {
        let mut command = tare();
        command.args(words).env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command.env("TARE_ROOTFS", self.0.path().join("rootfs"));
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        output(&mut self.tare(words))
    }

    /// Standard output of what must succeed.
    fn says(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn test_container_run_passes_on_streams_and_exit_codes() {
    let Some(place) = Place::new("test_container_run_passes_on") else { return };
    let run = ["container", "run", "--", "sh", "-c", "cat; echo $$; exit 7"];
    let mut child = place.tare(&run).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert_eq!(output.stdout, b"typed\n1\n");
    let output = place.output(&["container", "run", "--", "absent"]);
    assert_eq!(output.status.code(), Some(127), "{}", text(&output));
    assert_eq!(fs::read_dir(place.0.path().join("tare")).unwrap().count(), 0);
}

#[test]
fn test_detached_container_is_listed_entered_paused_and_removed() {
    let Some(place) = Place::new("test_detached_container") else { return };
    let start = ["container", "run", "-d", "--name", "box", "--init", "--", "sleep", "1004"];
    assert_eq!(place.says(&start), "box\n");
    let again = place.output(&start);
    assert_eq!(again.status.code(), Some(125), "{}", text(&again));
    assert!(text(&again).contains("already"), "{}", text(&again));
    let list = |place: &Place| -> serde_json::Value {
        serde_json::from_str(&place.says(&["container", "ls", "--json"])).unwrap()
    };
    let listed = list(&place);
    assert_eq!(listed[0]["name"], "box");
    assert_eq!(listed[0]["status"], "running");
    assert!(place.says(&["container", "ls"]).contains("sleep 1004"));
    let script = "hostname; ps | grep -c 'sleep 100[4]'; exit 0";
    let said = place.says(&["container", "exec", "box", "--", "sh", "-c", script]);
    // The init's arguments hold the command's words, too.
    assert_eq!(said, "tare\n2\n");
    let exit = place.output(&["container", "exec", "box", "--", "sh", "-c", "exit 9"]);
    assert_eq!(exit.status.code(), Some(9));
    place.says(&["container", "pause", "box"]);
    assert_eq!(list(&place)[0]["status"], "paused");
    place.says(&["container", "resume", "box"]);
    assert_eq!(list(&place)[0]["status"], "running");
    let stats: serde_json::Value =
        serde_json::from_str(&place.says(&["container", "stats", "--json", "box"])).unwrap();
    assert_eq!(stats[0]["name"], "box");
    let refused = place.output(&["container", "rm", "box"]);
    assert!(!refused.status.success() && text(&refused).contains("-f"), "{}", text(&refused));
    place.says(&["container", "rm", "-f", "box"]);
    assert_eq!(list(&place), serde_json::json!([]));
    let gone = place.output(&["container", "exec", "box", "--", "true"]);
    assert!(text(&gone).contains("no container box"), "{}", text(&gone));
}

#[test]
fn test_attached_terminal_is_the_containers_and_its_status_comes_back() {
    let Some(place) = Place::new("test_attached_terminal") else { return };
    let script = "echo ready; read word; echo got $word; exit 6";
    let run = ["container", "run", "-d", "-t", "--name", "term", "--", "sh", "-c", script];
    assert_eq!(place.says(&run), "term\n");
    let attach = ["container", "attach", "term"];
    let mut child =
        place.tare(&attach).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut heard = String::new();
    let mut until = |word: &str| {
        while !heard.contains(word) {
            let mut bytes = [0; 64];
            let count = from.read(&mut bytes).unwrap();
            assert!(count > 0, "{heard}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    until("ready");
    input.write_all(b"word\n").unwrap();
    until("got word");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    drop(input);
}

#[test]
fn test_container_of_a_killed_holder_is_swept() {
    let Some(place) = Place::new("test_container_of_a_killed_holder") else { return };
    let run = ["container", "run", "--name", "orphan", "--pids", "9", "--", "sleep", "1004"];
    let mut holder = place.tare(&run).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let pid = loop {
        let listed: serde_json::Value =
            serde_json::from_str(&place.says(&["container", "ls", "--json"])).unwrap();
        if let Some(pid) = listed[0]["pid"].as_u64() {
            break pid;
        }
        assert!(Instant::now() < deadline);
    };
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(place.says(&["container", "ls", "--json"]), "[]\n");
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while state().contains("sleep") && !state().contains(") Z") {
        assert!(Instant::now() < deadline, "{}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_dir(place.0.path().join("tare")).unwrap().count(), 0);
}

#[test]
fn test_oci_run_does_what_the_bundle_says_and_exec_is_as_confined() {
    let Some(place) = Place::new("test_oci_run_does") else { return };
    let config = |args: serde_json::Value| {
        serde_json::json!({
            "ociVersion": "1.2.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "env": ["PATH=/bin"],
                         "cwd": "/", "noNewPrivileges": true },
            "root": { "path": "rootfs" },
            "hostname": "bundled",
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }] },
        })
    };
    let bundle = place.0.path().to_str().unwrap();
    let write = |value: &serde_json::Value| {
        fs::write(place.0.path().join("config.json"), value.to_string()).unwrap();
    };
    write(&config(serde_json::json!(["sh", "-c", "hostname; exit 4"])));
    let output = place.output(&["oci", "run", bundle]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert_eq!(output.stdout, b"bundled\n");
    write(&config(serde_json::json!(["sleep", "1004"])));
    assert_eq!(place.says(&["oci", "run", "-d", "--name", "b", bundle]), "b\n");
    let script = "hostname; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status";
    let said = place.says(&["container", "exec", "b", "--", "sh", "-c", script]);
    assert_eq!(said, "bundled\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
    place.says(&["container", "rm", "-f", "b"]);
    let mut odd = config(serde_json::json!(["sh"]));
    odd["linux"]["intelRdt"] = serde_json::json!({});
    write(&odd);
    let output = place.output(&["oci", "run", bundle]);
    assert!(!output.status.success());
    assert!(text(&output).contains("linux.intelRdt is not supported"), "{}", text(&output));
}
