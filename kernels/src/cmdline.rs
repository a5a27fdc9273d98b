//! The kernel command line that guests are started with.

use crate::variant::Variant;

/// A word of the command line and why it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// As the kernel reads it (`Documentation/admin-guide/kernel-parameters.txt`).
    pub word: &'static str,
    /// What it is for.
    pub why: &'static str,
}

/// What every guest gets, in our own VMM as in QEMU's microvm machine. Nothing here turns on a
/// console: printing over a serial port costs several times the rest of the boot.
pub const WORDS: &[Word] = &[
    Word { word: "quiet", why: "messages go to the log buffer only" },
    Word {
        word: "panic=-1",
        why: "a panic ends the guest at once instead of leaving it standing still",
    },
    Word {
        word: "reboot=t",
        why: "reboot and panic end in a triple fault, which every VMM reports; QEMU's microvm has \
              no keyboard controller, and to wait for one takes long",
    },
    Word {
        word: "initramfs_async=0",
        why: "a small initramfs is unpacked in place, without a thread; within 0.1 ms either way",
    },
];

/// What the kernels for start-up get besides.
pub const START_WORDS: &[Word] = &[
    Word {
        word: "noapic",
        why: "interrupts of devices come through the 8259; setting up the I/O APIC by MMIO takes \
              hundreds of exits (the local APIC stays, for its timer)",
    },
    Word {
        word: "8250.nr_uarts=0",
        why: "the serial port is the agent's: Linux would look at it in 65 exits and, should it panic, \
              write its last words there; boot `full` to read them",
    },
    Word {
        word: "rodata=off",
        why: "kernel memory is not split into read-only pages; the guest is thrown away after one run",
    },
];

/// A variant's words joined by blanks. Words of the VMM (its `virtio_mmio.device=`), of the root
/// file system and, after ` -- `, of the program in the guest are for the caller to append.
pub fn command_line(variant: &Variant) -> String {
    let start = if variant.packed { START_WORDS } else { &[] };
    WORDS.iter().chain(start).map(|word| word.word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::variant::VARIANTS;

    #[test]
    fn test_command_line_has_each_word_once() {
        for variant in VARIANTS {
            let line = command_line(variant);
            let words: BTreeSet<&str> = line.split(' ').collect();
            assert_eq!(words.len(), line.split(' ').count());
            assert!(!line.contains("console="));
        }
    }

    #[test]
    fn test_command_line_leaves_memory_unprotected_only_where_the_image_is_packed() {
        for variant in VARIANTS {
            let line = command_line(variant);
            assert_eq!(line.contains("rodata=off"), variant.packed, "{}", variant.name);
        }
    }
}
