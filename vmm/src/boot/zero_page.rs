//! The zero page: `struct boot_params` (Documentation/arch/x86/zero-page.rst).
//!
//! Only what a loader must set is set. Offsets are from the page's start; the setup header begins
//! at 0x1f1 (Documentation/arch/x86/boot.rst).

use super::initramfs::Placed;
use crate::layout::{CMDLINE, CONVENTIONAL_END, KERNEL_MIN, LOW_END};
use crate::memory::ranges;

const PAGE_BYTES: usize = 4096;

const ACPI_RSDP_ADDR: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_BYTES: usize = 20;

/// "Undefined loader": none of the registered ones.
const LOADER_UNDEFINED: u8 = 0xff;
/// The protocol's version 2.15, the latest that Linux 6.12 documents.
const PROTOCOL: u16 = 0x020f;
/// `LOADED_HIGH`: the kernel lies above 1 MiB.
const LOADED_HIGH: u8 = 1;
pub(super) const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// RAM as a guest is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ram {
    /// All of it, with what is kept back.
    pub(super) bytes: u64,
    /// Where it goes on above the legacy hole.
    pub(super) extended: u64,
}

impl Ram {
    /// RAM of `bytes` for a kernel that lies from `kernel_start` on.
    pub(super) fn of(bytes: u64, kernel_start: u64) -> Ram {
        Ram { bytes, extended: if kernel_start < LOW_END { KERNEL_MIN } else { LOW_END } }
    }
}

/// Builds the page for a guest of that RAM, with the address of ACPI's root pointer if it has one.
pub(super) fn build(
    ram: Ram,
    cmdline_bytes: usize,
    initramfs: Option<Placed>,
    acpi: Option<u64>,
) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let mut set = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    if let Some(address) = acpi {
        set(ACPI_RSDP_ADDR, &address.to_le_bytes());
    }
    set(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
    set(HEADER_MAGIC, b"HdrS");
    set(VERSION, &PROTOCOL.to_le_bytes());
    set(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    set(LOADFLAGS, &[LOADED_HIGH]);
    set(CMD_LINE_PTR, &(CMDLINE as u32).to_le_bytes());
    set(CMDLINE_SIZE, &(cmdline_bytes as u32).to_le_bytes());
    if let Some(Placed { start, bytes }) = initramfs {
        // Both lie below 2 GiB, the limit at which it was placed.
        set(RAMDISK_IMAGE, &(start as u32).to_le_bytes());
        set(RAMDISK_SIZE, &(bytes as u32).to_le_bytes());
    }
    let mut entries = 0;
    for (index, (start, bytes, kind)) in e820(ram).enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        set(at, &start.to_le_bytes());
        set(at + 8, &bytes.to_le_bytes());
        set(at + 16, &kind.to_le_bytes());
        entries = index as u8 + 1;
    }
    set(E820_ENTRIES, &[entries]);
    page
}

/// The memory map: `(start, bytes, kind)`, ascending and without overlap.
pub(super) fn e820(ram: Ram) -> impl Iterator<Item = (u64, u64, u32)> {
    let legacy = [
        (0, CONVENTIONAL_END, E820_RAM),
        (CONVENTIONAL_END, ram.extended - CONVENTIONAL_END, E820_RESERVED),
    ];
    let extended = ranges(ram.bytes).map(move |(start, _, bytes)| {
        let from = start.max(ram.extended);
        (from, start + bytes - from, E820_RAM)
    });
    legacy.into_iter().chain(extended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{HOLE_END, HOLE_START};

    const RAM: Ram = Ram { bytes: 128 << 20, extended: KERNEL_MIN };

    fn u32_at(page: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn test_build_small_guest_has_header_and_three_ranges() {
        let page = build(RAM, 9, Some(Placed { start: 0x7ff_0000, bytes: 77 }), Some(0xe_0000));
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(&page[0x1fe..0x200], [0x55, 0xaa]);
        assert_eq!(u32_at(&page, 0x70), 0xe_0000);
        assert_eq!(page[TYPE_OF_LOADER], 0xff);
        assert_eq!(u32_at(&page, CMD_LINE_PTR), 0x2_0000);
        assert_eq!(u32_at(&page, CMDLINE_SIZE), 9);
        assert_eq!(u32_at(&page, RAMDISK_IMAGE), 0x7ff_0000);
        assert_eq!(u32_at(&page, RAMDISK_SIZE), 77);
        assert_eq!(page[E820_ENTRIES], 3);
        assert_eq!(u32_at(&page, E820_TABLE + 40), 0x10_0000);
        assert_eq!(u32_at(&page, E820_TABLE + 48), (127 << 20));
        assert_eq!(u32_at(&page, E820_TABLE + 56), E820_RAM);
        assert!(page[E820_TABLE + 60..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn test_build_without_initramfs_leaves_its_fields_zero() {
        let page = build(RAM, 0, None, None);
        assert_eq!((u32_at(&page, RAMDISK_IMAGE), u32_at(&page, RAMDISK_SIZE)), (0, 0));
        assert_eq!(u32_at(&page, ACPI_RSDP_ADDR), 0);
    }

    #[test]
    fn test_e820_covers_all_ram_but_the_legacy_hole_and_none_of_the_pci_hole() {
        for bytes in [16 << 20, HOLE_START, HOLE_START + 4096, 64 << 30] {
            for (kernel_start, extended) in [(KERNEL_MIN, KERNEL_MIN), (LOW_END, LOW_END)] {
                let ram = Ram::of(bytes, kernel_start);
                let map: Vec<_> = e820(ram).collect();
                let told: u64 =
                    map.iter().filter(|range| range.2 == E820_RAM).map(|range| range.1).sum();
                assert_eq!(told, bytes - (extended - CONVENTIONAL_END));
                for pair in map.windows(2) {
                    assert!(pair[0].0 + pair[0].1 <= pair[1].0);
                }
                for &(start, length, _) in &map {
                    assert!(start + length <= HOLE_START || start >= HOLE_END);
                }
            }
        }
    }
}
