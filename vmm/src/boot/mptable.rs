//! The MP configuration table (Intel MultiProcessor Specification 1.4, chapter 4): how a kernel
//! without ACPI finds processors and interrupt lines. Linux needs `CONFIG_X86_MPPARSE`.

const PROCESSOR_ENABLED: u8 = 1;
const PROCESSOR_BOOT: u8 = 2;
pub(super) const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// Versions of KVM's APICs.
const IO_APIC_VERSION: u8 = 0x11;
const LOCAL_APIC_VERSION: u8 = 0x14;
/// Pins of KVM's I/O APIC: the ISA lines, and eight more for devices.
const LINES: u8 = 24;
const ISA_BUS: u8 = 0;
/// Interrupt types of table 4-10.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const ALL_APICS: u8 = 0xff;
const FLOATING_POINTER_BYTES: usize = 16;
const HEADER_BYTES: usize = 44;

/// The floating pointer, to lie at `address`, and behind it the table for `count` processors.
pub(super) fn build(address: u64, count: u8) -> Vec<u8> {
    let mut entries: Vec<u8> = Vec::with_capacity(512);
    let mut number = 0_u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        number += 1;
    };
    for id in 0..count {
        let boot = if id == 0 { PROCESSOR_BOOT } else { 0 };
        let mut entry = [0; 20];
        entry[1..4].copy_from_slice(&[id, LOCAL_APIC_VERSION, PROCESSOR_ENABLED | boot]);
        add(&entry);
    }
    let mut bus = [1, ISA_BUS, 0, 0, 0, 0, 0, 0];
    bus[2..].copy_from_slice(b"ISA   ");
    add(&bus);
    // Ids of the I/O APIC and of processors must differ.
    let io_apic = count;
    let mut entry = [2, io_apic, IO_APIC_VERSION, 1, 0, 0, 0, 0];
    entry[4..].copy_from_slice(&IO_APIC_ADDRESS.to_le_bytes());
    add(&entry);
    for line in 0..LINES {
        // Polarity and trigger as the bus has them: active high, by edge.
        add(&[3, VECTORED, 0, 0, ISA_BUS, line, io_apic, line]);
    }
    add(&[4, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[4, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let mut table = Vec::with_capacity(FLOATING_POINTER_BYTES + HEADER_BYTES + entries.len());
    table.extend(b"_MP_");
    table.extend((address as u32 + FLOATING_POINTER_BYTES as u32).to_le_bytes());
    table.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut table, 10);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(b"PCMP");
    header.extend(((HEADER_BYTES + entries.len()) as u16).to_le_bytes());
    header.extend([4, 0]);
    header.extend(b"TARE    MICROVM     ");
    header.extend([0; 6]);
    header.extend(number.to_le_bytes());
    header.extend(LOCAL_APIC_ADDRESS.to_le_bytes());
    header.extend([0; 4]);
    header.extend(entries);
    set_checksum(&mut header, 7);
    table.extend(header);
    table
}

/// Makes all bytes add up to zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CONVENTIONAL_END, MP_TABLE};

    #[test]
    fn test_build_sums_to_zero_and_has_every_entry() {
        for count in 1..=8 {
            let table = build(MP_TABLE, count);
            let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&table[..16]), sum(&table[16..])), (0, 0));
            let bytes = u16::from_le_bytes([table[20], table[21]]) as usize;
            assert_eq!(bytes, table.len() - 16);
            let mut entries = &table[16 + HEADER_BYTES..];
            let mut kinds = [0; 5];
            while let Some(kind) = entries.first() {
                kinds[usize::from(*kind)] += 1;
                entries = &entries[if *kind == 0 { 20 } else { 8 }..];
            }
            assert_eq!(kinds, [i32::from(count), 1, 1, 24, 2]);
            let entries = u16::from_le_bytes([table[16 + 34], table[16 + 35]]);
            assert_eq!(i32::from(entries), kinds.iter().sum());
        }
    }

    #[test]
    fn test_table_lies_where_linux_scans_and_nobody_allocates() {
        assert_eq!(MP_TABLE, CONVENTIONAL_END);
        assert!(MP_TABLE as usize + build(MP_TABLE, 8).len() <= 640 << 10);
    }
}
