//! File content that is a function of where it is and when it was written.

use crate::random::mix;

/// Content of one generation: each rewriting of the file has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) seed: u64,
    pub(super) generation: u64,
}

const WORD_BYTES: usize = size_of::<u64>();

impl Pattern {
    /// Fills `block` with the content at `offset`; both are multiples of 8.
    pub(super) fn fill(self, block: &mut [u8], offset: u64) {
        for (word, index) in block.chunks_exact_mut(WORD_BYTES).zip(offset / 8..) {
            word.copy_from_slice(&self.word(index).to_le_bytes());
        }
    }

    /// True if `block` is the content at `offset`.
    pub(super) fn matches(self, block: &[u8], offset: u64) -> bool {
        block
            .chunks_exact(WORD_BYTES)
            .zip(offset / 8..)
            .all(|(word, index)| word == self.word(index).to_le_bytes())
    }

    fn word(self, index: u64) -> u64 {
        mix(mix(self.seed ^ (self.generation << 56)) ^ index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_pattern_matches_only_its_own_place_generation_and_seed() {
        let pattern = Pattern { seed: 1, generation: 0 };
        let mut block = [0; 512];
        pattern.fill(&mut block, 4096);
        assert!(pattern.matches(&block, 4096));
        assert!(!pattern.matches(&block, 4608));
        assert!(!Pattern { generation: 1, ..pattern }.matches(&block, 4096));
        assert!(!Pattern { seed: 2, ..pattern }.matches(&block, 4096));
        block[511] ^= 1;
        assert!(!pattern.matches(&block, 4096));
    }
}
