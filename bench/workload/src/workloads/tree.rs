//! `tree`: the digest of all files of the box, by which boxes are shown to hold the same.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::{
    Better, Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Unit,
    Workload, tree_digest,
};

/// The workload `tree`.
pub(crate) struct TreeDigest;

/// Bytes of a digest in one sample: as a number, 32 bits are exact.
const WORD_BYTES: usize = 4;

impl Workload for TreeDigest {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn about(&self) -> &'static str {
        "reads all files of the box: one digest of names, owners, modes and content"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "at", default: "/", help: "the directory that is the tree's root" }]
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const fn metric(name: &'static str, unit: Unit, help: &'static str) -> MetricSpec {
            MetricSpec { name, unit, better: Better::Lower, help }
        }
        const {
            &[
                metric("digest_word_count", Unit::Count, "the digest, 32 bits a sample"),
                metric("entry_count", Unit::Count, "files, directories, links"),
                metric("content_bytes", Unit::Bytes, "content of files"),
            ]
        }
    }

    fn check(&self, _: &Params) -> Result<(), ParameterError> {
        Ok(())
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        _: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        Ok(Box::new(Ready { root: params.text("at").into() }))
    }
}

struct Ready {
    root: String,
}

impl Prepared for Ready {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let tree = tree_digest(&self.root)?;
        let words = tree.digest.chunks_exact(WORD_BYTES).map(|word| {
            let word = word.try_into().map_or(0, u32::from_be_bytes);
            f64::from(word)
        });
        report.record("digest_word_count", Unit::Count, words.collect::<Vec<_>>())?;
        report.record("entry_count", Unit::Count, [tree.entries as f64])?;
        report.record("content_bytes", Unit::Bytes, [tree.bytes as f64])?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::test_support::{run, samples};

    #[test]
    fn test_tree_reports_the_whole_digest() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "12345").unwrap();
        let at = directory.path().to_str().unwrap();
        let report = run("tree", &[("at", at)], None).unwrap();
        let digest = tree_digest(at).unwrap().digest;
        let words: Vec<u8> = samples(&report, "digest_word_count")
            .iter()
            .flat_map(|word| (*word as u32).to_be_bytes())
            .collect();
        assert_eq!(words, digest);
        assert_eq!(samples(&report, "content_bytes"), [5.0]);
    }
}
