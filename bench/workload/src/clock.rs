//! Time inside the box: CLOCK_MONOTONIC of the kernel that the box runs on.

use alloc::vec::Vec;

use crate::{Error, Report, Unit};

/// Nanoseconds on the monotonic clock of this kernel.
pub(crate) fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // The monotonic clock starts near zero at boot and never goes negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Runs `work` and returns its result and how long it took, in nanoseconds.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start_ns = now_ns();
    let result = work();
    (result, (now_ns() - start_ns) as f64)
}

/// Samples of the cost of reading the clock once, by groups of readings.
const COST_SAMPLES: usize = 16;
const COST_READINGS: usize = 64;

/// Records `clock_ns`: what reading the clock costs here. Every timed operation includes it once.
///
/// # Errors
/// [`Error::CoarseClock`] if the clock shows no time for all of that: whatever was measured by it
/// would look like a figure and be none.
pub(crate) fn record_cost(report: &mut Report) -> Result<(), Error> {
    let mut samples = Vec::with_capacity(COST_SAMPLES);
    for _ in 0..COST_SAMPLES {
        let ((), group_ns) = timed(|| {
            for _ in 0..COST_READINGS {
                core::hint::black_box(now_ns());
            }
        });
        samples.push(group_ns / COST_READINGS as f64);
    }
    // One tick may fall into the readings, two cannot.
    if samples.iter().filter(|sample| **sample > 0.0).count() <= 1 {
        return Err(Error::CoarseClock { readings: COST_SAMPLES * COST_READINGS });
    }
    Ok(report.record("clock_ns", Unit::Nanoseconds, samples)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_clock_advances_and_its_cost_is_recorded() {
        let mut report = Report::new();
        record_cost(&mut report).unwrap();
        assert_eq!(report.metrics()[0].samples.len(), COST_SAMPLES);
        let ((), elapsed_ns) = timed(|| std::thread::sleep(std::time::Duration::from_millis(2)));
        assert!(elapsed_ns >= 2e6, "{elapsed_ns}");
    }
}
