//! `cpu`: how fast the processor computes and reaches memory inside the box.
//!
//! Nothing here enters the kernel, so a box should cost nothing, but for what virtualization adds
//! to address translation, timer interrupts and stolen time.

mod arithmetic;
mod bandwidth;
mod latency;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::record_cost;
use crate::{
    Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Workload,
    parameter,
};

/// The workload `cpu`.
pub(crate) struct Cpu;

/// One kernel: measures one thing and records it.
trait Kernel {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error>;
}

const KERNELS: [&str; 5] = ["integer", "float", "sha256", "bandwidth", "latency"];

#[derive(Debug)]
struct Settings {
    kernels: Vec<&'static str>,
    repeats: usize,
    scale_percent: usize,
    buffer_bytes: usize,
    chase_bytes: usize,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        let memory = 1 << 16..=1 << 34;
        let settings = Settings {
            kernels: params.choices("kernels", &KERNELS)?,
            repeats: params.size("repeats", 1..=1000)?,
            scale_percent: params.size("scale_percent", 1..=10_000)?,
            buffer_bytes: params.size("buffer_bytes", memory.clone())?,
            chase_bytes: params.size("chase_bytes", memory)?,
        };
        parameter::multiple("buffer_bytes", settings.buffer_bytes as u64, 4096)?;
        parameter::multiple("chase_bytes", settings.chase_bytes as u64, 4096)?;
        Ok(settings)
    }

    /// A share of the full amount of work, at least 1.
    fn scaled(&self, full: usize) -> usize {
        (full * self.scale_percent / 100).max(1)
    }

    fn kernel(&self, name: &str) -> Result<Box<dyn Kernel>, Error> {
        Ok(match name {
            "integer" => Box::new(arithmetic::Sieve::new(self.scaled(20))),
            "float" => Box::new(arithmetic::Bodies::new(self.scaled(20_000))),
            "sha256" => Box::new(arithmetic::Sha::new(self.scaled(16))?),
            "bandwidth" => Box::new(bandwidth::Bandwidth::new(self.buffer_bytes)?),
            _ => Box::new(latency::Chase::new(self.chase_bytes, self.scaled(50_000))?),
        })
    }
}

impl Workload for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn about(&self) -> &'static str {
        "integers, floating point, SHA-256, memory bandwidth and latency"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter {
                name: "kernels",
                default: "integer,float,sha256,bandwidth,latency",
                help: "which of these to run",
            },
            Parameter { name: "repeats", default: "5", help: "samples of each kernel, 1 to 1000" },
            Parameter {
                name: "scale_percent",
                default: "100",
                help: "work per sample of integer, float, sha256 and latency, 1 to 10000",
            },
            Parameter {
                name: "buffer_bytes",
                default: "8388608",
                help: "each of two buffers of bandwidth, a multiple of 4096",
            },
            Parameter {
                name: "chase_bytes",
                default: "8388608",
                help: "working set of latency, a multiple of 4096",
            },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::CLOCK,
                MetricSpec::time("integer_ns", "per number sieved for primes below 100000"),
                MetricSpec::time("float_ns", "per step of a simulation of five bodies"),
                MetricSpec::rate("sha256_bytes_per_s", "hashed by SHA-256"),
                MetricSpec::rate("read_bytes_per_s", "read from memory"),
                MetricSpec::rate("write_bytes_per_s", "written to memory"),
                MetricSpec::rate("copy_bytes_per_s", "copied from memory to memory"),
                MetricSpec::time("latency_ns", "per dependent load at random in the working set"),
            ]
        }
    }

    fn check(&self, params: &Params) -> Result<(), ParameterError> {
        Settings::new(params).map(drop)
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        _: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let settings = Settings::new(params)?;
        let kernels =
            settings.kernels.iter().map(|name| settings.kernel(name)).collect::<Result<_, _>>()?;
        Ok(Box::new(Kernels { kernels, repeats: settings.repeats }))
    }
}

struct Kernels {
    kernels: Vec<Box<dyn Kernel>>,
    repeats: usize,
}

impl Prepared for Kernels {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        record_cost(report)?;
        for kernel in &mut self.kernels {
            kernel.run(self.repeats, report)?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_cpu_small_reports_every_metric() {
        let given = [
            ("repeats", "2"),
            ("scale_percent", "1"),
            ("buffer_bytes", "65536"),
            ("chase_bytes", "65536"),
        ];
        let report = run("cpu", &given, None).unwrap();
        for metric in Cpu.metrics().iter().filter(|metric| metric.name != "clock_ns") {
            let samples = samples(&report, metric.name);
            assert_eq!(samples.len(), 2, "{}", metric.name);
            assert!(samples.iter().all(|sample| *sample > 0.0), "{}: {samples:?}", metric.name);
        }
    }

    #[test]
    fn test_cpu_runs_only_the_kernels_asked_for() {
        let given = [("kernels", "float"), ("repeats", "1"), ("scale_percent", "1")];
        let report = run("cpu", &given, None).unwrap();
        let names: Vec<_> = report.metrics().iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["clock_ns", "float_ns"]);
    }

    #[test]
    fn test_cpu_invalid_kernel_or_size_returns_parameter_error() {
        for given in [("kernels", "integer,gpu"), ("chase_bytes", "65537"), ("repeats", "0")] {
            let error = run("cpu", &[given], None).unwrap_err();
            assert!(matches!(error, Error::Parameter(_)), "{error}");
        }
    }
}
