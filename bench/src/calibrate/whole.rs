//! The whole time of a command, against hyperfine's.

use std::os::unix::ffi::OsStrExt;

use tare_workload::Channel;

use super::blocks::{Blocks, Subject};
use super::program::{self, Runs, job, span_ns};
use super::{Check, Effort, Error, Figure};
use crate::kit::Kit;
use crate::results::Edge;

const PROGRAM: &str = "hyperfine";
/// How far the medians may be apart.
const LIMIT: f64 = 0.02;

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let parameters =
        [("kernels", "integer"), ("repeats", if effort.is_quick { "10" } else { "30" })];
    let runs = Runs::new(kit, "cpu", &parameters)?;
    // The agent writes its marks and report where hyperfine lets nobody hear them.
    let mut job = job("cpu", &parameters);
    job.channel = Channel::Fd(1);
    let agent = String::from_utf8_lossy(kit.agent().as_os_str().as_bytes()).into_owned();
    let command = std::iter::once(agent).chain(job.to_words()).collect::<Vec<_>>().join(" ");
    let export = tempfile::NamedTempFile::new()
        .map_err(|source| Error::Io { what: "cannot make a temporary file", source })?;
    let words: Vec<String> =
        ["--shell=none", "--warmup=0", "--runs=1", "--style=none", "--export-json"]
            .map(str::to_owned)
            .into_iter()
            .chain([export.path().to_string_lossy().into_owned(), command.clone()])
            .collect();
    let theirs = || -> Result<f64, Error> {
        program::output(PROGRAM, PROGRAM, &words)?;
        let text = std::fs::read(export.path())
            .map_err(|source| Error::Io { what: "cannot read what hyperfine exported", source })?;
        Ok(program::number(PROGRAM, &text, "/results/0/times/0")? * 1e9)
    };
    let ours = || Ok(span_ns(&runs.sample()?, Edge::Exit));
    let subjects: Vec<Subject<'_>> = vec![Box::new(ours), Box::new(theirs)];
    let mut blocks = Blocks::new(subjects, effort, "hyperfine");
    blocks.warm_up()?;
    let decided = blocks.until_ratio_is_decided(LIMIT, 12, effort)?;
    let mut figures: Vec<Figure> = decided
        .ratio
        .map(|value| Figure { name: "tare ÷ hyperfine".to_owned(), unit: "×", value })
        .into_iter()
        .collect();
    figures.extend(blocks.figure(0, "tare, launch → exit", "ns"));
    figures.extend(blocks.figure(1, "hyperfine", "ns"));
    Ok(vec![Check {
        name: "hyperfine",
        what: format!(
            "the same command, `tare-guest {}`, {} runs of each, alternating",
            job.to_words().join(" "),
            blocks.samples[0].len()
        ),
        limit: "medians within 2 % of each other".to_owned(),
        outcome: decided.outcome,
        why: decided.why().to_owned(),
        figures,
    }])
}
