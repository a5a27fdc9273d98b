//! The trait behind every workload.

use alloc::boxed::Box;

use crate::{Env, Error, Parameter, ParameterError, Params, Report, Unit};

/// Which of two values of a metric is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less is better, as with times.
    Lower,
    /// More is better, as with rates.
    Higher,
}

/// A metric that a workload may report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricSpec {
    /// Its name, with the unit in it.
    pub name: &'static str,
    /// What a sample counts.
    pub unit: Unit,
    /// Which direction is better.
    pub better: Better,
    /// One line on what it measures.
    pub help: &'static str,
}

impl MetricSpec {
    /// A time: less is better.
    pub(crate) const fn time(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec { name, unit: Unit::Nanoseconds, better: Better::Lower, help }
    }

    /// A rate: more is better.
    pub(crate) const fn rate(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec { name, unit: Unit::BytesPerSecond, better: Better::Higher, help }
    }

    /// A size: less is better.
    pub(crate) const fn size(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec { name, unit: Unit::Bytes, better: Better::Lower, help }
    }

    /// A number of things: fewer is better.
    pub(crate) const fn count(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec { name, unit: Unit::Count, better: Better::Lower, help }
    }

    /// `clock_ns`, which every workload that times short operations reports.
    pub(crate) const CLOCK: MetricSpec =
        MetricSpec::time("clock_ns", "reading the clock once; every timed operation includes it");
}

/// What runs in a box. The host describes it; the agent in the box prepares and runs it.
///
/// The timed span, from `ready` to `done`, is [`Prepared::run`] and nothing else: whatever a
/// workload needs beforehand (buffers, files, looking up a program) belongs in
/// [`prepare`](Workload::prepare), between `init` and `ready`.
pub trait Workload: Sync {
    /// Its name, as in `workload=NAME`.
    fn name(&self) -> &'static str;

    /// One line on what it does.
    fn about(&self) -> &'static str;

    /// The parameters it understands.
    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    /// The metrics it may report. Which ones it does depends on its parameters and its box.
    fn metrics(&self) -> &'static [MetricSpec] {
        &[]
    }

    /// True if it creates files: the host must give it a directory on the storage to be measured.
    fn needs_scratch(&self) -> bool {
        false
    }

    /// True if it talks with a program of the host, which must then be there
    /// ([`serve`](crate::serve)).
    fn needs_peer(&self) -> bool {
        false
    }

    /// True if it reads /proc, which a microVM's agent then mounts where the kernel has it.
    fn needs_proc(&self) -> bool {
        false
    }

    /// Checks every parameter without doing anything; a host does so before it makes a box.
    ///
    /// # Errors
    /// [`ParameterError`] for the first value that is not allowed.
    fn check(&self, params: &Params) -> Result<(), ParameterError>;

    /// Makes everything ready, untimed.
    ///
    /// # Errors
    /// [`Error`], saying what is missing.
    fn prepare<'env>(
        &self,
        params: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error>;
}

/// A workload that is ready to run. What it created is removed when it is dropped.
pub trait Prepared {
    /// Does the work and records what it measured. Returns the exit status of the box: 0, unless
    /// the work is a command that says otherwise.
    ///
    /// # Errors
    /// [`Error`], saying what failed.
    fn run(&mut self, report: &mut Report) -> Result<i32, Error>;
}
