//! `start`: nothing but the marks. What it takes is what the box takes.

use alloc::boxed::Box;

use crate::{Env, Error, ParameterError, Params, Prepared, Report, Workload};

/// The workload `start`.
pub(crate) struct Start;

impl Workload for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn about(&self) -> &'static str {
        "nothing but the marks: what it takes is what the box takes"
    }

    fn check(&self, _: &Params) -> Result<(), ParameterError> {
        Ok(())
    }

    fn prepare<'env>(
        &self,
        _: &Params,
        _: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        Ok(Box::new(Start))
    }
}

impl Prepared for Start {
    fn run(&mut self, _: &mut Report) -> Result<i32, Error> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use crate::workloads::test_support::run;

    #[test]
    fn test_start_reports_nothing() {
        assert!(run("start", &[], None).unwrap().is_empty());
    }
}
