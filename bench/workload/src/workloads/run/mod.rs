//! `run`: the user's own command.
//!
//! The agent waits for the command and for every orphan that the kernel hands to it as PID 1, and
//! passes signals on, since PID 1 has no default handlers. When the command ends, so does the box.

mod converse;
mod ends;
mod locate;
mod relay;
mod signals;
mod spawn;
mod streams;
mod terminal;

use alloc::boxed::Box;
use core::time::Duration;

use crate::clock::now_ns;
use crate::sys::die_with_parent;
use crate::{
    Context, Env, Error, MetricSpec, ParameterError, Params, Prepared, Report, Stdio, Unit,
    Workload,
};
use converse::Conversation;
use ends::Ends;
use relay::Relay;
use spawn::{Program, Usage};

/// The workload `run`.
pub(crate) struct Run;

impl Workload for Run {
    fn name(&self) -> &'static str {
        "run"
    }

    fn about(&self) -> &'static str {
        "a command of the user's: from its fork to its end"
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::time("command_wall_ns", "from the command's fork to its end"),
                MetricSpec::time("command_user_ns", "processor time in user mode"),
                MetricSpec::time("command_system_ns", "processor time in the kernel"),
                MetricSpec::size("command_resident_bytes", "largest resident size"),
            ]
        }
    }

    fn needs_proc(&self) -> bool {
        true
    }

    fn check(&self, _: &Params) -> Result<(), ParameterError> {
        Ok(())
    }

    fn prepare<'env>(
        &self,
        _: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let program = Program::locate(env.command)?;
        env.outlet.seal().on("fcntl(FD_CLOEXEC)", "the channel to the host")?;
        let (streams, ends) = match env.stdio {
            Stdio::Inherit => {
                die_with_parent().on("prctl(PR_SET_PDEATHSIG)", "the agent")?;
                (Streams::Inherited, None)
            }
            Stdio::Frames => {
                let (relay, ends) = Relay::new(env.outlet)?;
                (Streams::Relayed(relay), Some(ends))
            }
            Stdio::Conversation { fd, terminal } => {
                let (conversation, ends) = Conversation::new(fd, terminal)?;
                (Streams::Conversed(conversation), Some(ends))
            }
        };
        Ok(Box::new(Command { program, streams, ends }))
    }
}

struct Command<'env> {
    program: Program,
    streams: Streams<'env>,
    /// The command's side, until it is started.
    ends: Option<Ends>,
}

/// What becomes of the command's standard streams.
enum Streams<'env> {
    Inherited,
    Relayed(Relay<'env>),
    Conversed(Conversation),
}

impl Prepared for Command<'_> {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let signals = signals::Forwarding::begin()?;
        let start_ns = now_ns();
        let child = self.program.spawn(self.ends.take(), &signals)?;
        signals.forward_to(child);
        let (status, usage) = match &mut self.streams {
            Streams::Inherited => spawn::wait(child)?,
            Streams::Relayed(relay) => relay.until_end_of(child, &signals)?,
            Streams::Conversed(conversation) => conversation.until_end_of(child, &signals)?,
        };
        let wall_ns = (now_ns() - start_ns) as f64;
        record(report, wall_ns, &usage)?;
        if let Streams::Conversed(conversation) = &mut self.streams {
            conversation.farewell(status)?;
        }
        Ok(status)
    }
}

fn record(report: &mut Report, wall_ns: f64, usage: &Usage) -> Result<(), Error> {
    let time = |duration: Duration| [duration.as_nanos() as f64];
    report.record("command_wall_ns", Unit::Nanoseconds, [wall_ns])?;
    report.record("command_user_ns", Unit::Nanoseconds, time(usage.user))?;
    report.record("command_system_ns", Unit::Nanoseconds, time(usage.system))?;
    Ok(report.record("command_resident_bytes", Unit::Bytes, [usage.resident_bytes as f64])?)
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;
    use crate::FrameKind;
    use crate::workloads::test_support::{Recorder, run_with, samples};

    type Frames = Vec<(FrameKind, Vec<u8>)>;

    /// Runs a command; its output comes back as frames.
    fn run(command: &[&str]) -> Result<(i32, Report, Frames), Error> {
        let outlet = Recorder::default();
        let command: Vec<String> = command.iter().map(|word| word.to_string()).collect();
        let env = Env {
            outlet: &outlet,
            scratch: None,
            peer: None,
            command: &command,
            stdio: Stdio::Frames,
        };
        let (status, report) = run_with("run", &[], &env)?;
        Ok((status, report, outlet.frames.take()))
    }

    /// All of these in one test: signal handlers and children belong to the whole process.
    #[test]
    fn test_run_reports_status_output_and_usage() {
        let (status, report, frames) = run(&["/bin/sh", "-c", "echo out; exit 3"]).unwrap();
        assert_eq!(status, 3);
        assert_eq!(frames, [(FrameKind::Stdout, b"out\n".to_vec())]);
        assert!(samples(&report, "command_wall_ns")[0] > 0.0);
        assert!(samples(&report, "command_resident_bytes")[0] > 0.0);

        let (status, _, frames) = run(&["sh", "-c", "echo err >&2; kill -9 $$"]).unwrap();
        assert_eq!(status, 128 + 9);
        assert_eq!(frames, [(FrameKind::Stderr, b"err\n".to_vec())]);

        // More output than a pipe holds, and an orphan that keeps the pipe open.
        let script = "head -c 300000 /dev/zero; sleep 2 & exit 0";
        let (status, _, frames) = run(&["sh", "-c", script]).unwrap();
        assert_eq!(status, 0);
        assert_eq!(frames.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 300_000);

        // Nothing to read, and no wait for it.
        let (status, _, frames) = run(&["cat"]).unwrap();
        assert_eq!((status, frames.len()), (0, 0));
    }

    #[test]
    fn test_run_missing_command_returns_127_or_126() {
        let error = run(&["no-such-command-anywhere"]).unwrap_err();
        assert_eq!(error.exit_status(), 127);
        assert!(error.to_string().contains("no directory of PATH"), "{error}");
        let error = run(&["/no/such/command"]).unwrap_err();
        assert_eq!(error.exit_status(), 127);
        for not_executable in ["/etc/passwd", "/tmp"] {
            let error = run(&[not_executable]).unwrap_err();
            assert_eq!(error.exit_status(), 126, "{error}");
        }
        assert_eq!(run(&[]).unwrap_err(), Error::NoCommand);
    }
}
