//! The brief run: every file of the corpus, then changes of them, the same ones each time.

use std::fs;
use std::path::Path;

use super::{TARGETS, Target};

/// How many changed inputs each target gets: some seconds for all of them.
const CHANGED: u32 = 1500;
/// No input grows beyond this by change.
const INPUT_MAX_BYTES: usize = 16 << 10;

/// The corpus of a target, in the order of its files' names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&directory);
    let files = files.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A generator of numbers that look random (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    /// Changes an input in some of the ways in which fuzzers do.
    fn change(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..=self.below(8) {
            let at = self.below(input.len());
            match self.below(6) {
                0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
                1 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => input.insert(at, self.below(256) as u8),
                3 if !input.is_empty() => drop(input.remove(at)),
                4 => input.truncate(at),
                _ => {
                    let other = &others[self.below(others.len())];
                    input.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
            input.truncate(INPUT_MAX_BYTES);
        }
    }
}

fn run_briefly(name: &str, target: Target) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus for {name}");
    corpus.iter().for_each(|input| target(input));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..CHANGED {
        let mut input = corpus[numbers.below(corpus.len())].clone();
        numbers.change(&mut input, &corpus);
        target(&input);
    }
}

#[test]
fn test_every_target_survives_its_corpus_and_changes_of_it() {
    for (name, target) in TARGETS {
        run_briefly(name, target);
    }
}

#[test]
fn test_every_directory_of_the_corpus_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for directory in fs::read_dir(corpus).unwrap() {
        let name = directory.unwrap().file_name();
        assert!(TARGETS.iter().any(|(target, _)| name == *target), "{name:?}");
    }
}
