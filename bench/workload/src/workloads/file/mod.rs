//! `file`: reading, writing and managing files, one operation at a time, and random reads with
//! several in flight.
//!
//! What was written is read back and compared, so that a fast disk that loses data is an error. The
//! content is a function of seed, generation and offset, incompressible and never zero pages.
//!
//! The state of the page cache is declared by the parameter `cache` and measured: `cached_bytes` is
//! what the box's own kernel held of the file before reads. In a microVM the host beneath has a
//! page cache of its own, which the host declares.

mod data;
mod deep;
mod metadata;
mod pattern;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::record_cost;
use crate::{
    Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Workload,
    parameter,
};

/// The workload `file`.
pub(crate) struct Files;

const OPERATIONS: [&str; 7] =
    ["seqread", "randread", "deepread", "seqwrite", "randwrite", "fsync", "meta"];
/// Direct transfers must be aligned to the device's logical blocks, of 512 or 4096 bytes.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug)]
struct Settings {
    operations: Vec<&'static str>,
    block_bytes: usize,
    stream_block_bytes: usize,
    file_bytes: usize,
    count: usize,
    depth: usize,
    files: usize,
    is_direct: bool,
    is_cold: bool,
    seed: u64,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        let block = SECTOR_BYTES..=16 << 20;
        let settings = Settings {
            operations: params.choices("operations", &OPERATIONS)?,
            block_bytes: params.size("block_bytes", block.clone())?,
            stream_block_bytes: params.size("stream_block_bytes", block)?,
            file_bytes: params.size("file_bytes", SECTOR_BYTES..=1 << 40)?,
            count: params.size("count", 1..=4096)?,
            depth: params.size("depth", 1..=256)?,
            files: params.size("files", 1..=4096)?,
            is_direct: params.flag("direct")?,
            is_cold: params.choice("cache", &["warm", "cold"])? == "cold",
            seed: params.integer("seed", 0..=u64::MAX)?,
        };
        parameter::multiple("block_bytes", settings.block_bytes as u64, SECTOR_BYTES)?;
        parameter::multiple(
            "stream_block_bytes",
            settings.stream_block_bytes as u64,
            SECTOR_BYTES,
        )?;
        for block in [settings.block_bytes, settings.stream_block_bytes] {
            parameter::multiple("file_bytes", settings.file_bytes as u64, block as u64)?;
        }
        Ok(settings)
    }

    fn wants(&self, operation: &str) -> bool {
        self.operations.contains(&operation)
    }
}

impl Workload for Files {
    fn name(&self) -> &'static str {
        "file"
    }

    fn about(&self) -> &'static str {
        "sequential and random reads and writes, fsync, and many small files"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter {
                name: "operations",
                default: "seqread,randread,deepread,seqwrite,randwrite,fsync,meta",
                help: "which of these to do; always in this order",
            },
            Parameter {
                name: "block_bytes",
                default: "4096",
                help: "size of a random read or write, a multiple of 512",
            },
            Parameter {
                name: "stream_block_bytes",
                default: "131072",
                help: "size of a sequential read or write, a multiple of 512",
            },
            Parameter {
                name: "file_bytes",
                default: "16777216",
                help: "size of the file, a multiple of both block sizes",
            },
            Parameter {
                name: "count",
                default: "256",
                help: "random reads of each kind, random writes and (an eighth of it) fsyncs, 1 to 4096",
            },
            Parameter {
                name: "depth",
                default: "32",
                help: "reads in flight of deepread, by Linux's native asynchronous I/O, 1 to 256; without direct=1 they are done one by one",
            },
            Parameter { name: "files", default: "200", help: "small files for meta, 1 to 4096" },
            Parameter {
                name: "direct",
                default: "0",
                help: "1 bypasses the page cache of the box's kernel (O_DIRECT)",
            },
            Parameter {
                name: "cache",
                default: "warm",
                help: "'warm' reads what was just written, 'cold' drops it from the page cache first",
            },
            Parameter { name: "seed", default: "1", help: "of contents and random offsets" },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::CLOCK,
                MetricSpec::size("cached_bytes", "of the file in the page cache before reads"),
                MetricSpec::rate("seqread_bytes_per_s", "reading the file from start to end"),
                MetricSpec::time("randread_ns", "one read at a random block"),
                MetricSpec::time("deepread_ns", "one of several random reads in flight"),
                MetricSpec::rate("seqwrite_bytes_per_s", "writing the file from start to end"),
                MetricSpec::rate("seqwrite_sync_bytes_per_s", "the same with an fsync at the end"),
                MetricSpec::time("randwrite_ns", "one write at a random block"),
                MetricSpec::time("fsync_ns", "fsync after an append of 4 KiB"),
                MetricSpec::time("create_ns", "creating and closing an empty file"),
                MetricSpec::time("stat_ns", "looking up a file by name"),
                MetricSpec::time("unlink_ns", "removing a file"),
            ]
        }
    }

    fn needs_scratch(&self) -> bool {
        true
    }

    fn check(&self, params: &Params) -> Result<(), ParameterError> {
        Settings::new(params).map(drop)
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let settings = Settings::new(params)?;
        let scratch = env.scratch.ok_or(Error::NoScratch(self.name()))?;
        let data = if settings.operations.iter().any(|operation| *operation != "meta") {
            Some(data::DataFile::create(scratch, &settings)?)
        } else {
            None
        };
        let small = if settings.wants("meta") {
            Some(metadata::SmallFiles::prepare(scratch, settings.files)?)
        } else {
            None
        };
        Ok(Box::new(Operations { settings, data, small }))
    }
}

