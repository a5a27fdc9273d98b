//! `memory`: what it costs to get memory from the kernel, page by page.
//!
//! In a microVM a first touch may fault twice: in the guest kernel, and beneath it in the host's
//! when the guest page has no memory yet. That is the point of measuring it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::clock::{now_ns, record_cost, timed};
use crate::sys::{File, Mapping, PAGE_BYTES};
use crate::{
    Context, Env, Errno, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report,
    Unit, Workload, parameter,
};

/// The workload `memory`.
pub(crate) struct Memory;

/// So many first touches are timed one by one; the others in groups.
const SINGLE_TOUCHES_MAX: usize = 1000;
/// The whole region is timed in at most so many groups.
const GROUPS: usize = 64;

#[derive(Debug)]
struct Settings {
    bytes: usize,
    pages: &'static str,
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, ParameterError> {
        let bytes = params.size("bytes", 4096..=1 << 40)?;
        parameter::multiple("bytes", bytes as u64, PAGE_BYTES as u64)?;
        Ok(Settings { bytes, pages: params.choice("pages", &["default", "4k", "huge"])? })
    }
}

impl Workload for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn about(&self) -> &'static str {
        "touches fresh memory: the time of a page fault, and what becomes resident"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter {
                name: "bytes",
                default: "33554432",
                help: "memory to touch, a multiple of 4096",
            },
            Parameter {
                name: "pages",
                default: "default",
                help: "'4k' forbids huge pages, 'huge' asks for them, 'default' leaves it to the kernel",
            },
        ]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::CLOCK,
                MetricSpec::time("fault_ns", "first touch of one 4 KiB page, up to 1000 singly"),
                MetricSpec::time(
                    "touch_ns",
                    "first touch per 4 KiB, by groups over all the memory",
                ),
                MetricSpec::time(
                    "retouch_ns",
                    "second touch per 4 KiB: no fault, but maybe a TLB miss",
                ),
                MetricSpec::time("release_ns", "unmapping, per 4 KiB"),
                MetricSpec::size("resident_bytes", "growth of the process's resident size"),
            ]
        }
    }

    fn needs_proc(&self) -> bool {
        true
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
        let statm = File::open("/proc/self/statm", libc::O_RDONLY).ok();
        Ok(Box::new(Touch { settings, statm }))
    }
}

struct Touch {
    settings: Settings,
    /// Absent where the box has no /proc.
    statm: Option<File>,
}

impl Prepared for Touch {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        record_cost(report)?;
        let resident_before = self.resident_bytes();
        let pages = self.settings.bytes / PAGE_BYTES;

        // Touched one by one in a region of its own, so that the groups below see only fresh memory.
        let singles = pages.min(SINGLE_TOUCHES_MAX);
        let mut single_region = self.region(singles * PAGE_BYTES)?;
        let faults: Vec<_> = single_region
            .as_mut()
            .chunks_mut(PAGE_BYTES)
            .map(|page| timed(|| touch(page)).1)
            .collect();
        report.record("fault_ns", Unit::Nanoseconds, faults)?;
        drop(single_region);

        let mut region = self.region(self.settings.bytes)?;
        report.record("touch_ns", Unit::Nanoseconds, touch_all(region.as_mut()))?;
        let resident_after = self.resident_bytes();
        report.record("retouch_ns", Unit::Nanoseconds, touch_all(region.as_mut()))?;
        let ((), release_ns) = timed(|| drop(region));
        report.record("release_ns", Unit::Nanoseconds, [release_ns / pages as f64])?;
        if let (Some(before), Some(after)) = (resident_before, resident_after) {
            report.record("resident_bytes", Unit::Bytes, [after - before])?;
        }
        Ok(0)
    }
}

impl Touch {
    fn region(&self, bytes: usize) -> Result<Mapping, Error> {
        let size = || alloc::format!("{bytes} bytes of memory");
        let region = Mapping::anonymous(bytes).on("mmap", size())?;
        let advised = match self.settings.pages {
            // A kernel without huge pages does not know the advice and does not need it.
            "4k" => match region.advise(libc::MADV_NOHUGEPAGE) {
                Err(Errno(libc::EINVAL)) => Ok(()),
                result => result,
            },
            "huge" => region.advise(libc::MADV_HUGEPAGE),
            _ => Ok(()),
        };
        advised.on("madvise", size())?;
        Ok(region)
    }

    /// Resident size of this process (proc_pid_statm(5), second field).
    fn resident_bytes(&self) -> Option<f64> {
        let mut buffer = [0; 128];
        let length = self.statm.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = core::str::from_utf8(buffer.get(..length)?).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some((pages * PAGE_BYTES as u64) as f64)
    }
}

/// Writes one byte, which makes the page exist.
fn touch(page: &mut [u8]) {
    if let Some(byte) = page.first_mut() {
        // SAFETY: a reference is valid for writing; volatile so that it is not left out.
        unsafe { core::ptr::from_mut(byte).write_volatile(1) };
    }
}

/// Touches every page and returns the time per page of each group of pages.
fn touch_all(region: &mut [u8]) -> Vec<f64> {
    let group_bytes = (region.len() / PAGE_BYTES).div_ceil(GROUPS) * PAGE_BYTES;
    let mut samples = Vec::with_capacity(GROUPS);
    let mut start_ns = now_ns();
    for group in region.chunks_mut(group_bytes) {
        let pages = group.len() / PAGE_BYTES;
        group.chunks_mut(PAGE_BYTES).for_each(touch);
        let end_ns = now_ns();
        samples.push((end_ns - start_ns) as f64 / pages as f64);
        start_ns = end_ns;
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_memory_reports_faults_and_resident_size() {
        for pages in ["default", "4k"] {
            let report = run("memory", &[("bytes", "8388608"), ("pages", pages)], None).unwrap();
            assert_eq!(samples(&report, "fault_ns").len(), 1000);
            assert_eq!(samples(&report, "touch_ns").len(), 64);
            // Other tests run in the same process and its threads come and go.
            assert!(samples(&report, "resident_bytes")[0] > 4e6, "{report:?}");
        }
    }

    #[test]
    fn test_memory_of_one_page_reports_one_sample() {
        let report = run("memory", &[("bytes", "4096"), ("pages", "4k")], None).unwrap();
        assert_eq!(samples(&report, "fault_ns").len(), 1);
        assert_eq!(samples(&report, "touch_ns").len(), 1);
    }

    #[test]
    fn test_memory_invalid_bytes_returns_parameter_error() {
        for bytes in ["0", "4097", "many"] {
            let error = run("memory", &[("bytes", bytes)], None).unwrap_err();
            assert!(matches!(error, Error::Parameter(_)), "{error}");
        }
    }
}
