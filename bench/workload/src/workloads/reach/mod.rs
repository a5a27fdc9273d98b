//! `reach`: what a program in the box sees of what is around it, and what it may ask for.
//!
//! It only looks: nothing is opened but files of /proc, and system calls are made with arguments
//! that are no good. The number of the kernel's boot tells whose kernel it is that answers: boxes
//! with the same number share one.

mod calls;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::sys::{File, c_path, entries};
use crate::{
    Context, Env, Errno, Error, MetricSpec, ParameterError, Params, Prepared, Report, Unit,
    Workload,
};

/// The workload `reach`.
pub(crate) struct Reach;

impl Workload for Reach {
    fn name(&self) -> &'static str {
        "reach"
    }

    fn about(&self) -> &'static str {
        "counts what a program in the box sees of its surroundings, and what its kernel lets it ask for"
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::count(
                    "kernel_id_count",
                    "no count: 48 bits of the number of the kernel's boot, equal where boxes share a kernel",
                ),
                MetricSpec::count("processes_count", "processes that it sees"),
                MetricSpec::count("mounts_count", "mounted file systems that it sees"),
                MetricSpec::count("devices_count", "devices in its /dev"),
                MetricSpec::count("interfaces_count", "network interfaces"),
                MetricSpec::count("capabilities_count", "capabilities that it has in effect"),
                MetricSpec::count(
                    "settings_count",
                    "settings of the kernel, in /proc/sys/kernel, that it may write",
                ),
                MetricSpec::count(
                    "system_calls_count",
                    "system calls that its kernel does not refuse outright",
                ),
            ]
        }
    }

    fn needs_proc(&self) -> bool {
        true
    }

    fn check(&self, _: &Params) -> Result<(), ParameterError> {
        Ok(())
    }

    fn prepare<'env>(
        &self,
        _: &Params,
        _: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        Ok(Box::new(Reach))
    }
}

impl Prepared for Reach {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let mut count = |name: &str, value: Option<u64>| -> Result<(), Error> {
            // What /proc does not show in this box is not reported.
            let Some(value) = value else { return Ok(()) };
            Ok(report.record(name, Unit::Count, [value as f64])?)
        };
        count(
            "kernel_id_count",
            text("/proc/sys/kernel/random/boot_id").as_deref().and_then(boot_number),
        )?;
        count("processes_count", processes())?;
        count("mounts_count", lines("/proc/self/mountinfo"))?;
        count("devices_count", Some(devices()))?;
        // Two lines of headings.
        count("interfaces_count", lines("/proc/net/dev").map(|lines| lines.saturating_sub(2)))?;
        count("capabilities_count", text("/proc/self/status").as_deref().and_then(capabilities))?;
        count("settings_count", settings())?;
        count("system_calls_count", Some(calls::answered()?))?;
        Ok(0)
    }
}

/// A file of /proc as text.
fn text(path: &str) -> Option<String> {
    let file = File::open(path, libc::O_RDONLY).ok()?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return String::from_utf8(bytes).ok(),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(_) => return None,
        }
    }
}

fn lines(path: &str) -> Option<u64> {
    text(path).map(|text| text.lines().count() as u64)
}

/// 48 bits of a UUID, which a float holds exactly.
fn boot_number(uuid: &str) -> Option<u64> {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    u64::from_str_radix(&digits, 16).ok()
}

fn processes() -> Option<u64> {
    let mut count = 0;
    entries("/proc", |name, _| count += u64::from(name.to_bytes().iter().all(u8::is_ascii_digit)))
        .ok()?;
    Some(count)
}

/// Devices in /dev and one directory below; a box without /dev has none.
fn devices() -> u64 {
    let is_device = |kind| matches!(kind, libc::DT_CHR | libc::DT_BLK);
    let mut count = 0;
    let mut below = Vec::new();
    let found = entries("/dev", |name, kind| {
        count += u64::from(is_device(kind));
        if kind == libc::DT_DIR {
            below.extend(name.to_str().map(String::from));
        }
    });
    if found.is_err() {
        return 0;
    }
    for name in below {
        let _ =
            entries(&alloc::format!("/dev/{name}"), |_, kind| count += u64::from(is_device(kind)));
    }
    count
}

/// Bits of `CapEff` (proc_pid_status(5)).
fn capabilities(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim();
    u64::from_str_radix(digits, 16).ok().map(|bits| u64::from(bits.count_ones()))
}

fn settings() -> Option<u64> {
    const PLACE: &str = "/proc/sys/kernel";
    let mut count = 0;
    entries(PLACE, |name, _| {
        let path =
            name.to_str().ok().and_then(|name| c_path(&alloc::format!("{PLACE}/{name}")).ok());
        // SAFETY: the path is NUL-terminated.
        let may_write =
            path.is_some_and(|path| unsafe { libc::access(path.as_ptr(), libc::W_OK) } == 0);
        count += u64::from(may_write);
    })
    .ok()?;
    Some(count)
}

/// Turns what a system call answered into an error with its name.
fn failed<T>(result: Result<T, Errno>, call: &'static str) -> Result<T, Error> {
    result.on(call, "a child that tries system calls")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_reach_of_a_process_is_the_host() {
        let report = run("reach", &[], None).unwrap();
        let of = |name: &str| samples(&report, name)[0];
        let own = text("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(of("kernel_id_count"), boot_number(&own).unwrap() as f64);
        assert!(of("processes_count") > 1.0 && of("devices_count") > 3.0, "{report:?}");
        assert!(of("system_calls_count") > 250.0, "{report:?}");
    }

    #[test]
    fn test_boot_number_takes_twelve_digits() {
        assert_eq!(boot_number("ffffffff-ffff-4000-8000-000000000000\n"), Some((1 << 48) - 1));
        assert_eq!(boot_number(""), None);
    }

    #[test]
    fn test_capabilities_counts_bits() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n"), Some(14));
        assert_eq!(capabilities("Name:\tx\n"), None);
    }
}
