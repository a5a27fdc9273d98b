//! The tables that 64-bit mode needs: a GDT and identity page tables.

use kvm_bindings::kvm_segment;

use crate::BootProtocol;
use crate::layout::PAGE_TABLES;

/// `__BOOT_CS` of the boot protocol.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS` of the boot protocol.
pub(crate) const DATA_SELECTOR: u16 = 0x18;
/// A task register must be valid for VMX to enter the guest.
pub(crate) const TSS_SELECTOR: u16 = 0x20;
/// Two null descriptors, code, data, and a TSS of two entries.
pub(crate) const GDT_ENTRIES: usize = 6;

/// Access byte and flags of a flat 64-bit code segment: granularity, long mode, present,
/// execute/read, accessed (Intel SDM volume 3, 3.4.5).
const CODE_FLAGS: u16 = 0xa09b;
/// The same for 32-bit code.
const CODE_FLAGS_32: u16 = 0xc09b;
/// Flat data: granularity, 32-bit, present, read/write, accessed.
const DATA_FLAGS: u16 = 0xc093;
/// A busy 64-bit TSS.
const TSS_FLAGS: u16 = 0x808b;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const ENTRIES: usize = 512;
const TABLE_BYTES: usize = 4096;
const GIB: u64 = 1 << 30;

fn raw(flags: u16) -> u64 {
    // Base 0, limit 0xfffff: 4 GiB in pages.
    let flags = u64::from(flags);
    (flags & 0xf000) << 40 | 0xf << 48 | (flags & 0xff) << 40 | 0xffff
}

fn code_flags(protocol: BootProtocol) -> u16 {
    match protocol {
        BootProtocol::Linux64 => CODE_FLAGS,
        BootProtocol::Pvh => CODE_FLAGS_32,
    }
}

/// The GDT's bytes.
pub(super) fn gdt(protocol: BootProtocol) -> [u8; GDT_ENTRIES * 8] {
    let entries = [0, 0, raw(code_flags(protocol)), raw(DATA_FLAGS), raw(TSS_FLAGS), 0];
    let mut bytes = [0; GDT_ENTRIES * 8];
    for (slot, entry) in bytes.chunks_exact_mut(8).zip(entries) {
        slot.copy_from_slice(&entry.to_le_bytes());
    }
    bytes
}

/// The same descriptor as KVM wants it in a segment register.
pub(crate) fn descriptor(protocol: BootProtocol, selector: u16) -> kvm_segment {
    let flags = match selector {
        CODE_SELECTOR => code_flags(protocol),
        TSS_SELECTOR => TSS_FLAGS,
        _ => DATA_FLAGS,
    };
    let bit = |position: u16| (flags >> position & 1) as u8;
    kvm_segment {
        base: 0,
        limit: if bit(15) == 1 { 0xffff_ffff } else { 0xf_ffff },
        selector,
        type_: (flags & 0xf) as u8,
        s: bit(4),
        dpl: 0,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: 0,
        padding: 0,
    }
}

/// PML4, PDPT and page directories that map the first `end` bytes, rounded up to whole GiB, onto
/// themselves in 2 MiB pages: kernel, zero page and command line must be mapped, more need not.
pub(super) fn identity_map(end: u64) -> Vec<u8> {
    let directories = (end.div_ceil(GIB).max(1) as usize).min(ENTRIES);
    let mut bytes = vec![0; TABLE_BYTES * (2 + directories)];
    let table = |index: usize| PAGE_TABLES + (index * TABLE_BYTES) as u64;
    let entries = bytes.chunks_exact_mut(8);
    for (index, entry) in entries.enumerate() {
        let value = match index {
            0 => table(1) | PRESENT_WRITABLE,
            _ if index < ENTRIES => 0,
            _ if index < ENTRIES + directories => table(2 + index - ENTRIES) | PRESENT_WRITABLE,
            _ if index < 2 * ENTRIES => 0,
            _ => ((index - 2 * ENTRIES) as u64) << 21 | PRESENT_WRITABLE | LARGE_PAGE,
        };
        if value != 0 {
            entry.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CMDLINE, HOLE_START};

    fn entry(tables: &[u8], address: u64, index: u64) -> u64 {
        let at = (address - PAGE_TABLES + index * 8) as usize;
        u64::from_le_bytes(tables[at..at + 8].try_into().unwrap())
    }

    /// Walks the tables as a processor does.
    fn translate(tables: &[u8], address: u64) -> Option<u64> {
        let mut table = PAGE_TABLES;
        for shift in [39, 30, 21] {
            let found = entry(tables, table, address >> shift & 511);
            if found & 1 == 0 {
                return None;
            }
            if found & LARGE_PAGE != 0 {
                return Some((found & !0x1f_ffff) | (address & 0x1f_ffff));
            }
            table = found & !0xfff;
        }
        None
    }

    #[test]
    fn test_identity_map_translates_what_was_asked_and_no_more() {
        let tables = identity_map(17 << 20);
        for address in [0, 0x7000, 0x10_0000, 0x100_0123, GIB - 1] {
            assert_eq!(translate(&tables, address), Some(address));
        }
        assert_eq!(translate(&tables, GIB), None);
        let tables = identity_map(HOLE_START);
        assert_eq!(translate(&tables, HOLE_START - 1), Some(HOLE_START - 1));
        assert_eq!(translate(&tables, HOLE_START), None);
        assert!(PAGE_TABLES + tables.len() as u64 <= CMDLINE);
    }

    #[test]
    fn test_gdt_matches_segment_registers() {
        let linux = BootProtocol::Linux64;
        let gdt = gdt(linux);
        let code = u64::from_le_bytes(gdt[0x10..0x18].try_into().unwrap());
        assert_eq!(code, 0x00af_9b00_0000_ffff);
        let data = u64::from_le_bytes(gdt[0x18..0x20].try_into().unwrap());
        assert_eq!(data, 0x00cf_9300_0000_ffff);
        let segment = descriptor(linux, CODE_SELECTOR);
        assert_eq!((segment.l, segment.db, segment.g, segment.type_), (1, 0, 1, 0xb));
        let segment = descriptor(linux, TSS_SELECTOR);
        assert_eq!((segment.s, segment.type_, segment.present), (0, 0xb, 1));
        let segment = descriptor(BootProtocol::Pvh, CODE_SELECTOR);
        assert_eq!((segment.l, segment.db, segment.g, segment.type_), (0, 1, 1, 0xb));
    }
}
