//! One round of measuring, which `compare` and `bench` share: where it runs, how often, and the
//! files that it leaves.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::lab::{Errand, MachineArgs};
use super::rescue::{self, Rescued};
use super::{HostChoice, KitArgs, exit, print_text};
use crate::harness::{self, CellPlan, Schedule, Until};
use crate::host::{self, Source};
use crate::interrupt;
use crate::kit::Kit;
use crate::lab::{DETERMINISTIC, LAB_VARIABLE, is_lab};
use crate::recipe::Setting;
use crate::results::{Clock, Results, Status};
use crate::rundir::RunDir;
use crate::{record, report};

/// Name of the results file that a round in the lab leaves for the host to collect.
const LAB_RESULTS: &str = "results.json";
/// Samples at which a run ends that was to be more precise.
const RULED_REPLICATES: u32 = 10_000;
/// What a round in the lab says when it begins, and can be ended in good order.
const LAB_IS_UP: &str = "tare: the lab is up and measures; Ctrl-C ends it and keeps what it has";
/// The lab's default seed: the same command gives the same samples, to the nanosecond.
const LAB_SEED: u64 = 1;

#[derive(Debug, Args)]
pub(super) struct RoundArgs {
    /// Where boxes run
    #[arg(long, value_enum, default_value_t = HostChoice::Auto)]
    host: HostChoice,
    /// Discarded but recorded replicates of each cell before the first sample
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(..=1000))]
    warmups: u32,
    /// Seed of the order of replicates and of the bootstrap [default: random, but 1 in the lab]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..1u64 << 53))]
    seed: Option<u64>,
    /// Rest before each launch, in milliseconds; 0 is back to back
    #[arg(long, value_name = "MS", default_value_t = 0)]
    gap_ms: u64,
    /// Kill an instance after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
    /// Go on until the 95 % interval of every median lies within so many percent of it, with
    /// --replicates [default: 10000] as the limit for every cell
    #[arg(long, value_name = "PERCENT", value_parser = super::compare_results::percent)]
    pub(super) precision_percent: Option<f64>,
    /// With --precision-percent: begin no block that would end later than this after the first
    /// launch, in seconds (of virtual time in the lab)
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "precision_percent")]
    budget_s: u64,
    /// Directory for the results file and the reports
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// Print the results as JSON on standard output instead of tables
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kit: KitArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

impl RoundArgs {
    /// What all cells have in common: `start` samples of a plain start, a tenth of them of others.
    pub(super) fn setting(&self, start_replicates: u32) -> Setting {
        let a_tenth = (start_replicates / 10).max(if is_lab() { 3 } else { 6 });
        let has_rule = self.precision_percent.is_some();
        Setting {
            start_replicates,
            other_replicates: if has_rule { start_replicates } else { a_tenth },
            memory_mib: self.kit.memory_mib,
            is_lab: is_lab(),
        }
    }

    /// How many samples of a start there are, where it is not said: so many, or with a rule that ends
    /// the run as many as it takes.
    pub(super) fn replicates(&self, default: u32) -> u32 {
        self.precision_percent.map_or(default, |_| RULED_REPLICATES)
    }

    /// Runs the round here or in the lab. `measure` runs it here; `words` are the command's own
    /// part of the command line in the lab.
    pub(super) fn run(
        &self,
        words: &[&str],
        measure: impl FnOnce() -> anyhow::Result<(Results, u8)>,
        render: impl FnOnce(&Results) -> String,
    ) -> anyhow::Result<u8> {
        if record::is_collected() {
            interrupt::listen()?;
            eprintln!("{LAB_IS_UP}");
            let (results, code) = measure()?;
            results.save(Path::new(LAB_RESULTS))?;
            return Ok(code);
        }
        rescue::prepare(&self.out)?;
        let (results, code) =
            if self.goes_to_the_lab() { self.measure_in_lab(words)? } else { measure()? };
        self.publish(&results, render)?;
        Ok(code)
    }

    fn goes_to_the_lab(&self) -> bool {
        match self.host {
            HostChoice::Lab => true,
            HostChoice::Local => false,
            HostChoice::Auto if host::has_hardware_virtualization() => false,
            HostChoice::Auto => {
                eprintln!(
                    "tare: this machine has no VMX or SVM, so no microVM runs on it in useful time.\n\
                     tare: measuring in the lab, an emulated host: all figures are virtual time."
                );
                true
            }
        }
    }

