//! Further processes in a box that runs, what is hidden in it, and starts that are attended.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use tare_container::{
    Attributes, Capabilities, Change, Error, FileSystem, Limits, Moment, Mount, Node, Program,
    Running, SeccompFilter, Spec, Stream, Terminal, Tree,
};

use crate::support::{Bench, stream};

/// A shell for [`Spec::prepare_in`], as confined as a container.
fn further(script: &str) -> Spec {
    Spec {
        capabilities: Some(Capabilities::DOCKER),
        no_new_privs: true,
        seccomp: Some(SeccompFilter::standard()),
        ..Spec::process(Program::command("/bin/sh")).args(["sh", "-c", script])
    }
}

fn output(spec: Spec, running: &Running) -> (i32, String) {
    let mut file = tempfile::tempfile().unwrap();
    let spec = Spec { stdio: [Stream::Null, stream(&file), stream(&file)], ..spec };
    let mut container = spec.prepare_in(running).unwrap().spawn().unwrap();
    let status = container.wait().unwrap().shell_status();
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    (status, text)
}

#[test]
fn test_further_process_is_in_all_namespaces_and_the_cgroup() {
    let Some(bench) = Bench::new("test_further_process_is_in_all_namespaces") else { return };
    let mut spec = bench.shell("echo first > /tmp/mark; echo ready; sleep 1004");
    spec.limits = Limits { pids: Some(20), ..Limits::default() };
    let (mut reader, writer) = std::io::pipe().unwrap();
    spec.stdio[1] = Stream::File(writer.into());
    let mut first = match spec.prepare() {
        Ok(prepared) => prepared.spawn().unwrap(),
        Err(Error::Cgroup(why)) => {
            return crate::support::skip("test_further_process", &why.to_string()).unwrap_or(());
        }
        Err(error) => panic!("{error}"),
    };
    reader.read_exact(&mut [0; 6]).unwrap();
    let running = Running::of(&first).unwrap();
    let script = "cat /tmp/mark; hostname; ps | grep -c 'sleep 100[4]'; \
                  grep -c CapEff:.00000000a80425fb /proc/self/status; \
                  cat /proc/1/cgroup > /tmp/a; cat /proc/self/cgroup > /tmp/b; \
                  cmp /tmp/a /tmp/b && echo same; exit 9";
    let (status, text) = output(further(script), &running);
    assert_eq!((status, text.as_str()), (9, "first\ntare\n1\n1\nsame\n"));
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let (_, text) = output(further(&format!("readlink /proc/self/ns/{kind}")), &running);
        assert_eq!(text.trim(), of(&first.pid().to_string()).to_str().unwrap());
        assert_ne!(text.trim(), of("self").to_str().unwrap());
    }
    let spec = Spec { program: Program::command("/absent"), ..further("") };
    let error = spec.prepare_in(&running).unwrap().spawn().unwrap_err();
    assert_eq!(error.shell_status(), 127, "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
    drop(first);
    assert!(further("").prepare_in(&running).is_err());
}

#[test]
fn test_further_process_has_a_terminal_of_the_box() {
    let Some(bench) = Bench::new("test_further_process_has_a_terminal") else { return };
    let first = bench.shell("sleep 1004").prepare().unwrap().spawn().unwrap();
    let running = Running::of(&first).unwrap();
    let terminal = Some(Terminal { rows: 5, columns: 6 });
    let spec = Spec { terminal, ..further("readlink /proc/self/fd/1; stty size") };
    let mut second = spec.prepare_in(&running).unwrap().spawn().unwrap();
    let mut terminal = File::from(second.take_terminal().unwrap());
    assert!(second.wait().unwrap().success());
    let mut text = String::new();
    // At the end of its last user a terminal fails (EIO).
    let _ = terminal.read_to_string(&mut text);
    assert_eq!(text, "/dev/pts/0\r\n5 6\r\n");
}

#[test]
fn test_found_container_is_the_one_that_was_meant() {
    let Some(bench) = Bench::new("test_found_container_is_the_one") else { return };
    let first = bench.shell("sleep 1004").prepare().unwrap().spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", first.pid())).unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
    let ticks: u64 = ticks.parse().unwrap();
    let running = Running::find(first.pid(), ticks, Vec::new()).unwrap().unwrap();
    assert_eq!(output(further("hostname"), &running), (0, "tare\n".into()));
    assert!(Running::find(first.pid(), ticks + 1, Vec::new()).unwrap().is_none());
    let pid = first.pid();
    first.remove().unwrap();
    assert!(Running::find(pid, ticks, Vec::new()).unwrap().is_none());
}

