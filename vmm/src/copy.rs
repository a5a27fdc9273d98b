//! Copying an image into guest memory.
//!
//! The usual copy is one string instruction, of which the lab counts a word of 8 bytes as an
//! instruction of 1 ns. A vector's loads and stores count a quarter of that. Of a processor, whose string
//! instructions move a cache line at a time, no more is to be expected than that it takes as long.

use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};
use std::{array, ptr};

const VECTOR_BYTES: usize = size_of::<__m256i>();
/// As many as there are registers for them: what a turn costs besides is the less.
const VECTORS: usize = 16;
/// Moved in one turn.
const TURN_BYTES: usize = VECTORS * VECTOR_BYTES;

/// Copies `from` to `to`.
///
/// # Safety
///
/// `to` must be valid for writes of so many bytes, none of which are `from`'s.
pub(crate) unsafe fn copy(from: &[u8], to: *mut u8) {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions; the rest is warranted by the caller.
        unsafe { copy_vectors(from, to) }
    } else {
        // SAFETY: as the caller warrants.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }
}

/// As [`copy`].
///
/// # Safety
///
/// As of `copy`.
#[target_feature(enable = "avx2")]
unsafe fn copy_vectors(from: &[u8], to: *mut u8) {
    let (turns, rest) = from.as_chunks::<TURN_BYTES>();
    let mut at = to;
    for turn in turns {
        let source = turn.as_ptr().cast::<__m256i>();
        // SAFETY: so many vectors from `source` on are `turn`, and as many from `at` on are within
        // what the caller warrants; neither need be aligned.
        unsafe {
            let target = at.cast::<__m256i>();
            let vectors: [_; VECTORS] =
                array::from_fn(|index| _mm256_loadu_si256(source.add(index)));
            for (index, vector) in vectors.into_iter().enumerate() {
                _mm256_storeu_si256(target.add(index), vector);
            }
            at = at.add(TURN_BYTES);
        }
    }
    // SAFETY: what is left of the same.
    unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), at, rest.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_copy_moves_all_and_no_more_at_any_length_and_alignment() {
        let source: Vec<u8> = (0..700).map(|index| (index % 251) as u8).collect();
        for length in (0..300).chain([511, 512, 513]) {
            for shift in [0, 1, 7, 32] {
                let mut target = vec![0xee; 700];
                let from = &source[shift..shift + length];
                // SAFETY: the target has room for `shift + 3 + length` bytes.
                unsafe { copy(from, target.as_mut_ptr().add(shift + 3)) };
                assert!(target[..shift + 3].iter().all(|byte| *byte == 0xee));
                assert_eq!(&target[shift + 3..][..length], from);
                assert!(target[shift + 3 + length..].iter().all(|byte| *byte == 0xee));
            }
        }
    }
}
