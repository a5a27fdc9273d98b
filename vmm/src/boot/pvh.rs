//! PVH: Xen's x86/HVM direct boot ABI (docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h of Xen).

use super::initramfs::Placed;
use super::zero_page::{Ram, e820};
use crate::layout::{CMDLINE, START_INFO};

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit physical entry.
const PHYS32_ENTRY: u32 = 18;
const NOTE_NAME: &[u8] = b"Xen\0";
const NOTE_HEADER_BYTES: usize = 12;

const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;
const MODULES: usize = 0x40;
const MODULE_BYTES: usize = 32;
const MEMORY_MAP: usize = MODULES + MODULE_BYTES;
const MEMORY_MAP_ENTRY_BYTES: usize = 24;
/// A memory map of ours has two legacy ranges, and RAM on both sides of the hole.
const MEMORY_MAP_ENTRIES_MAX: usize = 8;
const BYTES: usize = MEMORY_MAP + MEMORY_MAP_ENTRIES_MAX * MEMORY_MAP_ENTRY_BYTES;

/// The entry that a segment of notes tells, if it does.
pub(super) fn entry(mut notes: &[u8]) -> Option<u64> {
    let field = |notes: &[u8], at: usize| {
        let bytes = notes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    loop {
        let name_bytes = field(notes, 0)? as usize;
        let data_bytes = field(notes, 4)? as usize;
        let kind = field(notes, 8)?;
        let data_at = name_bytes.checked_next_multiple_of(4)?.checked_add(NOTE_HEADER_BYTES)?;
        let name = notes.get(NOTE_HEADER_BYTES..NOTE_HEADER_BYTES.checked_add(name_bytes)?)?;
        let data = notes.get(data_at..data_at.checked_add(data_bytes)?)?;
        if kind == PHYS32_ENTRY && name == NOTE_NAME {
            // 4 or 8 bytes, but a 32-bit address.
            return field(data, 0).map(u64::from);
        }
        notes = notes.get(data_at.checked_add(data_bytes.checked_next_multiple_of(4)?)?..)?;
    }
}

/// `struct hvm_start_info` to lie at [`START_INFO`], its list of modules, which is the initramfs or
/// nothing, its memory map, and the address of ACPI's root pointer or 0.
pub(super) fn start_info(ram: Ram, initramfs: Option<Placed>, acpi: Option<u64>) -> [u8; BYTES] {
    let mut info = [0; BYTES];
    let mut set = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, &MAGIC.to_le_bytes());
    set(4, &VERSION.to_le_bytes());
    if let Some(Placed { start, bytes }) = initramfs {
        set(12, &1_u32.to_le_bytes());
        set(16, &(START_INFO + MODULES as u64).to_le_bytes());
        set(MODULES, &start.to_le_bytes());
        set(MODULES + 8, &bytes.to_le_bytes());
    }
    set(24, &CMDLINE.to_le_bytes());
    set(32, &acpi.unwrap_or(0).to_le_bytes());
    set(40, &(START_INFO + MEMORY_MAP as u64).to_le_bytes());
    let mut entries = 0_u32;
    let map = e820(ram).take(MEMORY_MAP_ENTRIES_MAX);
    for (index, (start, bytes, kind)) in map.enumerate() {
        let at = MEMORY_MAP + index * MEMORY_MAP_ENTRY_BYTES;
        set(at, &start.to_le_bytes());
        set(at + 8, &bytes.to_le_bytes());
        set(at + 16, &kind.to_le_bytes());
        entries += 1;
    }
    set(48, &entries.to_le_bytes());
    info
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(name: &[u8], kind: u32, data: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, data.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, data] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn test_entry_behind_other_notes_is_found() {
        let mut notes = note(b"GNU\0", PHYS32_ENTRY, &[1; 20]);
        notes.extend(note(b"Xen\0", 5, b"linux\0"));
        assert_eq!(entry(&notes), None);
        let mut wide = notes.clone();
        notes.extend(note(b"Xen\0", PHYS32_ENTRY, &0x100_0123_u32.to_le_bytes()));
        assert_eq!(entry(&notes), Some(0x100_0123));
        wide.extend(note(b"Xen\0", PHYS32_ENTRY, &0x100_0456_u64.to_le_bytes()));
        assert_eq!(entry(&wide), Some(0x100_0456));
        notes.truncate(notes.len() - 1);
        assert_eq!(entry(&notes), None);
    }

    #[test]
    fn test_start_info_points_at_initramfs_and_memory() {
        let info = start_info(
            Ram::of(5 << 30, 0x20_0000),
            Some(Placed { start: 0x200_0000, bytes: 99 }),
            Some(0xe_0000),
        );
        let word = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        assert_eq!(word(0), 0x1_336e_c578);
        assert_eq!(word(8), 1 << 32);
        let modules = (word(16) - START_INFO) as usize;
        assert_eq!((word(modules), word(modules + 8)), (0x200_0000, 99));
        assert_eq!((word(24), word(32)), (CMDLINE, 0xe_0000));
        let map = (word(40) - START_INFO) as usize;
        assert_eq!(word(48), 4);
        assert_eq!((word(map + 72), word(map + 80), word(map + 88)), (4 << 30, 2 << 30, 1));
    }

    proptest! {
        #[test]
        fn test_entry_any_bytes_ends(notes in prop::collection::vec(0_u8..20, 0..200)) {
            let _ = entry(&notes);
        }
    }
}
