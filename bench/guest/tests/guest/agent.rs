//! The agent as a plain process: every workload, and everything that can be wrong with a job.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{agent, finish, job, run, run_words, start, start_program};
use tare_workload::Mark::{Done, Init, Probe, Ready};
use tare_workload::{Better, Network, find};

fn small(workload: &str) -> Vec<(&'static str, &'static str)> {
    match workload {
        "cpu" => vec![
            ("repeats", "1"),
            ("scale_percent", "1"),
            ("buffer_bytes", "65536"),
            ("chase_bytes", "65536"),
        ],
        "memory" => vec![("bytes", "1048576")],
        "syscall" => vec![("getpid_calls", "20"), ("switches", "20"), ("forks", "2")],
        "file" => vec![("file_bytes", "262144"), ("count", "8"), ("files", "4")],
        "probe" => vec![("count", "3")],
        _ => vec![],
    }
}

#[test]
fn test_every_measuring_workload_reports_all_its_metrics() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["cpu", "memory", "syscall", "file"] {
        let mut job = job(name, &small(name));
        job.scratch = Some(scratch.path().to_str().unwrap().to_string());
        let outcome = run(&job);
        assert_eq!(outcome.error, None, "{name}");
        assert!(outcome.status.success(), "{name}: {outcome:?}");
        assert_eq!(outcome.marks, [Init, Ready, Done], "{name}");
        let report = outcome.report.unwrap();
        for metric in find(name).unwrap().metrics() {
            let found = report.metric(metric.name);
            let found = found.unwrap_or_else(|| panic!("{name} lacks {}", metric.name));
            assert_eq!(found.unit, metric.unit);
            if metric.better == Better::Higher {
                assert!(found.samples.iter().all(|sample| *sample > 0.0), "{found:?}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn test_start_sends_marks_and_no_report() {
    let outcome = run(&job("start", &[]));
    assert_eq!(outcome.marks, [Init, Ready, Done]);
    assert_eq!((outcome.report, outcome.error), (None, None));
    assert!(outcome.status.success());
}

#[test]
fn test_probe_sends_its_marks_between_ready_and_done() {
    let outcome = run(&job("probe", &small("probe")));
    assert_eq!(outcome.marks, [Init, Ready, Probe, Probe, Probe, Done]);
    assert_eq!(outcome.report.unwrap().metric("mark_ns").unwrap().samples.len(), 3);
}

#[test]
fn test_hold_keeps_the_box_idle_after_done() {
    let mut job = job("start", &[]);
    job.hold_ms = 120;
    let began = Instant::now();
    assert!(run(&job).status.success());
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[test]
fn test_run_passes_output_and_exit_status_of_the_command_on() {
    let mut job = job("run", &[]);
    job.command =
        ["sh", "-c", "printf '%s' \"$1\"; readlink /proc/self/fd/3; exit 7", "sh", "a, b%\u{e9}\n"]
            .map(str::to_string)
            .to_vec();
    let outcome = run(&job);
    assert_eq!(outcome.status.code(), Some(7));
    // And nothing of descriptor 3: the command does not inherit the channel.
    assert_eq!(outcome.stdout, "a, b%\u{e9}\n");
    assert_eq!(outcome.marks, [Init, Ready, Done]);
    assert!(outcome.report.unwrap().metric("command_wall_ns").unwrap().samples[0] > 0.0);
}

#[test]
fn test_run_missing_or_broken_command_returns_127_or_126_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_string()
    };
    for (command, status, reason) in [
        ("no-such-command".to_string(), 127, "no directory of PATH has it"),
        ("/no/such/command".to_string(), 127, "No such file or directory"),
        (path("orphan", "#!/no/such/interpreter\n", 0o755), 127, "dynamic loader"),
        (path("plain", "text", 0o644), 126, "Permission denied"),
        (path("garbage", "\u{1}\u{2}", 0o755), 126, "Exec format error"),
        ("/tmp".to_string(), 126, "Is a directory"),
    ] {
        let mut job = job("run", &[]);
        job.command = vec![command.clone()];
        let outcome = run(&job);
        assert_eq!(outcome.status.code(), Some(status), "{command}");
        let error = outcome.error.unwrap();
        assert!(error.contains(reason) && error.contains(&command), "{error}");
    }
    let outcome = run(&job("run", &[]));
    assert_eq!(outcome.status.code(), Some(125));
    assert!(outcome.error.unwrap().contains("command="));
}

#[test]
fn test_run_forwards_signals_to_the_command() {
    let mut job = job("run", &[]);
    let script = "trap 'exit 9' TERM; echo; while :; do sleep 0.01; done";
    job.command = ["sh", "-c", script].map(str::to_string).to_vec();
    let (mut child, reader) = start(&job.to_words());
    // The line says that the trap is set.
    let mut line = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    // SAFETY: the child has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(finish(child, reader).status.code(), Some(9));
}

#[test]
fn test_command_killed_by_a_signal_returns_128_plus_its_number() {
    let mut job = job("run", &[]);
    job.command = ["sh", "-c", "kill -9 $$"].map(str::to_string).to_vec();
    assert_eq!(run(&job).status.code(), Some(128 + 9));
}

#[test]
fn test_invalid_jobs_return_125_with_the_reason() {
    for (line, reason) in [
        ("channel=fd:3", "the job does not say 'workload='"),
        ("channel=fd:3 workload=dance", "there is no workload 'dance'; there are: start, cpu"),
        ("channel=fd:3 workload=start quiet", "'quiet' is not of the form key=value"),
        ("channel=fd:3 workload=start speed=9", "the workload 'start' has no parameter 'speed'"),
        ("channel=fd:3 workload=cpu repeats=0", "repeats=0 is not allowed"),
        ("channel=fd:3 workload=start x=%zz", "percent sign"),
        ("channel=fd:3 workload=file", "scratch="),
        ("channel=fd:3 workload=file scratch=/no/such/directory", "/no/such/directory/tare-data"),
        ("channel=fd:3 channel=com1 workload=start", "given twice"),
    ] {
        let words: Vec<_> = line.split(' ').map(str::to_string).collect();
        let outcome = run_words(&words);
        assert_eq!(outcome.status.code(), Some(125), "{line}");
        assert_eq!(outcome.marks, [Init], "{line}");
        let error = outcome.error.unwrap();
        assert!(error.contains(reason), "{line}: {error}");
    }
}

#[test]
fn test_job_without_a_usable_channel_says_so_on_standard_error() {
    for (argument, reason) in [
        ("workload=start", "no channel=fd:NUMBER"),
        ("channel=com2", "no channel=fd:NUMBER"),
        ("channel=com1", "first process of a microVM"),
    ] {
        let output = Command::new(agent()).arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{argument}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(reason), "{argument}: {text}");
    }
}

#[test]
fn test_agent_dies_of_a_channel_that_nobody_reads() {
    let (child, reader) = start(&job("start", &[]).to_words());
    drop(reader);
    let status = child.wait_with_output().unwrap().status;
    // It may have sent everything before the reader was dropped.
    assert!(status.success() || status.signal() == Some(libc::SIGPIPE), "{status}");
}

#[test]
fn test_full_disk_is_reported_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", path])
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_full_disk_is_reported_with_the_file: cannot mount a tmpfs\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    }
    let mut job = job("file", &[]);
    job.scratch = Some(path.to_string());
    let outcome = run(&job);
    let left_behind = std::fs::read_dir(path).unwrap().count();
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    assert_eq!(outcome.status.code(), Some(125));
    assert!(outcome.error.unwrap().contains("No space left on device"));
    assert_eq!(left_behind, 0);
}

