//! The one clock: CLOCK_MONOTONIC of the host, in nanoseconds.

/// Nanoseconds of CLOCK_MONOTONIC since an arbitrary start.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::now_ns;

    #[test]
    fn test_now_ns_does_not_go_back() {
        let first = now_ns();
        assert!(now_ns() >= first && first > 0);
    }
}
