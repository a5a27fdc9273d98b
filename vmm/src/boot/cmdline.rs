//! The kernel's command line.

use std::fmt::Write;

use super::{BootError, CMDLINE_MAX_BYTES};
use crate::layout::{VIRTIO_MMIO, VIRTIO_MMIO_STRIDE};

/// The embedder's words and one word that announces each virtio-mmio device, by the interrupt
/// line it has (`virtio_mmio.device=SIZE@BASE:IRQ`, Documentation/admin-guide/kernel-parameters.txt).
///
/// The VMM's words go before a standalone `--`, since what follows it is for init.
pub(crate) fn compose(words: &str, irqs: &[u32]) -> Result<String, BootError> {
    let bad = words.bytes().enumerate().find(|(_, byte)| !(b' '..=b'~').contains(byte));
    if let Some((position, byte)) = bad {
        return Err(BootError::CmdlineByte { byte, position });
    }
    let mut line = String::with_capacity(CMDLINE_MAX_BYTES);
    let (kernel, init) = split(words);
    line.push_str(kernel);
    for (index, irq) in irqs.iter().enumerate() {
        let base = VIRTIO_MMIO + index as u64 * VIRTIO_MMIO_STRIDE;
        let space = if line.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(line, "{space}virtio_mmio.device=4K@{base:#x}:{irq}");
    }
    if !init.is_empty() && !line.is_empty() && !init.starts_with(' ') {
        line.push(' ');
    }
    line.push_str(init);
    if line.len() > CMDLINE_MAX_BYTES {
        let added = line.len() - words.len();
        return Err(BootError::CmdlineTooLong { length: line.len(), added });
    }
    Ok(line)
}

/// Parts the kernel's words from ` -- ` and what follows.
fn split(words: &str) -> (&str, &str) {
    let mut at = 0_usize;
    for word in words.split(' ') {
        if word == "--" {
            return words.split_at(at.saturating_sub(1));
        }
        at += word.len() + 1;
    }
    (words, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_compose_puts_devices_before_init_words() {
        let line = compose("quiet panic=-1 -- hold_ms=0 -- x", &[5, 6]).unwrap();
        assert_eq!(
            line,
            "quiet panic=-1 virtio_mmio.device=4K@0xd0000000:5 \
             virtio_mmio.device=4K@0xd0001000:6 -- hold_ms=0 -- x"
        );
        assert_eq!(compose("-- a", &[5]).unwrap(), "virtio_mmio.device=4K@0xd0000000:5 -- a");
        assert_eq!(compose("", &[5]).unwrap(), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(compose("a b--c --d", &[]).unwrap(), "a b--c --d");
        assert_eq!(compose("quiet --", &[]).unwrap(), "quiet --");
    }

    #[test]
    fn test_compose_too_long_returns_error_with_lengths() {
        assert!(compose(&"x".repeat(CMDLINE_MAX_BYTES), &[]).is_ok());
        let error = compose(&"x".repeat(CMDLINE_MAX_BYTES + 1), &[]).unwrap_err();
        assert!(matches!(error, BootError::CmdlineTooLong { length: 2048, added: 0 }), "{error}");
        let error = compose(&"x".repeat(CMDLINE_MAX_BYTES), &[5]).unwrap_err();
        assert!(matches!(error, BootError::CmdlineTooLong { added: 35, .. }), "{error}");
    }

    #[test]
    fn test_compose_unprintable_byte_returns_its_place() {
        for (words, want) in [("a\0b", 0), ("a\nb", b'\n'), ("a\u{7f}b", 0x7f), ("aé", 0xc3)] {
            let error = compose(words, &[]).unwrap_err();
            assert!(
                matches!(error, BootError::CmdlineByte { byte, position: 1 } if byte == want),
                "{error}"
            );
        }
    }
}