    /// Runs a plan on the host that this process is on. The exit code tells whether the plan was
    /// carried out; what the figures say is the caller's.
    pub(super) fn measure(&self, plan: &[CellPlan]) -> anyhow::Result<(Results, u8)> {
        interrupt::listen()?;
        let seed = match self.seed {
            Some(seed) => seed,
            None if is_lab() => LAB_SEED,
            None => harness::fresh_seed().context("cannot read /dev/urandom")?,
        };
        let kit = Kit::new(self.kit.choice())?;
        let floors = harness::measure_floors(&kit, if is_lab() { 5 } else { 100 });
        let schedule = Schedule {
            seed,
            warmups: self.warmups,
            gap: Duration::from_millis(self.gap_ms),
            timeout: Duration::from_secs(self.timeout_s),
            until: self.precision_percent.map(|precision_percent| Until {
                precision_percent,
                budget: Duration::from_secs(self.budget_s),
            }),
        };
        let finished = harness::run(&kit, plan, schedule);
        let is_complete =
            finished.cells.iter().all(|cell| cell.status == Status::Ok && cell.failures.is_empty());
        let code = match (finished.interrupted, is_complete) {
            (true, _) => exit::INTERRUPTED,
            (false, true) => exit::OK,
            (false, false) => exit::INCOMPLETE,
        };
        let is_exact = std::env::var(LAB_VARIABLE).is_ok_and(|flavour| flavour == DETERMINISTIC);
        let clock = if is_exact { Clock::Virtual } else { Clock::Wall };
        let mut results = record::assemble(&kit, &Source::live(), clock);
        results.seed = seed;
        results.schedule = schedule.into();
        if let Some(stop) = &mut results.schedule.stop {
            stop.reason = finished.stopped;
        }
        results.floors = floors;
        results.cells = finished.cells;
        results.order = finished.order;
        results.interrupted = finished.interrupted;
        results.summarise();
        Ok((results, code))
    }

    /// Runs the same command in the lab and collects its results file.
    fn measure_in_lab(&self, words: &[&str]) -> anyhow::Result<(Results, u8)> {
        let out_dir = RunDir::new().context("cannot make a directory for the lab's output")?;
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        arguments.extend(["--host", "local"].map(OsString::from));
        let mut option = |name: &str, value: u64| {
            arguments.extend([name.into(), value.to_string().into()]);
        };
        option("--seed", self.seed.unwrap_or(LAB_SEED));
        option("--warmups", self.warmups.into());
        option("--gap-ms", self.gap_ms);
        option("--timeout-s", self.timeout_s);
        if let Some(percent) = self.precision_percent {
            option("--budget-s", self.budget_s);
            arguments.extend(["--precision-percent".into(), percent.to_string().into()]);
        }
        arguments.extend(self.kit.forward());
        let errand = Errand {
            environment: vec![record::command_variable()],
            ..Errand::with_kit(&self.kit, self.machine, arguments, out_dir.path().to_owned())
        };
        let code = errand.run()?;
        let path = out_dir.path().join(LAB_RESULTS);
        if code == i32::from(exit::INTERRUPTED) && !path.exists() {
            return Err(crate::lab::Error::Interrupted.into());
        }
        let mut results = Results::load(&path).with_context(|| {
            format!("the round in the lab ended with exit code {code} and left no results")
        })?;
        // The lab's calendar always shows the same day.
        results.created = record::now();
        Ok((results, u8::try_from(code).unwrap_or(exit::FAILED)))
    }

    /// Writes the results and their reports; prints the tables.
    fn publish(
        &self,
        results: &Results,
        render: impl FnOnce(&Results) -> String,
    ) -> anyhow::Result<()> {
        let name = record::file_stem(results);
        let path = |extension: &str| self.out.join(format!("{name}.{extension}"));
        if let Err(error) = results.save(&path("json")) {
            let place = match rescue::rescue(results, &format!("{name}.json"))? {
                Rescued::File(path) => {
                    self.print(results, render)?;
                    format!("the results were saved as {} instead", path.display())
                }
                Rescued::Printed => {
                    "the results were printed on standard output instead".to_owned()
                }
            };
            return Err(anyhow::Error::new(error).context(place));
        }
        let write = |extension: &str, text: String| {
            let path = path(extension);
            fs::write(&path, text).with_context(|| {
                let (path, saved) = (path.display(), self.out.join(format!("{name}.json")));
                format!("cannot write {path}; the results are in {}", saved.display())
            })
        };
        write("html", report::render_html(results)?)?;
        write("md", report::render_markdown(results))?;
        self.print(results, render)?;
        eprintln!(
            "\nwrote {}\n      {}\n      {}",
            path("json").display(),
            path("html").display(),
            path("md").display()
        );
        Ok(())
    }

    /// Prints the tables, or the results themselves.
    pub(super) fn print(
        &self,
        results: &Results,
        render: impl FnOnce(&Results) -> String,
    ) -> anyhow::Result<()> {
        let text =
            if self.json { serde_json::to_string_pretty(results)? + "\n" } else { render(results) };
        Ok(print_text(&text)?)
    }
}
