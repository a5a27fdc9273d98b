//! `syscall`: the price of the kernel's most basic services.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::{record_cost, timed};
use crate::sys::{self, File, Pipe, current_pid, die_with, fork};
use crate::{
    Context, Env, Errno, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report,
    Unit, Workload,
};

/// The workload `syscall`.
pub(crate) struct Syscall;

/// Calls too short to be timed singly are timed in so many groups.
const GROUPS: usize = 20;

#[derive(Debug)]
struct Settings {
    getpid_calls: usize,
    switches: usize,
    forks: usize,
    pin: bool,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        Ok(Settings {
            getpid_calls: params.size("getpid_calls", 1..=100_000_000)?,
            switches: params.size("switches", 1..=10_000_000)?,
            forks: params.size("forks", 1..=4096)?,
            pin: params.flag("pin")?,
        })
    }
}

impl Workload for Syscall {
    fn name(&self) -> &'static str {
        "syscall"
    }

    fn about(&self) -> &'static str {
        "getpid, a context switch through a pipe, fork, and fork with exec"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "getpid_calls", default: "20000", help: "getpid calls in all" },
            Parameter { name: "switches", default: "2000", help: "round trips through the pipes" },
            Parameter { name: "forks", default: "50", help: "forks, and forks with exec, of each" },
            Parameter {
                name: "pin",
                default: "1",
                help: "1 keeps both ends of the pipes on one processor, 0 leaves them free",
            },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::CLOCK,
                MetricSpec::time("getpid_ns", "the shortest system call, by groups of calls"),
                MetricSpec::time("switch_ns", "half a round trip between two processes, by groups"),
                MetricSpec::time("fork_ns", "fork, end of the child, and waiting for it"),
                MetricSpec::time(
                    "fork_exec_ns",
                    "the same with exec of a program of 9 bytes of code",
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
        let program = exit_program().on("memfd_create", "a program to execute")?;
        Ok(Box::new(Calls { settings: Settings::new(params)?, program }))
    }
}

struct Calls {
    settings: Settings,
    program: File,
}

impl Prepared for Calls {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        record_cost(report)?;
        report.record("getpid_ns", Unit::Nanoseconds, getpid(self.settings.getpid_calls))?;
        let switches = if self.settings.pin {
            let everywhere = sys::affinity().on("sched_getaffinity", "the agent")?;
            sys::pin(&first_of(&everywhere)).on("sched_setaffinity", "the agent")?;
            let switches = switch(self.settings.switches);
            sys::pin(&everywhere).on("sched_setaffinity", "the agent")?;
            switches?
        } else {
            switch(self.settings.switches)?
        };
        report.record("switch_ns", Unit::Nanoseconds, switches)?;
        report.record("fork_ns", Unit::Nanoseconds, forks(self.settings.forks, || 0)?)?;
        let executed = forks(self.settings.forks, || execute(&self.program))?;
        report.record("fork_exec_ns", Unit::Nanoseconds, executed)?;
        Ok(0)
    }
}

fn getpid(calls: usize) -> Vec<f64> {
    let group = calls.div_ceil(GROUPS);
    let one_group = |_| {
        let ((), group_ns) = timed(|| {
            for _ in 0..group {
                // SAFETY: takes no arguments. By number, since a C library may cache the answer.
                unsafe { libc::syscall(libc::SYS_getpid) };
            }
        });
        group_ns / group as f64
    };
    (0..GROUPS).map(one_group).collect()
}

/// Two processes wake each other in turn; each round trip is two switches.
fn switch(round_trips: usize) -> Result<Vec<f64>, Error> {
    let there = Pipe::new().on("pipe2", "a pipe to a child")?;
    let back = Pipe::new().on("pipe2", "a pipe from a child")?;
    let group = round_trips.div_ceil(GROUPS);
    let agent = current_pid();
    let child = fork(|| match die_with(agent) {
        Ok(()) => echo(&there.reader, &back.writer, group * GROUPS),
        Err(_) => 1,
    })
    .on("fork", "a partner for context switches")?;
    let mut samples = Vec::with_capacity(GROUPS);
    for _ in 0..GROUPS {
        let (result, group_ns) = timed(|| {
            (0..group).try_for_each(|_| {
                there.writer.write(&[0])?;
                back.reader.read(&mut [0]).map(drop)
            })
        });
        result.on("read or write", "a pipe to a child")?;
        samples.push(group_ns / group as f64 / 2.0);
    }
    expect_success(child.wait().on("waitpid", "the partner for context switches")?)?;
    Ok(samples)
}

/// The other side of `switch`.
fn echo(reader: &File, writer: &File, times: usize) -> i32 {
    let result: Result<(), Errno> = (0..times).try_for_each(|_| {
        reader.read(&mut [0])?;
        writer.write(&[0]).map(drop)
    });
    i32::from(result.is_err())
}

fn forks(times: usize, work: impl Fn() -> i32) -> Result<Vec<f64>, Error> {
    let mut samples = Vec::with_capacity(times);
    for _ in 0..times {
        let (status, fork_ns) = timed(|| fork(&work).and_then(sys::Child::wait));
        expect_success(status.on("fork or waitpid", "a child")?)?;
        samples.push(fork_ns);
    }
    Ok(samples)
}