struct Operations {
    settings: Settings,
    data: Option<data::DataFile>,
    small: Option<metadata::SmallFiles>,
}

impl Prepared for Operations {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        record_cost(report)?;
        if let Some(data) = &mut self.data {
            data.run(&self.settings, report)?;
        }
        if let Some(small) = &mut self.small {
            small.run(report)?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_file_reports_every_metric_and_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        for direct in ["0", "1"] {
            for cache in ["warm", "cold"] {
                let given = [
                    ("file_bytes", "1048576"),
                    ("count", "20"),
                    ("depth", "8"),
                    ("files", "10"),
                    ("direct", direct),
                    ("cache", cache),
                ];
                let report = run("file", &given, scratch.path().to_str()).unwrap();
                assert_eq!(report.metrics().len(), Files.metrics().len());
                assert_eq!(samples(&report, "randread_ns").len(), 20);
                // 8 + 8 + 4.
                assert_eq!(samples(&report, "deepread_ns").len(), 3);
                assert_eq!(samples(&report, "randwrite_ns").len(), 20);
                assert_eq!(samples(&report, "fsync_ns").len(), 3);
                assert_eq!(samples(&report, "unlink_ns").len(), 10);
                if (direct, cache) == ("0", "warm") {
                    assert_eq!(samples(&report, "cached_bytes"), [1048576.0; 3]);
                }
                assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
            }
        }
    }

    #[test]
    fn test_file_corrupted_on_the_disk_returns_wrong() {
        use crate::workloads::test_support::Recorder;
        use crate::{Stdio, find};

        let scratch = tempfile::tempdir().unwrap();
        let outlet = Recorder::default();
        let env = Env {
            outlet: &outlet,
            scratch: scratch.path().to_str(),
            peer: None,
            command: &[],
            stdio: Stdio::Inherit,
        };
        let given = [("file_bytes".into(), "131072".into())].into();
        let params = Params::new(find("file").unwrap(), &given).unwrap();
        let mut prepared = Files.prepare(&params, &env).unwrap();
        let path = scratch.path().join("tare-data");
        let mut content = std::fs::read(&path).unwrap();
        content[70_000] ^= 1;
        std::fs::write(&path, content).unwrap();
        let error = prepared.run(&mut Report::new()).unwrap_err();
        assert!(matches!(error, Error::Wrong { what: "content of a file", .. }), "{error}");
    }

    #[test]
    fn test_file_does_only_what_was_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let given = [("operations", "meta"), ("files", "2")];
        let report = run("file", &given, scratch.path().to_str()).unwrap();
        let names: Vec<_> = report.metrics().iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["clock_ns", "create_ns", "stat_ns", "unlink_ns"]);
    }

    #[test]
    fn test_file_without_scratch_returns_no_scratch() {
        assert_eq!(run("file", &[], None).unwrap_err(), Error::NoScratch("file"));
    }

    #[test]
    fn test_file_invalid_scratch_returns_system_error_that_names_it() {
        let error = run("file", &[], Some("/nowhere/at/all")).unwrap_err();
        assert!(std::format!("{error}").contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn test_file_invalid_sizes_return_parameter_error() {
        for given in [
            ("block_bytes", "1000"),
            ("file_bytes", "131073"),
            ("operations", "read"),
            ("cache", "hot"),
            ("count", "5000"),
            ("depth", "0"),
            ("depth", "257"),
        ] {
            let error = run("file", &[given], Some("/tmp")).unwrap_err();
            assert!(matches!(error, Error::Parameter(_)), "{error}");
        }
    }
}
