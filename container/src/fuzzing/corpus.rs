//! The brief run: every file of the corpus, then changes of them, the same ones each time.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::TARGETS;

/// How many changed inputs each target gets.
const CHANGED: u32 = 400;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Bytes that are put in the place of others, which may be more or fewer.
fn edit() -> impl Strategy<Value = (Index, usize, Vec<u8>)> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..9),
        vec(prop_oneof![Just(b'/'), Just(b'.'), Just(0), Just(b'7'), Just(0xff)], 1..5),
    ];
    (any::<Index>(), 0..9usize, bytes)
}

#[test]
fn test_every_target_survives_its_corpus_and_changes_of_it() {
    for (name, target) in TARGETS {
        let mut paths: Vec<_> =
            fs::read_dir(root().join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        paths.sort();
        let corpus: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        corpus.iter().for_each(|input| target(input));
        let config = Config { cases: CHANGED, failure_persistence: None, ..Config::default() };
        let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let changed = runner.run(&(any::<Index>(), vec(edit(), 1..6)), |(which, edits)| {
            let mut input = which.get(&corpus).clone();
            for (at, removed, bytes) in edits {
                let start = at.index(input.len() + 1);
                let end = (start + removed).min(input.len());
                input.splice(start..end, bytes);
            }
            target(&input);
            Ok(())
        });
        changed.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn test_every_directory_of_the_corpus_has_its_target() {
    for directory in fs::read_dir(root()).unwrap() {
        let name = directory.unwrap().file_name();
        assert!(TARGETS.iter().any(|(target, _)| name == *target), "{name:?}");
    }
}