#[test]
fn test_masked_and_read_only_paths_hide_and_protect() {
    let Some(bench) = Bench::new("test_masked_and_read_only_paths") else { return };
    std::fs::write(bench.rootfs().join("etc/secret"), "secret").unwrap();
    std::fs::create_dir(bench.rootfs().join("etc/secrets")).unwrap();
    std::fs::write(bench.rootfs().join("etc/secrets/one"), "secret").unwrap();
    let script = "cat /etc/secret; ls /etc/secrets; cat /proc/cpuinfo /proc/meminfo; \
                  ls /proc/tty; ls /sys/class; (echo x > /etc/y) 2>/dev/null || echo read-only; \
                  echo x > /tmp/y && echo written";
    let mut spec = bench.shell(script);
    spec.masked = [
        "/etc/secret",
        "/etc/secrets",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/tty",
        "/sys/class",
        "/no/such",
    ]
    .map(Into::into)
    .into();
    spec.read_only = vec!["/etc".into(), "/nowhere".into()];
    assert_eq!(bench.run(spec).1, "read-only\nwritten\n");
    let spec = Spec { masked: vec!["relative".into()], ..bench.shell("") };
    assert!(spec.prepare().unwrap_err().to_string().contains("not an absolute path"));
}

#[test]
fn test_mounts_in_every_detail_with_nodes_and_links() {
    let Some(bench) = Bench::new("test_mounts_in_every_detail") else { return };
    let (read_only, no_exec) = (0x1, 0x8);
    let below = bench.directory.path().join("tree");
    std::fs::create_dir_all(below.join("a")).unwrap();
    let system = |kind: &str, target: &str, options: &[(&str, Option<&str>)], set| {
        Mount::FileSystem(FileSystem {
            kind: kind.into(),
            source: None,
            target: target.into(),
            options: options.iter().map(|(k, v)| (k.into(), v.map(Into::into))).collect(),
            attributes: Attributes { set, clear: 0 },
            propagation: None,
        })
    };
    let mut spec = bench.shell(
        "grep -o ' /deep/t rw,noexec.*size=1024k' /proc/self/mountinfo | wc -l; ls -d /deep/q; \
         echo x > /deep/r/a/file 2>&1 || echo read-only; stat -c '%t %T %a %u' /deep/t/null; \
         readlink /deep/t/l; ls /",
    );
    spec.mounts = vec![
        system("tmpfs", "/deep/t", &[("size", Some("1m"))], no_exec),
        system("mqueue", "/deep/q", &[], no_exec),
        Mount::Tree(Tree {
            source: below,
            target: "/deep/r".into(),
            recursive: true,
            attributes: Attributes { set: read_only, clear: 0 },
            propagation: None,
        }),
        Mount::Change(Change {
            target: "/".into(),
            recursive: false,
            attributes: Attributes { set: read_only, clear: 0 },
            propagation: None,
        }),
    ];
    let path = "/deep/t/null".into();
    spec.nodes =
        vec![Node { path, mode: libc::S_IFCHR | 0o640, major: 1, minor: 3, uid: 7, gid: 8 }];
    spec.links = vec![("/deep/t/l".into(), "null".into())];
    let text = bench.run(spec).1;
    assert!(text.starts_with("1\n/deep/q\n"), "{text}");
    assert!(text.contains("read-only\n1 3 640 7\nnull\nbin\ndeep\n"), "{text}");
}

#[test]
fn test_attended_start_calls_at_each_moment_and_can_be_called_off() {
    let Some(bench) = Bench::new("test_attended_start") else { return };
    let prepared = bench.shell("cat /tmp/note").prepare_attended().unwrap();
    assert!(prepared.spawn().unwrap_err().to_string().contains("spawn_attended"));
    let seen = Mutex::new(Vec::new());
    let mut container = prepared
        .spawn_attended(&[], |moment, pid| {
            let root = format!("/proc/{pid}/root");
            let is_host = Path::new(&root).join("proc/sys").exists()
                && !Path::new(&root).join("bin/busybox").is_symlink()
                && Path::new(&root).join("root").is_dir();
            if moment == Moment::Furnished {
                std::fs::write(format!("{root}/tmp/note"), "noted").unwrap();
            }
            seen.lock().unwrap().push((moment, is_host));
            Ok::<(), Error>(())
        })
        .unwrap();
    assert!(container.wait().unwrap().success());
    assert_eq!(*seen.lock().unwrap(), [(Moment::Made, true), (Moment::Furnished, false)]);
    for at in [Moment::Made, Moment::Furnished] {
        let error = prepared
            .spawn_attended(&[], |moment, _| {
                let problem = "enough".to_owned();
                let error = Error::Invalid { field: "test", problem, remedy: "go on" };
                if moment == at { Err(error) } else { Ok(()) }
            })
            .unwrap_err();
        assert!(error.to_string().contains("enough"), "{error}");
    }
}
