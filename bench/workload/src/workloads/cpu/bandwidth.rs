//! How fast memory is read, written and copied.

use alloc::vec::Vec;
use core::hint::black_box;

use super::Kernel;
use crate::clock::timed;
use crate::sys::Mapping;
use crate::{Context, Error, Report, Unit};

/// Two buffers, touched beforehand: page faults are the workload `memory`'s business.
pub(super) struct Bandwidth {
    from: Mapping,
    to: Mapping,
    bytes: usize,
}

impl Bandwidth {
    pub(super) fn new(bytes: usize) -> Result<Bandwidth, Error> {
        let buffer = || -> Result<Mapping, Error> {
            let mut buffer =
                Mapping::anonymous(bytes).on("mmap", format_args!("a buffer of {bytes} bytes"))?;
            buffer.as_words_mut().fill(1);
            Ok(buffer)
        };
        Ok(Bandwidth { from: buffer()?, to: buffer()?, bytes })
    }
}

impl Kernel for Bandwidth {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error> {
        let words = self.bytes / size_of::<u64>();
        let per_second = |pass_ns: f64| self.bytes as f64 / pass_ns * 1e9;
        let mut read = Vec::with_capacity(repeats);
        let mut write = Vec::with_capacity(repeats);
        let mut copy = Vec::with_capacity(repeats);
        for repeat in 0..repeats as u64 {
            let from = self.from.as_words_mut();
            let to = self.to.as_words_mut();
            write.push(per_second(timed(|| black_box(&mut *from).fill(repeat)).1));
            copy.push(per_second(timed(|| black_box(&mut *to).copy_from_slice(from)).1));
            let (total, read_ns) = timed(|| sum(black_box(to)));
            read.push(per_second(read_ns));
            let expected = repeat.wrapping_mul(words as u64);
            if total != expected {
                return Err(Error::Wrong {
                    what: "sum of copied memory",
                    expected: alloc::format!("{expected}"),
                    got: alloc::format!("{total}"),
                });
            }
        }
        report.record("read_bytes_per_s", Unit::BytesPerSecond, read)?;
        report.record("write_bytes_per_s", Unit::BytesPerSecond, write)?;
        Ok(report.record("copy_bytes_per_s", Unit::BytesPerSecond, copy)?)
    }
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |total, word| total.wrapping_add(*word))
}
