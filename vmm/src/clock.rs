//! The one clock of every stamp: `CLOCK_MONOTONIC` of the host.

/// Nanoseconds of `CLOCK_MONOTONIC`. A vDSO call, no system call on a host with a usable TSC.
pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
