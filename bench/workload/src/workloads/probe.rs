//! `probe`: what a mark costs its sender, which every edge in the box includes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::{record_cost, timed};
use crate::{
    Env, Error, Mark, MetricSpec, Outlet, Parameter, ParameterError, Params, Prepared, Report,
    Unit, Workload,
};

/// The workload `probe`.
pub(crate) struct Probe;

fn count(params: &Params) -> Result<usize, ParameterError> {
    params.size("count", 1..=10_000)
}

impl Workload for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn about(&self) -> &'static str {
        "sends marks in a row, each timed: the cost of a mark"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "count", default: "200", help: "marks to send, 1 to 10000" }]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const { &[MetricSpec::CLOCK, MetricSpec::time("mark_ns", "sending one mark, inside the box")] }
    }

    fn check(&self, params: &Params) -> Result<(), ParameterError> {
        count(params).map(drop)
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let samples = alloc::vec![0.0; count(params)?];
        Ok(Box::new(Marks { outlet: env.outlet, samples }))
    }
}

struct Marks<'env> {
    outlet: &'env dyn Outlet,
    samples: Vec<f64>,
}

impl Prepared for Marks<'_> {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        for sample in &mut self.samples {
            *sample = timed(|| self.outlet.mark(Mark::Probe)).1;
        }
        record_cost(report)?;
        report.record("mark_ns", Unit::Nanoseconds, self.samples.as_slice())?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stdio;
    use crate::workloads::test_support::{Recorder, run_with, samples};

    #[test]
    fn test_probe_sends_as_many_marks_as_it_samples() {
        let outlet = Recorder::default();
        let env =
            Env { outlet: &outlet, scratch: None, peer: None, command: &[], stdio: Stdio::Inherit };
        let (_, report) = run_with("probe", &[("count", "7")], &env).unwrap();
        assert_eq!(*outlet.marks.borrow(), [Mark::Probe; 7]);
        assert_eq!(samples(&report, "mark_ns").len(), 7);
    }
}
