//! `demand`: asks for memory, processes and processor time, as much as it is told to, and reports
//! how much it got: in a box with limits, no more than those.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::now_ns;
use crate::sys::{Child, File, Mapping, PAGE_BYTES, Pipe, current_pid, die_with, fork};
use crate::{
    Context, Env, Errno, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report,
    Unit, Workload, parameter,
};

/// The workload `demand`.
pub(crate) struct Demand;

/// Memory is asked for in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy)]
struct Settings {
    memory_bytes: usize,
    processes: usize,
    busy: usize,
    busy_ms: u64,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        let memory_bytes = params.size("memory_bytes", PIECE_BYTES as u64..=1 << 40)?;
        parameter::multiple("memory_bytes", memory_bytes as u64, PIECE_BYTES as u64)?;
        Ok(Settings {
            memory_bytes,
            processes: params.size("processes", 1..=10_000)?,
            busy: params.size("busy", 1..=64)?,
            busy_ms: params.integer("busy_ms", 1..=60_000)?,
        })
    }
}

impl Workload for Demand {
    fn name(&self) -> &'static str {
        "demand"
    }

    fn about(&self) -> &'static str {
        "asks for memory, processes and processor time, and reports how much it got"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter {
                name: "memory_bytes",
                default: "134217728",
                help: "memory to ask for, a multiple of 256 KiB",
            },
            Parameter {
                name: "processes",
                default: "128",
                help: "processes to ask for, 1 to 10000",
            },
            Parameter {
                name: "busy",
                default: "2",
                help: "processes that compute at once, 1 to 64",
            },
            Parameter { name: "busy_ms", default: "400", help: "how long they do, 1 to 60000" },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::size(
                    "memory_got_bytes",
                    "memory that a child could touch before it was refused or killed",
                ),
                MetricSpec::count("processes_got_count", "children that lived at once"),
                MetricSpec::count(
                    "cpu_percent_count",
                    "processor time got, in percent of one processor",
                ),
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
        Ok(Box::new(Asking(Settings::new(params)?)))
    }
}

struct Asking(Settings);

impl Prepared for Asking {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let got = memory(self.0.memory_bytes)?;
        report.record("memory_got_bytes", Unit::Bytes, [got as f64])?;
        let got = processes(self.0.processes)?;
        report.record("processes_got_count", Unit::Count, [got as f64])?;
        let percent = processor_percent(self.0.busy, self.0.busy_ms)?;
        report.record("cpu_percent_count", Unit::Count, [percent])?;
        Ok(0)
    }
}

/// What a child can touch of so much memory. It offers itself to be killed first, should the kernel
/// choose someone.
fn memory(bytes: usize) -> Result<usize, Error> {
    let mut told = Mapping::shared(PAGE_BYTES).on("mmap", "memory to report in")?;
    let agent = current_pid();
    let told_by_child = &mut told;
    let child = fork(|| {
        if die_with(agent).is_err() {
            return 1;
        }
        if let Ok(score) = File::open("/proc/self/oom_score_adj", libc::O_WRONLY) {
            let _ = score.write(b"1000");
        }
        let got = &mut told_by_child.as_words_mut()[0];
        for _ in 0..bytes / PIECE_BYTES {
            let Ok(mut piece) = Mapping::anonymous(PIECE_BYTES) else { return 0 };
            piece.as_mut().fill(1);
            core::mem::forget(piece);
            // SAFETY: a reference is valid for writing; volatile, for the kernel may end this
            // process at any time.
            unsafe { core::ptr::from_mut(got).write_volatile(*got + PIECE_BYTES as u64) };
        }
        0
    })
    .on("fork", "a child that asks for memory")?;
    // However it ended: what it got is what it said.
    child.wait().on("waitpid", "a child that asks for memory")?;
    Ok(told.as_words_mut()[0] as usize)
}

/// How many of so many children live at once.
fn processes(wanted: usize) -> Result<usize, Error> {
    let gate = Pipe::new().on("pipe2", "a gate for children")?;
    let agent = current_pid();
    let mut children = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let child = fork(|| {
            // The gate opens when the agent closes its end, and this one's copy of it.
            let reader = &gate.reader;
            close(&gate.writer);
            i32::from(die_with(agent).is_err() || reader.read(&mut [0]).is_err())
        });
        match child {
            Ok(child) => children.push(child),
            Err(Errno(libc::EAGAIN | libc::ENOMEM)) => break,
            Err(errno) => return Err(errno).on("fork", "a child that waits"),
        }
    }
    let got = children.len();
    drop(gate);
    for child in children {
        child.wait().on("waitpid", "a child that waits")?;
    }
    Ok(got)
}

/// Closes a descriptor that a fork has copied; the owner's own stays open.
fn close(copy: &File) {
    // SAFETY: the child ends without using its copy of the owner again.
    unsafe { libc::close(copy.fd()) };
}

/// Processor time that so many children get when all compute, in percent of one processor.
fn processor_percent(busy: usize, busy_ms: u64) -> Result<f64, Error> {
    let start_ns = now_ns();
    let end_ns = start_ns + busy_ms * 1_000_000;
    let mut used = Mapping::shared(PAGE_BYTES).on("mmap", "memory to report in")?;
    let agent = current_pid();
    let mut children: Vec<Child> = Vec::with_capacity(busy);
    for index in 0..busy {
        let used_by_child = &mut used;
        let child = fork(|| {
            if die_with(agent).is_err() {
                return 1;
            }
            while now_ns() < end_ns {
                core::hint::spin_loop();
            }
            used_by_child.as_words_mut()[index] = processor_time_ns();
            0
        })
        .on("fork", "a child that computes")?;
        children.push(child);
    }
    for child in children {
        child.wait().on("waitpid", "a child that computes")?;
    }
    // A child that was kept waiting for its turn ends late, and that time counts.
    let span_ns = now_ns() - start_ns;
    let used_ns: u64 = used.as_words_mut()[..busy].iter().sum();
    Ok(100.0 * used_ns as f64 / span_ns as f64)
}

/// Processor time of this process so far.
fn processor_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_demand_without_limits_gets_what_it_asks_for() {
        let given =
            [("memory_bytes", "8388608"), ("processes", "7"), ("busy", "1"), ("busy_ms", "30")];
        let report = run("demand", &given, None).unwrap();
        assert_eq!(samples(&report, "memory_got_bytes"), [8_388_608.0]);
        assert_eq!(samples(&report, "processes_got_count"), [7.0]);
        // On a busy machine it gets less than a processor, and never more.
        let percent = samples(&report, "cpu_percent_count")[0];
        assert!(percent > 0.0 && percent <= 101.0, "{percent}");
    }

    #[test]
    fn test_demand_of_an_odd_size_is_refused() {
        assert!(run("demand", &[("memory_bytes", "4096")], None).is_err());
    }
}
