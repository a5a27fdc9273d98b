//! Every workload, one file or directory each.

mod cpu;
mod demand;
mod exchange;
mod file;
mod hold;
mod memory;
mod probe;
mod reach;
mod roundtrip;
mod run;
mod start;
mod stream;
mod syscall;
mod tree;

use crate::Workload;

/// All workloads, in the order in which they are shown.
pub fn all() -> &'static [&'static dyn Workload] {
    &[
        &start::Start,
        &cpu::Cpu,
        &memory::Memory,
        &syscall::Syscall,
        &file::Files,
        &stream::Stream,
        &roundtrip::RoundTrip,
        &run::Run,
        &probe::Probe,
        &tree::TreeDigest,
        &reach::Reach,
        &demand::Demand,
        &hold::Hold,
    ]
}

/// The workload called `name`.
pub fn find(name: &str) -> Option<&'static dyn Workload> {
    all().iter().find(|workload| workload.name() == name).copied()
}

#[cfg(test)]
pub(crate) mod test_support;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::job::RESERVED_KEYS;
    use crate::{Params, Report};

    #[test]
    fn test_names_are_unique_and_found() {
        let names: BTreeSet<_> = all().iter().map(|workload| workload.name()).collect();
        assert_eq!(names.len(), all().len());
        for name in names {
            assert_eq!(find(name).unwrap().name(), name);
        }
        assert!(find("nothing").is_none());
    }

    #[test]
    fn test_parameters_are_no_keys_of_a_job_and_their_defaults_are_allowed() {
        for workload in all() {
            let names: BTreeSet<_> = workload.parameters().iter().map(|p| p.name).collect();
            assert_eq!(names.len(), workload.parameters().len(), "{}", workload.name());
            assert!(names.iter().all(|name| !RESERVED_KEYS.contains(name)), "{}", workload.name());
            let params = Params::new(*workload, &BTreeMap::new()).unwrap();
            assert_eq!(workload.check(&params), Ok(()), "{}", workload.name());
        }
    }

    #[test]
    fn test_declared_metrics_are_valid_names_that_end_in_their_unit() {
        for workload in all() {
            let mut report = Report::new();
            for metric in workload.metrics() {
                report.record(metric.name, metric.unit, [1.0]).unwrap();
                let suffix = metric.unit.as_str().replace("/s", "_per_s");
                assert!(metric.name.ends_with(&suffix), "{}", metric.name);
            }
        }
    }
}
