//! What the checks measure: boxes of the process backend, and programs of others.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tare_workload::{Channel, Job, Workload};

use super::Error;
use crate::backend::{self, Assignment, Instance, Prepared};
use crate::clock::now_ns;
use crate::harness::{Attendant, Conduct, replicate};
use crate::interrupt;
use crate::kit::Kit;
use crate::results::{Edge, Sample};
use crate::statistics::median;

/// A box, or a program of others, that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a program of others is looked after. Nothing is timed by this.
const LOOK: Duration = Duration::from_millis(5);

/// Plain processes that run a job, again and again.
pub(super) struct Runs {
    prepared: Box<dyn Prepared>,
    workload: &'static dyn Workload,
}

/// Drops what a box writes.
struct Deaf;

impl Attendant for Deaf {
    fn output(&mut self, _is_stderr: bool, _bytes: &[u8]) {}
}

impl Runs {
    /// Of a workload with these parameters.
    pub(super) fn new(
        kit: &Kit,
        workload: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<Runs, Error> {
        let absent =
            |what: &str| Error::Program { program: "tare", why: format!("it has no {what}") };
        let backend = backend::find("process").ok_or_else(|| absent("backend 'process'"))?;
        let found = tare_workload::find(workload).ok_or_else(|| absent(workload))?;
        let mut assignment = Assignment::new(job(workload, parameters));
        assignment.scratch_mib = found.needs_scratch().then_some(64);
        Ok(Runs { prepared: backend.prepare(kit, &assignment)?, workload: found })
    }

    /// One run, from launch to clean.
    pub(super) fn sample(&self) -> Result<Sample, Error> {
        self.prepared.reset()?;
        self.follow(self.prepared.as_ref())
    }

    /// The same after a delay that is part of the launch.
    pub(super) fn delayed(&self, delay_ns: u64) -> Result<Sample, Error> {
        self.prepared.reset()?;
        self.follow(&Delayed { inner: self.prepared.as_ref(), delay_ns })
    }

    fn follow(&self, prepared: &dyn Prepared) -> Result<Sample, Error> {
        let conduct = Conduct { workload: self.workload, weigh: false, timeout: PATIENCE };
        Ok(replicate(prepared, conduct, &mut Deaf)?)
    }
}

/// A job as an agent of the process backend gets it, but for its channel.
pub(super) fn job(workload: &str, parameters: &[(&str, &str)]) -> Job {
    let job = Job::new(Channel::Com1, workload);
    parameters.iter().fold(job, |job, (name, value)| job.with(name, value))
}

/// Time between two edges of a sample.
pub(super) fn span_ns(sample: &Sample, to: Edge) -> f64 {
    sample.edges_ns.get(&to).copied().unwrap_or(0) as f64
}

/// The mean, over a sample, of one of its metrics: what a rate is made of.
pub(super) fn mean_of(sample: &Sample, metric: &str) -> Option<f64> {
    let found = sample.metrics.iter().find(|found| found.name == metric)?;
    Some(found.values.iter().sum::<f64>() / found.values.len() as f64)
}

/// The median, over a sample, of one of its metrics.
pub(super) fn median_of(sample: &Sample, metric: &str) -> Option<f64> {
    median(&sample.metrics.iter().find(|found| found.name == metric)?.values)
}

/// Starts of a plain process.
pub(super) struct Starts(Runs);

impl Starts {
    pub(super) fn new(kit: &Kit) -> Result<Starts, Error> {
        Ok(Starts(Runs::new(kit, "start", &[])?))
    }

    /// launch → init, in nanoseconds.
    pub(super) fn once(&self) -> Result<f64, Error> {
        Ok(span_ns(&self.0.sample()?, Edge::Init))
    }

    /// The same after a delay.
    pub(super) fn once_delayed(&self, delay_ns: u64) -> Result<f64, Error> {
        Ok(span_ns(&self.0.delayed(delay_ns)?, Edge::Init))
    }
}

/// A cell whose launch takes longer by a known time, spent on the CPU as any cause would.
struct Delayed<'a> {
    inner: &'a dyn Prepared,
    delay_ns: u64,
}

impl Prepared for Delayed<'_> {
    fn state(&self) -> Vec<String> {
        self.inner.state()
    }

    fn reset(&self) -> Result<(), backend::Error> {
        self.inner.reset()
    }

    fn launch(&self) -> Result<Box<dyn Instance>, backend::Error> {
        let until_ns = now_ns() + self.delay_ns;
        while now_ns() < until_ns {
            std::hint::spin_loop();
        }
        self.inner.launch()
    }
}

/// Runs a program of others to its end, in a process group of its own that ends with it.
pub(super) fn output(
    program: &'static str,
    package: &'static str,
    arguments: &[String],
) -> Result<Output, Error> {
    let failed = |why: String| Error::Program { program, why };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.process_group(0).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing { program, package });
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let group = -i32::try_from(child.id()).unwrap_or(0);
    let began = Instant::now();
    // What these programs print fits a pipe.
    let ended = loop {
        match child.try_wait() {
            Ok(Some(_)) => break Ok(()),
            Ok(None) if interrupt::requested() => break Err(Error::Interrupted),
            Ok(None) if began.elapsed() > PATIENCE => {
                break Err(failed(format!("no end after {} s", PATIENCE.as_secs())));
            }
            Ok(None) => thread::sleep(LOOK),
            Err(error) => break Err(failed(error.to_string())),
        }
    };
    if let Err(error) = ended {
        // SAFETY: a signal to a group that this process made; touches no memory.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = child.wait();
        return Err(error);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(format!("{}: {}", output.status, said.chars().take(400).collect::<String>())))
}

/// A number in what a program printed as JSON.
pub(super) fn number(program: &'static str, text: &[u8], pointer: &str) -> Result<f64, Error> {
    // fio may say something before.
    let start = text.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let value: Value = serde_json::from_slice(&text[start..]).map_err(|error| Error::Program {
        program,
        why: format!("its JSON cannot be read: {error}"),
    })?;
    let found = value.pointer(pointer).and_then(Value::as_f64).filter(|number| number.is_finite());
    found.ok_or_else(|| Error::Program { program, why: format!("its JSON lacks {pointer}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_number_is_found_after_other_words_and_missed_with_its_place() {
        let text = b"note: x\n{\"jobs\": [{\"read\": {\"iops\": 2.5}}]}";
        assert_eq!(number("fio", text, "/jobs/0/read/iops").unwrap(), 2.5);
        for (text, pointer) in [(&text[..], "/jobs/1"), (b"no", "/x"), (b"{", "/x")] {
            assert!(number("fio", text, pointer).unwrap_err().to_string().starts_with("fio: "));
        }
    }

    #[test]
    fn test_output_of_a_missing_or_failing_program_says_so() {
        let missing = output("no-such-program", "no-package", &[]).unwrap_err().to_string();
        assert!(missing.contains("apt-get install no-package"), "{missing}");
        let failing = output("sh", "dash", &["-c".to_owned(), "echo why >&2; exit 3".to_owned()]);
        assert!(failing.unwrap_err().to_string().contains("why"));
    }
}
