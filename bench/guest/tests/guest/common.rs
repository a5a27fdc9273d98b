//! The shipped agent, run as a plain process with a pipe as its channel.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use tare_workload::{Channel, Decoder, Event, FrameKind, Job, Mark, Report};

/// The agent as it is shipped, which is not as `cargo test` builds it: with its own profile and
/// flags, as bench/build.rs does.
pub(crate) fn agent() -> &'static PathBuf {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| {
        let target_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("agent");
        let target = "x86_64-unknown-linux-musl";
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "tare-guest", "--profile", "guest"])
            .args(["--target", target, "--target-dir"])
            .arg(&target_dir)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("RUSTFLAGS", "-C relocation-model=static -C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .status()
            .unwrap();
        assert!(status.success(), "building the agent: {status}");
        target_dir.join(target).join("guest/tare-guest")
    })
}

/// A job for a plain process.
pub(crate) fn job(workload: &str, parameters: &[(&str, &str)]) -> Job {
    parameters
        .iter()
        .fold(Job::new(Channel::Fd(3), workload), |job, (name, value)| job.with(name, value))
}

/// What came out of a box.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) marks: Vec<Mark>,
    pub(crate) report: Option<Report>,
    pub(crate) error: Option<String>,
    pub(crate) stdout: String,
    pub(crate) status: ExitStatus,
}

/// Starts the agent with these arguments and a pipe as descriptor 3.
pub(crate) fn start(words: &[String]) -> (Child, std::io::PipeReader) {
    start_program(agent().to_str().unwrap(), words)
}

/// Starts a program, which starts the agent, with a pipe as descriptor 3.
pub(crate) fn start_program(program: &str, words: &[String]) -> (Child, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let fd = writer.as_raw_fd();
    // SAFETY: dup2 and fcntl are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // Onto itself dup2 does nothing, close-on-exec included.
            let done = if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) };
            if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    (command.spawn().unwrap(), reader)
}

/// Runs the agent with these arguments to its end.
pub(crate) fn run_words(words: &[String]) -> Outcome {
    let (child, reader) = start(words);
    finish(child, reader)
}

/// Runs a job to its end.
pub(crate) fn run(job: &Job) -> Outcome {
    run_words(&job.to_words())
}

/// Reads the channel to its end and waits.
pub(crate) fn finish(child: Child, mut reader: std::io::PipeReader) -> Outcome {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    let mut outcome = Outcome {
        marks: Vec::new(),
        report: None,
        error: None,
        stdout: String::from_utf8(output.stdout).unwrap(),
        status: output.status,
    };
    let mut decoder = Decoder::default();
    decoder
        .push(&bytes, |event| match event {
            Event::Mark(mark) => outcome.marks.push(mark),
            Event::Frame(FrameKind::Report, payload) => {
                assert!(outcome.report.replace(Report::decode(&payload).unwrap()).is_none());
            }
            Event::Frame(FrameKind::Error, payload) => {
                let text = String::from_utf8(payload).unwrap();
                assert!(outcome.error.replace(text).is_none());
            }
            other => panic!("unexpected {other:?}"),
        })
        .unwrap();
    assert!(!decoder.is_inside_frame());
    outcome
}
