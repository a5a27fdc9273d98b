//! Processor and memory beside sysbench's figures, for orientation.
//!
//! The two do not do the same: sysbench's memory test writes words in a loop that its compiler made,
//! ours with the widest stores that it has; sysbench counts primes by division, ours by a sieve. So
//! there is no limit, but whoever knows sysbench sees where he is.

use super::blocks::{Blocks, Subject};
use super::program::{self, Runs, median_of};
use super::{Check, Effort, Error, Outcome};
use crate::kit::Kit;

const PROGRAM: &str = "sysbench";
const BUFFER_BYTES: &str = "262144";
/// What sysbench calls a MiB.
const MIB: f64 = 1_048_576.0;

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let parameters =
        [("kernels", "bandwidth,integer"), ("buffer_bytes", BUFFER_BYTES), ("repeats", "3")];
    let runs = Runs::new(kit, "cpu", &parameters)?;
    let metric = |name: &'static str| {
        let runs = &runs;
        move || -> Result<f64, Error> {
            median_of(&runs.sample()?, name).ok_or_else(|| Error::Program {
                program: "tare",
                why: format!("the workload cpu did not report {name}"),
            })
        }
    };
    let memory = || {
        let size = format!("--memory-block-size={BUFFER_BYTES}");
        let words = ["memory", &size, "--memory-total-size=1G", "--memory-oper=write", "run"];
        let output = program::output(PROGRAM, PROGRAM, &words.map(str::to_owned))?;
        Ok(found(&output.stdout, "transferred (", " MiB/sec")? * MIB)
    };
    let cpu = || {
        let words = ["cpu", "--cpu-max-prime=10000", "--events=100", "--time=0", "run"];
        let output = program::output(PROGRAM, PROGRAM, &words.map(str::to_owned))?;
        Ok(1e9 / found(&output.stdout, "events per second:", "\n")?)
    };
    let subjects: Vec<Subject<'_>> = vec![
        Box::new(metric("write_bytes_per_s")),
        Box::new(memory),
        Box::new(metric("integer_ns")),
        Box::new(cpu),
    ];
    let mut blocks = Blocks::new(subjects, effort, "sysbench");
    blocks.run(if effort.is_quick { 2 } else { 6 })?;
    let names = [
        ("tare, writes to 256 KiB", "bytes/s"),
        ("sysbench memory, writes to 256 KiB", "bytes/s"),
        ("tare, each number sieved for primes below 100000", "ns"),
        ("sysbench cpu, each count of the primes to 10000", "ns"),
    ];
    let figures = names.into_iter().enumerate();
    Ok(vec![Check {
        name: "sysbench",
        what: "memory bandwidth and integer arithmetic, beside sysbench's: other loops, for orientation".to_owned(),
        limit: "none".to_owned(),
        outcome: Outcome::Shown,
        why: "the two do not run the same loops".to_owned(),
        figures: figures.filter_map(|(index, (name, unit))| blocks.figure(index, name, unit)).collect(),
    }])
}

/// The number between two marks of sysbench's text.
fn found(text: &[u8], before: &str, after: &str) -> Result<f64, Error> {
    let text = String::from_utf8_lossy(text);
    let number = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    number.and_then(|(number, _)| number.trim().parse().ok()).ok_or_else(|| Error::Program {
        program: PROGRAM,
        why: format!("its output has no number after '{before}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_found_reads_sysbench_s_text() {
        let text = b"2048.00 MiB transferred (3125.90 MiB/sec)\n    events per second:   302.43\n";
        assert_eq!(found(text, "transferred (", " MiB/sec").unwrap(), 3125.9);
        assert_eq!(found(text, "events per second:", "\n").unwrap(), 302.43);
        assert!(found(b"garbage", "transferred (", " MiB/sec").is_err());
    }
}