#[test]
fn test_exit_ends_at_once() {
    assert!(Command::new(agent()).arg("exit").status().unwrap().success());
}

/// What starting costs is part of every figure, so its length is fixed here.
#[test]
fn test_start_makes_no_more_system_calls_than_it_needs() {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let run = Command::new("strace")
        .arg("-o")
        .arg(trace.path())
        .arg(agent())
        .args(["channel=fd:1", "workload=start"])
        .output();
    let Ok(output) = run else {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_start_makes_no_more_system_calls_than_it_needs: no strace\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(trace.path()).unwrap();
    let calls: Vec<_> =
        trace.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect();
    // Set-up of the C library, then at once the first mark.
    assert_eq!(calls[..4], ["execve", "arch_prctl", "set_tid_address", "write"]);
    assert!(calls.len() <= 12, "{calls:?}");
}

/// The agent as PID 1 of a PID namespace: `None` if none can be made.
fn start_as_first_process(command: &[&str]) -> Option<(std::process::Child, std::io::PipeReader)> {
    let can = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    if !can.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "cannot make a PID namespace");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!("SKIPPED a test as PID 1: cannot make a PID namespace\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return None;
    }
    let mut job = job("run", &[]);
    job.command = command.iter().map(|word| word.to_string()).collect();
    let mut words = ["--pid", "--fork", agent().to_str().unwrap()].map(str::to_string).to_vec();
    words.extend(job.to_words());
    Some(start_program("unshare", &words))
}

