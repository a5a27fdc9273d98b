//! Rates of a file, against fio's with the same job.

use super::blocks::{Blocks, Subject};
use super::program::{self, Runs, mean_of};
use super::{Check, Effort, Error, Figure};
use crate::kit::Kit;

const PROGRAM: &str = "fio";
/// How far the rates may be apart.
const LIMIT: f64 = 0.05;
const FILE_BYTES: &str = "16777216";

/// One job, in the words of both.
struct Job {
    title: &'static str,
    operation: &'static str,
    metric: &'static str,
    pattern: &'static str,
    engine: &'static str,
    block_bytes: u32,
    count: u32,
    depth: u32,
}

const JOBS: [Job; 3] = [
    Job {
        title: "sequential reads of 128 KiB, O_DIRECT, by pread, one at a time",
        operation: "seqread",
        metric: "seqread_bytes_per_s",
        pattern: "read",
        engine: "psync",
        block_bytes: 131_072,
        count: 128,
        depth: 1,
    },
    Job {
        title: "random reads of 4 KiB, O_DIRECT, by pread, one at a time",
        operation: "randread",
        metric: "randread_ns",
        pattern: "randread",
        engine: "psync",
        block_bytes: 4096,
        count: 1024,
        depth: 1,
    },
    Job {
        title: "random reads of 4 KiB, O_DIRECT, by Linux's native asynchronous I/O, 32 in flight",
        operation: "deepread",
        metric: "deepread_ns",
        pattern: "randread",
        engine: "libaio",
        block_bytes: 4096,
        count: 4096,
        depth: 32,
    },
];

pub(super) fn run(kit: &Kit, effort: Effort) -> Result<Vec<Check>, Error> {
    let per_job = Effort { budget: effort.budget / 3, ..effort };
    JOBS.iter().map(|job| check(kit, per_job, job)).collect()
}

fn check(kit: &Kit, effort: Effort, job: &Job) -> Result<Check, Error> {
    let (count, depth) = (job.count.to_string(), job.depth.to_string());
    let parameters = [
        ("operations", job.operation),
        ("direct", "1"),
        ("file_bytes", FILE_BYTES),
        ("count", &count),
        ("depth", &depth),
    ];
    let runs = Runs::new(kit, "file", &parameters)?;
    // Where the boxes have their files: the same file system, and the same kind of file.
    let place = kit.new_scratch_dir()?;
    let words = job.words(&place.join("fio").to_string_lossy());
    let ours = || -> Result<f64, Error> {
        let sample = runs.sample()?;
        let value = mean_of(&sample, job.metric).ok_or_else(|| Error::Program {
            program: "tare",
            why: format!("the workload file did not report {}", job.metric),
        })?;
        Ok(job.nanoseconds(value))
    };
    let theirs = || job.theirs(&program::output(PROGRAM, PROGRAM, &words)?.stdout);
    let subjects: Vec<Subject<'_>> = vec![Box::new(ours), Box::new(theirs)];
    let mut blocks = Blocks::new(subjects, effort, job.operation);
    blocks.warm_up()?;
    let decided = blocks.until_ratio_is_decided(LIMIT, 10, effort)?;
    let mut figures: Vec<Figure> = decided
        .ratio
        .map(|value| Figure { name: "tare ÷ fio".to_owned(), unit: "×", value })
        .into_iter()
        .collect();
    figures.extend(blocks.figure(0, "tare, each", "ns"));
    figures.extend(blocks.figure(1, "fio, each", "ns"));
    Ok(Check {
        name: "fio",
        what: format!(
            "{}: time of each, {} runs of both, alternating",
            job.title,
            blocks.samples[0].len()
        ),
        limit: "medians within 5 % of each other".to_owned(),
        outcome: decided.outcome,
        why: decided.why().to_owned(),
        figures,
    })
}

impl Job {
    fn words(&self, path: &str) -> Vec<String> {
        let pair = |name: &str, value: &str| format!("--{name}={value}");
        vec![
            pair("name", self.operation),
            pair("filename", path),
            pair("rw", self.pattern),
            pair("ioengine", self.engine),
            pair("iodepth", &self.depth.to_string()),
            pair("bs", &self.block_bytes.to_string()),
            pair("size", FILE_BYTES),
            pair(
                "io_size",
                &(u64::from(self.count) * u64::from(self.block_bytes) * self.longer()).to_string(),
            ),
            // Offsets may repeat, as ours do.
            pair("norandommap", "1"),
            pair("randseed", "1"),
            pair("direct", "1"),
            pair("thread", "1"),
            // Freshly written and synced before each run, as ours is: disks of virtual machines have
            // caches of their own.
            pair("unlink", "1"),
            pair("output-format", "json"),
            // With several in flight only the whole is timed: a clock read for each is a tenth of it.
            pair("gtod_reduce", if self.depth > 1 { "1" } else { "0" }),
        ]
    }

    /// How many times longer fio goes on: it tells its whole time in milliseconds only.
    fn longer(&self) -> u64 {
        if self.depth > 1 { 8 } else { 1 }
    }

    /// What tare reports, as the time of one read: the rate is of bytes over the time in pread.
    fn nanoseconds(&self, value: f64) -> f64 {
        if self.metric.ends_with("_bytes_per_s") {
            f64::from(self.block_bytes) / value * 1e9
        } else {
            value
        }
    }

    /// The time of one read by fio: alone, its mean time in the call; with others in flight, the whole
    /// time by their number, as ours is.
    fn theirs(&self, text: &[u8]) -> Result<f64, Error> {
        let read = |name: &str| program::number(PROGRAM, text, &format!("/jobs/0/read/{name}"));
        if self.depth == 1 {
            return read("lat_ns/mean");
        }
        Ok(read("runtime")? * 1e6 / read("total_ios")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_both_are_brought_to_the_time_of_one_read() {
        let [stream, _, deep] = &JOBS;
        assert_eq!(stream.nanoseconds(131_072.0 * 1000.0), 1e6);
        assert_eq!(deep.nanoseconds(7.0), 7.0);
        let text = br#"{"jobs": [{"read": {"lat_ns": {"mean": 64000.0}, "runtime": 40, "total_ios": 20000}}]}"#;
        assert_eq!(stream.theirs(text).unwrap(), 64_000.0);
        assert_eq!(deep.theirs(text).unwrap(), 2_000.0);
    }
}
