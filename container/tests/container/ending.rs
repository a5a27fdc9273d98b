//! How boxes end, and that no end is lost.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tare_container::{Descriptor, End, Floor, Namespaces, Program, Spec, Stream};

use crate::support::{Bench, busybox};

#[test]
fn test_exit_status_is_exact() {
    let Some(bench) = Bench::new("test_exit_status_is_exact") else { return };
    for status in [0, 1, 7, 42, 127, 255] {
        let (exit, _) = bench.run(bench.shell(&format!("exit {status}")));
        assert_eq!(exit.end, End::Exited(status));
        assert_eq!(exit.shell_status(), status);
    }
}

#[test]
fn test_signal_is_exact() {
    let Some(bench) = Bench::new("test_signal_is_exact") else { return };
    let mut spec = bench.shell("echo ready; sleep 1000");
    let (mut reader, writer) = std::io::pipe().unwrap();
    spec.stdio = [Stream::Null, Stream::File(writer.into()), Stream::Null];
    let prepared = spec.prepare().unwrap();
    let mut container = prepared.spawn().unwrap();
    reader.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(container.try_wait().unwrap(), None);
    // The first process of a pid namespace does not heed a signal without a handler.
    container.signal(libc::SIGTERM).unwrap();
    assert_eq!(container.try_wait().unwrap(), None);
    container.kill().unwrap();
    let exit = container.wait().unwrap();
    assert_eq!(exit.end, End::Signaled { signal: libc::SIGKILL, core: false });
    assert_eq!(exit.shell_status(), 137);
    assert_eq!(container.wait().unwrap(), exit);
    container.kill().unwrap();
    assert_eq!(container.remove().unwrap(), exit);
}

#[test]
fn test_signal_of_a_plain_process_is_exact() {
    let Some(bench) = Bench::new("test_signal_of_a_plain_process") else { return };
    let program = Program::command(bench.rootfs().join("bin/sh"));
    let spec = Spec::process(program).args(["sh", "-c", "kill -SEGV $$"]);
    let (exit, _) = bench.run(spec);
    assert!(matches!(exit.end, End::Signaled { signal: libc::SIGSEGV, .. }), "{exit:?}");
}

#[test]
fn test_fast_exit_is_never_lost_in_1000_rounds() {
    let Some(bench) = Bench::new("test_fast_exit_is_never_lost") else { return };
    let prepared = bench.shell("true").args(["true"]);
    let prepared = Spec { program: Program::command("true"), ..prepared }.prepare().unwrap();
    for round in 0..1000 {
        let mut container = prepared.spawn().unwrap();
        assert!(container.wait().unwrap().success(), "round {round}");
        container.remove().unwrap();
    }
}

#[test]
fn test_prepared_starts_from_many_threads_at_once() {
    let Some(bench) = Bench::new("test_prepared_starts_from_many_threads") else { return };
    let prepared = bench.shell("exit 3").prepare().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let mut container = prepared.spawn().unwrap();
                    assert_eq!(container.wait().unwrap().end, End::Exited(3));
                }
            });
        }
    });
}

#[test]
fn test_pidfd_becomes_readable_at_the_end() {
    let Some(bench) = Bench::new("test_pidfd_becomes_readable") else { return };
    let container = bench.shell("exit 0").prepare().unwrap().spawn().unwrap();
    let mut poll = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&container.as_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
}

#[test]
fn test_drop_kills_at_once() {
    let Some(bench) = Bench::new("test_drop_kills_at_once") else { return };
    let container = bench.shell("sleep 1000").prepare().unwrap().spawn().unwrap();
    let pid = container.pid();
    let begin = Instant::now();
    drop(container);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn test_container_dies_with_its_thread() {
    let Some(bench) = Bench::new("test_container_dies_with_its_thread") else { return };
    let prepared = bench.shell("sleep 1000").prepare().unwrap();
    let mut container =
        std::thread::scope(|scope| scope.spawn(|| prepared.spawn().unwrap()).join().unwrap());
    assert_eq!(container.wait().unwrap().shell_status(), 137);
}

#[test]
fn test_descriptors_arrive_under_their_numbers_and_no_others() {
    let Some(bench) = Bench::new("test_descriptors_arrive") else { return };
    let mut spec = bench.shell("echo three >&3; echo five >&5; ls /proc/self/fd");
    spec.descriptors = vec![
        Descriptor { number: 5, source: Stream::Slot(0) },
        Descriptor { number: 3, source: Stream::Slot(1) },
    ];
    spec.stdio = [Stream::Null, Stream::Slot(2), Stream::Null];
    let prepared = spec.prepare().unwrap();
    for _ in 0..3 {
        let mut pipes: Vec<_> = (0..3).map(|_| std::io::pipe().unwrap()).collect();
        {
            let slots: Vec<_> = pipes.iter().map(|(_, writer)| writer.as_fd()).collect();
            prepared.spawn_with(&slots).unwrap().wait().unwrap();
        }
        let texts: Vec<String> = pipes
            .drain(..)
            .map(|(mut reader, writer)| {
                drop(writer);
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                text
            })
            .collect();
        // 4 is the directory that ls itself reads.
        assert_eq!(texts, ["five\n", "three\n", "0\n1\n2\n3\n4\n5\n"]);
    }
    assert!(prepared.spawn_with(&[]).is_err());
}

#[test]
fn test_program_by_descriptor_runs_in_any_root_and_cannot_be_written() {
    let Some(bench) = Bench::new("test_program_by_descriptor") else { return };
    let path = bench.directory.path().join("program");
    std::fs::copy(busybox().unwrap(), &path).unwrap();
    let empty = bench.directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let file = || Program::File(File::open(&path).unwrap().into());
    let rootfs =
        || tare_container::Rootfs::Overlay { lower: vec![empty.clone()], size_bytes: None };
    let (exit, text) =
        bench.run(Spec::container(rootfs(), file()).args(["echo", "from", "nowhere"]));
    assert!(exit.success());
    assert_eq!(text, "from nowhere\n");
    // Writing would meet ETXTBSY while it runs; another change shows what protects it later.
    let (exit, text) =
        bench.run(Spec::container(rootfs(), file()).args(["chmod", "700", "/proc/self/exe"]));
    assert!(!exit.success());
    assert!(text.contains("Read-only file system"), "{text}");
}

#[test]
fn test_floors_run_and_are_reaped() {
    let Some(_bench) = Bench::new("test_floors_run_and_are_reaped") else { return };
    let program = || File::open(busybox().unwrap()).unwrap().into();
    let floor = Floor::new(program(), &["true".into()]).unwrap();
    assert!(floor.vfork_exec().unwrap().success());
    assert!(floor.clone3_all_namespaces().unwrap().success());
    let floor = Floor::new(program(), &["false".into()]).unwrap();
    assert_eq!(floor.run(Namespaces::PID).unwrap().end, End::Exited(1));
    let directory = File::open("/").unwrap().into();
    assert!(Floor::new(directory, &["x".into()]).unwrap().vfork_exec().is_err());
}

#[test]
fn test_usage_counts_time() {
    let Some(bench) = Bench::new("test_usage_counts_time") else { return };
    let (exit, _) = bench.run(bench.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"));
    assert!(exit.usage.user_us + exit.usage.system_us > 1000, "{exit:?}");
    assert!(exit.usage.max_rss_bytes > 100_000);
    assert!(exit.usage.minor_faults > 10);
}