fn expect_success(status: i32) -> Result<(), Error> {
    if status == 0 {
        return Ok(());
    }
    Err(Error::Wrong {
        what: "exit status of a child",
        expected: "0".into(),
        got: alloc::format!("{status}"),
    })
}

/// A set of only the lowest processor of `set`.
fn first_of(set: &libc::cpu_set_t) -> libc::cpu_set_t {
    let bits = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: the index is within the set.
    let first = (0..bits).find(|cpu| unsafe { libc::CPU_ISSET(*cpu, set) }).unwrap_or(0);
    // SAFETY: the set is plain bits, for which zero is a value.
    let mut only: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the index is within the set.
    unsafe { libc::CPU_SET(first, &mut only) };
    only
}

/// `xor edi, edi; mov eax, 60 (SYS_exit); syscall`.
const EXIT_CODE: [u8; 9] = [0x31, 0xFF, 0xB8, 60, 0, 0, 0, 0x0F, 0x05];
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const EXIT_PROGRAM_BYTES: usize = ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES + EXIT_CODE.len();
const LOAD_ADDRESS: u64 = 0x40_0000;

/// The smallest ELF executable (elf(5)) that ends at once. Every box executes these same bytes,
/// whatever its file system holds and whether or not it has /proc.
const EXIT_PROGRAM: [u8; EXIT_PROGRAM_BYTES] = {
    const fn put(image: &mut [u8; EXIT_PROGRAM_BYTES], offset: usize, bytes: &[u8]) {
        let mut index = 0;
        while index < bytes.len() {
            image[offset + index] = bytes[index];
            index += 1;
        }
    }
    let code = ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES;
    let mut image = [0; EXIT_PROGRAM_BYTES];
    put(&mut image, 0, b"\x7FELF\x02\x01\x01"); // 64 bits, little-endian, version 1
    put(&mut image, 16, &2u16.to_le_bytes()); // ET_EXEC
    put(&mut image, 18, &62u16.to_le_bytes()); // EM_X86_64
    put(&mut image, 20, &1u32.to_le_bytes()); // version
    put(&mut image, 24, &(LOAD_ADDRESS + code as u64).to_le_bytes()); // entry
    put(&mut image, 32, &(ELF_HEADER_BYTES as u64).to_le_bytes()); // program headers
    put(&mut image, 52, &(ELF_HEADER_BYTES as u16).to_le_bytes());
    put(&mut image, 54, &(PROGRAM_HEADER_BYTES as u16).to_le_bytes());
    put(&mut image, 56, &1u16.to_le_bytes()); // one program header
    put(&mut image, 64, &1u32.to_le_bytes()); // PT_LOAD
    put(&mut image, 68, &5u32.to_le_bytes()); // readable, executable
    put(&mut image, 80, &LOAD_ADDRESS.to_le_bytes());
    put(&mut image, 88, &LOAD_ADDRESS.to_le_bytes());
    put(&mut image, 96, &(EXIT_PROGRAM_BYTES as u64).to_le_bytes()); // in the file
    put(&mut image, 104, &(EXIT_PROGRAM_BYTES as u64).to_le_bytes()); // in memory
    put(&mut image, 112, &4096u64.to_le_bytes()); // alignment
    put(&mut image, code, &EXIT_CODE);
    image
};

/// [`EXIT_PROGRAM`] in a file that exists only in memory.
fn exit_program() -> Result<File, Errno> {
    // Without MFD_EXEC (Linux 6.3) a hardened kernel makes the file not executable; an older
    // kernel does not know the flag.
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags| {
        // SAFETY: the name is NUL-terminated.
        sys::check(unsafe { libc::memfd_create(c"exit".as_ptr(), libc::MFD_CLOEXEC | flags) })
    };
    let file = match create(MFD_EXEC) {
        Err(Errno(libc::EINVAL)) => create(0),
        result => result,
    };
    let file = File::from_raw(file?);
    file.write(&EXIT_PROGRAM)?;
    Ok(file)
}

/// Becomes `program`; returns only if that fails, with a status that says so.
fn execute(program: &File) -> i32 {
    let arguments = [c"exit".as_ptr(), core::ptr::null()];
    let environment: [*const libc::c_char; 1] = [core::ptr::null()];
    // SAFETY: the path and both vectors' strings are NUL-terminated, the vectors NULL-terminated.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    126
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_syscall_reports_every_metric() {
        for pin in ["0", "1"] {
            let given = [("getpid_calls", "100"), ("switches", "40"), ("forks", "3"), ("pin", pin)];
            let report = run("syscall", &given, None).unwrap();
            assert_eq!(samples(&report, "getpid_ns").len(), 20);
            assert_eq!(samples(&report, "switch_ns").len(), 20);
            assert_eq!(samples(&report, "fork_ns").len(), 3);
            assert_eq!(samples(&report, "fork_exec_ns").len(), 3);
        }
    }

    #[test]
    fn test_forks_of_a_failing_child_returns_wrong() {
        assert!(matches!(forks(1, || 3), Err(Error::Wrong { .. })));
    }

    #[test]
    fn test_first_of_keeps_one_processor() {
        let only = first_of(&sys::affinity().unwrap());
        // SAFETY: reads the set only.
        assert_eq!(unsafe { libc::CPU_COUNT(&only) }, 1);
    }
}
