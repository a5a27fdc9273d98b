//! How long a load takes whose address depends on the load before.

use alloc::vec::Vec;
use core::hint::black_box;

use super::Kernel;
use crate::clock::timed;
use crate::random::Random;
use crate::sys::Mapping;
use crate::{Context, Error, Report, Unit};

/// One node a cache line: a load brings nothing that a later load could use.
const LINE_WORDS: usize = 64 / size_of::<u64>();
const SEED: u64 = 0x7461_7265;

/// A random cycle through all lines of a working set.
pub(super) struct Chase {
    memory: Mapping,
    steps: usize,
    position: usize,
}

impl Chase {
    pub(super) fn new(bytes: usize, steps: usize) -> Result<Chase, Error> {
        let mut memory =
            Mapping::anonymous(bytes).on("mmap", format_args!("a working set of {bytes} bytes"))?;
        make_cycle(memory.as_words_mut());
        Ok(Chase { memory, steps, position: 0 })
    }
}

/// Links all lines into one cycle (Sattolo's algorithm, 1986): the first word of each line holds
/// the index of the next line's first word.
fn make_cycle(words: &mut [u64]) {
    let lines = words.len() / LINE_WORDS;
    for line in 0..lines {
        words[line * LINE_WORDS] = (line * LINE_WORDS) as u64;
    }
    let mut random = Random::new(SEED);
    for line in (1..lines).rev() {
        let other = random.below(line as u64) as usize;
        words.swap(line * LINE_WORDS, other * LINE_WORDS);
    }
}

fn walk(words: &[u64], from: usize, steps: usize) -> usize {
    (0..steps).fold(from, |position, _| words[position] as usize)
}

impl Kernel for Chase {
    fn run(&mut self, repeats: usize, report: &mut Report) -> Result<(), Error> {
        let mut samples = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let words: &[u64] = self.memory.as_words_mut();
            let (position, walk_ns) = timed(|| walk(words, self.position, self.steps));
            // The next walk goes on from here, which also keeps this one from being left out.
            self.position = black_box(position);
            samples.push(walk_ns / self.steps as f64);
        }
        Ok(report.record("latency_ns", Unit::Nanoseconds, samples)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_cycle_visits_every_line_once_before_it_returns() {
        let lines = 512;
        let mut words = alloc::vec![0; lines * LINE_WORDS];
        make_cycle(&mut words);
        let returns: Vec<_> = (1..=lines).filter(|steps| walk(&words, 0, *steps) == 0).collect();
        assert_eq!(returns, [lines]);
    }
}
