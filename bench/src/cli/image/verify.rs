//! `tare image verify`: one digest for all boxes, each computed inside the box.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tare_workload::{Channel, Job};

use super::exit;
use crate::backend::{self, Assignment, Availability};
use crate::cli::lab::{Errand, MachineArgs};
use crate::cli::launch::backend_names;
use crate::cli::{HostChoice, KitArgs};
use crate::harness::{Attendant, Conduct, replicate};
use crate::interrupt;
use crate::kit::Kit;
use crate::results::Sample;
use crate::rundir::RunDir;

/// What the workload reports its digest as.
const DIGEST_METRIC: &str = "digest_word_count";

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// The image: its name, its digest, or the first digits of that
    #[arg(value_name = "IMAGE")]
    target: String,
    /// Boxes to compute it in
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',', default_value = "process,container,microvm",
          value_parser = backend_names())]
    on: Vec<String>,
    /// Where boxes run
    #[arg(long, value_enum, default_value_t = HostChoice::Auto)]
    host: HostChoice,
    /// Kill a box after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout_s: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kit: KitArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

/// One box and what it came to.
type Row = (&'static str, Result<String, String>);

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<u8> {
    if args.host.is_lab_for(&args.on) {
        return verify_in_lab(args);
    }
    interrupt::listen()?;
    let mut choice = args.kit.choice();
    choice.image = Some(args.target.clone());
    let kit = Kit::new(choice)?;
    // What is wrong with the image is wrong everywhere: it is said once.
    let image = kit.image()?.context("no image is used")?.image().digest();
    let mut rows: Vec<Row> = Vec::new();
    for backend in args.on.iter().filter_map(|name| backend::find(name)) {
        rows.push((backend.name(), digest_in(&kit, backend, args)));
        if interrupt::requested() {
            return Ok(exit::INTERRUPTED);
        }
    }
    let code = code_of(&rows);
    let text = if args.json {
        let boxes: Vec<_> = rows
            .iter()
            .map(|(backend, outcome)| match outcome {
                Ok(digest) => json!({ "backend": backend, "digest": digest }),
                Err(why) => json!({ "backend": backend, "failure": why }),
            })
            .collect();
        format!("{:#}\n", json!({ "image": image, "boxes": boxes, "same": code == exit::OK }))
    } else {
        rows.iter().map(|(backend, outcome)| line(backend, outcome)).collect()
    };
    crate::cli::print_text(&text)?;
    Ok(code)
}

fn line(backend: &str, outcome: &Result<String, String>) -> String {
    match outcome {
        Ok(digest) => format!("{backend:>10}  {digest}\n"),
        Err(why) => format!("{backend:>10}  failed: {why}\n"),
    }
}

/// The digest that the agent computes in one box.
fn digest_in(
    kit: &Kit,
    backend: &'static dyn backend::Backend,
    args: &VerifyArgs,
) -> Result<String, String> {
    if let Availability::Unavailable { why, remedy } = backend.probe(kit) {
        return Err(format!("{why}; {remedy}"));
    }
    let workload = tare_workload::find("tree").ok_or("this build has no workload 'tree'")?;
    let assignment = Assignment {
        memory_mib: args.kit.memory_mib,
        with_rootfs: true,
        ..Assignment::new(Job::new(Channel::Com1, workload.name()))
    };
    let prepared = backend.prepare(kit, &assignment).map_err(|error| error.to_string())?;
    let timeout = Duration::from_secs(args.timeout_s);
    let conduct = Conduct { workload, weigh: false, timeout };
    let sample = replicate(prepared.as_ref(), conduct, &mut Silent);
    digest_of(&sample.map_err(|error| error.to_string())?).ok_or("it reported no digest".to_owned())
}

/// What a box says goes nowhere: the workload prints nothing.
struct Silent;

impl Attendant for Silent {
    fn output(&mut self, _: bool, _: &[u8]) {}
}

/// The digest from its eight words.
fn digest_of(sample: &Sample) -> Option<String> {
    let metric = sample.metrics.iter().find(|metric| metric.name == DIGEST_METRIC)?;
    let mut digest = [0; 32];
    if metric.values.len() != digest.len() / 4 {
        return None;
    }
    for (word, value) in digest.chunks_exact_mut(4).zip(&metric.values) {
        // It comes from the box: what is no word is no digest.
        if value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(value) {
            return None;
        }
        word.copy_from_slice(&(*value as u32).to_be_bytes());
    }
    Some(written(&digest))
}

/// As other digests are written.
pub(super) fn written(digest: &[u8; 32]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn code_of(rows: &[Row]) -> u8 {
    let digests: Vec<_> = rows.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).collect();
    if digests.windows(2).any(|pair| pair.first() != pair.last()) {
        exit::DIFFERENT
    } else if digests.len() == rows.len() && !rows.is_empty() {
        exit::OK
    } else {
        exit::INCOMPLETE
    }
}

fn verify_in_lab(args: &VerifyArgs) -> anyhow::Result<u8> {
    if args.host == HostChoice::Auto {
        eprintln!("tare: this machine has no VMX or SVM: verifying in the lab");
    }
    let mut arguments: Vec<OsString> = ["image", "verify", "--host", "local", "--on"]
        .map(OsString::from)
        .into_iter()
        .chain([args.on.join(",").into(), "--timeout-s".into(), args.timeout_s.to_string().into()])
        .chain(args.kit.forward())
        .collect();
    arguments.extend(args.json.then(|| OsString::from("--json")));
    arguments.push(args.target.clone().into());
    let out_dir = RunDir::new()?;
    let errand = Errand {
        rootfs: None,
        image: Some(args.target.clone()),
        ..Errand::with_kit(&args.kit, args.machine, arguments, out_dir.path().to_owned())
    };
    Ok(u8::try_from(errand.run()?).unwrap_or(exit::FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Better, MetricSamples};

    fn sample(samples: &[f64]) -> Sample {
        let metric = MetricSamples {
            name: DIGEST_METRIC.to_owned(),
            unit: "count".to_owned(),
            better: Better::Lower,
            values: samples.to_vec(),
        };
        Sample { metrics: vec![metric], ..Sample::default() }
    }

    #[test]
    fn test_digest_of_eight_words_is_written_as_others_are() {
        let words = [0.0, 1.0, 4_294_967_295.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(
            digest_of(&sample(&words)).unwrap(),
            "sha256:0000000000000001ffffffff0000000400000005000000060000000700000008"
        );
    }

    #[test]
    fn test_digest_of_anything_else_is_none() {
        let words = |last| [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, last];
        assert_eq!(digest_of(&Sample::default()), None);
        assert_eq!(digest_of(&sample(&words(0.0)[..7])), None);
        for last in [-1.0, 0.5, 4_294_967_296.0, f64::NAN, f64::INFINITY] {
            assert_eq!(digest_of(&sample(&words(last))), None);
        }
    }

    #[test]
    fn test_code_tells_different_from_failed() {
        let good = |digest: &str| Ok(digest.to_owned());
        let failed = || Err("why".to_owned());
        assert_eq!(code_of(&[("process", good("a")), ("microvm", good("a"))]), exit::OK);
        assert_eq!(code_of(&[("process", good("a")), ("microvm", good("b"))]), exit::DIFFERENT);
        assert_eq!(code_of(&[("process", good("a")), ("microvm", failed())]), exit::INCOMPLETE);
        assert_eq!(code_of(&[]), exit::INCOMPLETE);
    }
}
