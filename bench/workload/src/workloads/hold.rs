//! `hold`: known amounts of every kind of memory, which stay until the box ends.
//!
//! What a scale shows of a box that holds them can be checked against them.

use alloc::boxed::Box;
use alloc::string::String;
use core::mem::forget;

use crate::sys::{File, Mapping, PAGE_BYTES, Pipe};
use crate::{
    Context, Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Unit,
    Workload, parameter,
};

/// The workload `hold`.
pub(crate) struct Hold;

/// What a pipe takes at most, unless it is told otherwise (pipe(7)).
const PIPE_BYTES: usize = 65536;

#[derive(Debug, Clone, Copy)]
struct Settings {
    private_bytes: usize,
    shared_bytes: usize,
    cache_bytes: usize,
    pipes: usize,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        let bytes = |name| {
            let bytes = params.size(name, 0..=1 << 40)?;
            parameter::multiple(name, bytes as u64, PAGE_BYTES as u64).map(|()| bytes)
        };
        Ok(Settings {
            private_bytes: bytes("private_bytes")?,
            shared_bytes: bytes("shared_bytes")?,
            cache_bytes: bytes("cache_bytes")?,
            pipes: params.size("pipes", 0..=400)?,
        })
    }
}

impl Workload for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    fn about(&self) -> &'static str {
        "takes known amounts of memory of every kind and keeps them until the box ends"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "private_bytes", default: "0", help: "anonymous memory of its own" },
            Parameter {
                name: "shared_bytes",
                default: "0",
                help: "anonymous memory that could be shared",
            },
            Parameter {
                name: "cache_bytes",
                default: "0",
                help: "a file that it writes, in the page cache",
            },
            Parameter { name: "pipes", default: "0", help: "full pipes of 64 KiB each, 0 to 400" },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const { &[MetricSpec::size("held_bytes", "what it holds in all")] }
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
        let directory = env.scratch.ok_or(Error::NoScratch(self.name()))?;
        Ok(Box::new(Holding {
            settings: Settings::new(params)?,
            path: alloc::format!("{directory}/held"),
        }))
    }
}

struct Holding {
    settings: Settings,
    path: String,
}

impl Prepared for Holding {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let Settings { private_bytes, shared_bytes, cache_bytes, pipes } = self.settings;
        // Left to the end of the process, on purpose: all of it is to be there after `done`.
        if private_bytes > 0 {
            let mut memory = Mapping::anonymous(private_bytes).on("mmap", "private memory")?;
            memory.as_mut().fill(1);
            forget(memory);
        }
        if shared_bytes > 0 {
            let mut memory = Mapping::shared(shared_bytes).on("mmap", "shared memory")?;
            memory.as_mut().fill(2);
            forget(memory);
        }
        self.write_file(cache_bytes)?;
        let full = [3; PIPE_BYTES];
        for _ in 0..pipes {
            let pipe = Pipe::new().on("pipe2", "a pipe to fill")?;
            pipe.writer.write(&full).on("write", "a pipe to fill")?;
            forget(pipe);
        }
        let held = private_bytes + shared_bytes + cache_bytes + pipes * PIPE_BYTES;
        report.record("held_bytes", Unit::Bytes, [held as f64])?;
        Ok(0)
    }
}

impl Holding {
    fn write_file(&self, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let file =
            File::open(&self.path, libc::O_WRONLY | libc::O_CREAT).on("open", &*self.path)?;
        let block = [4; 16 * PAGE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let part = left.min(block.len());
            left -= file.write(&block[..part]).on("write", &*self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_hold_says_what_it_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().to_str();
        let given = [
            ("private_bytes", "8192"),
            ("shared_bytes", "4096"),
            ("cache_bytes", "70000256"),
            ("pipes", "2"),
        ];
        assert!(run("hold", &given, place).is_err(), "not a multiple of a page");
        let given = [
            ("private_bytes", "8192"),
            ("shared_bytes", "4096"),
            ("cache_bytes", "69632"),
            ("pipes", "2"),
        ];
        let report = run("hold", &given, place).unwrap();
        assert_eq!(samples(&report, "held_bytes"), [f64::from(8192 + 4096 + 69632 + 2 * 65536)]);
        assert_eq!(std::fs::metadata(scratch.path().join("held")).unwrap().len(), 69632);
    }
}
