//! Memory whose address is fixed while a [`Prepared`](crate::Prepared) lives.
//!
//! Between `clone3` and `execve` a child may not allocate, so everything a system call points at
//! (paths, option strings, structures) is laid down beforehand and referred to by address.

use std::ffi::CString;

use crate::error::Error;

/// Owns the blocks; each method returns the address of what it stored.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    strings: Vec<CString>,
    words: Vec<Box<[u64]>>,
}

impl Arena {
    /// Stores `text` with a terminating zero. `field` names the input in the error for a text
    /// that itself contains a zero byte.
    pub(crate) fn text(
        &mut self,
        field: &'static str,
        text: impl AsRef<[u8]>,
    ) -> Result<usize, Error> {
        let bytes = text.as_ref();
        let string = CString::new(bytes).map_err(|_| Error::Invalid {
            field,
            problem: format!("{:?} contains a zero byte", String::from_utf8_lossy(bytes)),
            remedy: "remove it; the kernel ends every string at its first zero",
        })?;
        let address = string.as_ptr().expose_provenance();
        self.strings.push(string);
        Ok(address)
    }

    /// Stores a text of this program's own, which has no zero byte before its end.
    pub(crate) fn literal(&mut self, text: &'static std::ffi::CStr) -> usize {
        text.as_ptr().expose_provenance()
    }

    /// Stores a structure given as 64-bit words (every structure used here is 8-byte aligned).
    pub(crate) fn words(&mut self, words: impl Into<Box<[u64]>>) -> usize {
        let block: Box<[u64]> = words.into();
        let address = block.as_ptr().expose_provenance();
        self.words.push(block);
        address
    }

    /// Stores a null-terminated array of pointers, as `execve` wants it.
    pub(crate) fn pointers(&mut self, addresses: &[usize]) -> usize {
        let words: Vec<u64> = addresses.iter().map(|a| *a as u64).chain([0]).collect();
        self.words(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_text_with_zero_byte_returns_invalid() {
        let error = Arena::default().text("argv", b"a\0b").unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "argv", .. }), "{error}");
    }

    #[test]
    fn test_pointers_end_with_null() {
        let mut arena = Arena::default();
        arena.pointers(&[7, 9]);
        assert_eq!(&*arena.words[0], &[7, 9, 0]);
    }
}