#[test]
fn test_first_process_reaps_orphans_and_ends_with_its_command() {
    let script = "for n in 1 2 3; do (sleep 0.05 &); done; sleep 0.2; (sleep 100 &); exit 4";
    let Some((child, reader)) = start_as_first_process(&["sh", "-c", script]) else { return };
    let began = Instant::now();
    let outcome = finish(child, reader);
    assert_eq!(outcome.status.code(), Some(4), "{outcome:?}");
    assert_eq!(outcome.marks, [Init, Ready, Done]);
    assert!(began.elapsed() < Duration::from_secs(50));
}

#[test]
fn test_first_process_forwards_signals_that_it_would_ignore() {
    let script = "trap 'exit 9' TERM; echo; while :; do sleep 0.01; done";
    let Some((mut child, reader)) = start_as_first_process(&["sh", "-c", script]) else { return };
    let mut line = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    // SAFETY: the process is unshare's child, which unshare has not waited for.
    assert_eq!(unsafe { libc::kill(first, libc::SIGTERM) }, 0);
    assert_eq!(finish(child, reader).status.code(), Some(9));
}

#[test]
fn test_network_identity_is_taken_on_before_the_command_runs() {
    // Onto a tap in a network namespace of its own: /dev/net/tun and a privilege are needed.
    let tap = "busybox tunctl -t eth0 >/dev/null";
    let unshared = |script: &str| {
        let words = ["unshare", "-n", "busybox", "sh", "-c", script, "sh"];
        words.map(str::to_string).to_vec()
    };
    let can = Command::new("busybox").args(unshared(tap)).output();
    if !can.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "cannot make a tap in a network namespace");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_network_identity_is_taken_on_before_the_command_runs: no tap\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    }
    let with = |text: &str| {
        let mut job = job("run", &[]);
        job.network = Some(Network::parse(text).unwrap());
        let show = "busybox ifconfig eth0; busybox route -n";
        job.command = ["sh", "-c", show].map(str::to_string).to_vec();
        let mut words = unshared(&format!("{tap}; exec {} \"$@\"", agent().display()));
        words.extend(job.to_words());
        let (child, reader) = start_program("busybox", &words);
        finish(child, reader)
    };
    let outcome = with("eth0,02:00:00:00:0a:07,10.0.0.7/20,10.0.0.1");
    assert_eq!(outcome.error, None);
    for word in ["02:00:00:00:0A:07", "addr:10.0.0.7", "Mask:255.255.240.0", "UP"] {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
    let mut routes = outcome.stdout.lines().map(str::split_whitespace);
    let default = routes.find_map(|mut words| (words.next() == Some("0.0.0.0")).then_some(words));
    assert_eq!(default.unwrap().next(), Some("10.0.0.1"), "{}", outcome.stdout);
    let outcome = with("eth7,02:00:00:00:0a:07,10.0.0.7/20");
    assert!(outcome.error.unwrap().contains("eth7"));
}
