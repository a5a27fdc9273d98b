//! ACPI tables (ACPI Specification 6.5, chapter 5): how a distribution's kernel finds processors,
//! interrupt controllers and devices.
//!
//! The machine is a hardware-reduced one (section 4.1): no power management registers, no system
//! control interrupt, and no 8259 for Linux, which then takes the I/O APIC for every line. A
//! kernel that is told so must not be told `noapic`.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::mptable::{IO_APIC_ADDRESS, LOCAL_APIC_ADDRESS};
use crate::devices::{RESET_PORT, RESET_VALUE, SERIAL_PORT};
use crate::layout::{SERIAL_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_STRIDE};

const OEM: [u8; 6] = *b"TARE  ";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
const TABLE_HEADER_BYTES: u32 = 36;
/// The first revision whose integers are of 64 bits (table 5.29).
const DSDT_REVISION: u8 = 2;
/// No VGA, no message-signalled interrupts, no CMOS clock, and, by the bit that is not set, no
/// 8042 to probe (table 5.10).
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 3 | 1 << 5;
const SERIAL_PORTS: u8 = 8;
/// Tables begin on multiples of this.
const ALIGNMENT: usize = 16;

/// The root pointer, to lie at `address`, and all tables behind it, for `vcpus` processors and a
/// virtio-mmio device on each of the `irqs`.
pub(super) fn build(address: u64, vcpus: u8, irqs: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len().next_multiple_of(ALIGNMENT)];
    let mut add = |table: &dyn Aml| {
        let at = address + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        at
    };
    let dsdt = add(&Dsdt { vcpus, irqs });
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(add(&fadt(dsdt)));
    xsdt.add_entry(add(&madt(vcpus)));
    let xsdt = add(&xsdt);
    let mut root = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    bytes[..root.len()].copy_from_slice(&root);
    bytes
}

/// The fixed description: what there is not, and where to reset.
fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg =
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, RESET_PORT.into());
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

/// Processors and I/O APIC. Every line is its own interrupt: KVM's I/O APIC has the timer on pin 2
/// as well as 0, so nothing is overridden.
fn madt(vcpus: u8) -> impl Aml {
    let controller = LocalInterruptController::Address(LOCAL_APIC_ADDRESS);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, controller);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(vcpus, IO_APIC_ADDRESS, 0));
    madt
}

/// The differentiated description: processors, COM1 and the virtio devices.
struct Dsdt<'a> {
    vcpus: u8,
    irqs: &'a [u32],
}

impl Aml for Dsdt<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut devices = Vec::with_capacity(1024);
        for id in 0..self.vcpus {
            let hid = Name::new("_HID".into(), &"ACPI0007");
            let uid = Name::new("_UID".into(), &id);
            Device::new(Path::new(&format!("C{id:03}")), vec![&hid, &uid])
                .to_aml_bytes(&mut devices);
        }
        let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
        let uid = Name::new("_UID".into(), &ZERO);
        let ports = IO::new(SERIAL_PORT, SERIAL_PORT, 0, SERIAL_PORTS);
        let interrupt = Interrupt::new(true, true, false, false, SERIAL_IRQ);
        let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
        let crs = Name::new("_CRS".into(), &resources);
        Device::new("COM1".into(), vec![&hid, &uid, &crs]).to_aml_bytes(&mut devices);
        for (index, irq) in self.irqs.iter().enumerate() {
            // All of them lie below 4 GiB, in the hole.
            let base = (VIRTIO_MMIO + index as u64 * VIRTIO_MMIO_STRIDE) as u32;
            let hid = Name::new("_HID".into(), &"LNRO0005");
            let uid = Name::new("_UID".into(), &(index as u8));
            let registers = Memory32Fixed::new(true, base, VIRTIO_MMIO_STRIDE as u32);
            // By level: the line stays high until every cause is acknowledged, and one that comes
            // between two acknowledgements makes no edge.
            let interrupt = Interrupt::new(true, false, false, false, *irq);
            let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
            let crs = Name::new("_CRS".into(), &resources);
            Device::new(Path::new(&format!("V{index:03}")), vec![&hid, &uid, &crs])
                .to_aml_bytes(&mut devices);
        }
        let scope = Scope::raw("_SB_".into(), devices);
        let mut table =
            Sdt::new(*b"DSDT", TABLE_HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
        table.append_slice(&scope);
        sink.vec(table.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{ACPI_TABLES, KERNEL_MIN, VIRTIO_IRQS};

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at an address, by the length in its header.
    fn table(bytes: &[u8], address: u64) -> &[u8] {
        let table = &bytes[(address - ACPI_TABLES) as usize..];
        &table[..word(table, 4) as u32 as usize]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn test_build_every_table_is_found_and_sums_to_zero() {
        for (vcpus, count) in [(1, 0), (8, VIRTIO_IRQS.len())] {
            let bytes = build(ACPI_TABLES, vcpus, &VIRTIO_IRQS[..count]);
            assert!(ACPI_TABLES + bytes.len() as u64 <= KERNEL_MIN);
            assert_eq!(
                (&bytes[..8], sum(&bytes[..20]), sum(&bytes[..36])),
                (&b"RSD PTR "[..], 0, 0)
            );
            let xsdt = table(&bytes, word(&bytes, 24));
            assert_eq!((&xsdt[..4], sum(xsdt), xsdt.len()), (&b"XSDT"[..], 0, 36 + 2 * 8));
            let fadt = table(&bytes, word(xsdt, 36));
            assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
            // The reset register: a port of a byte, and what is written there.
            assert_eq!(fadt[116..129], [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0, 0xfe]);
            let madt = table(&bytes, word(xsdt, 44));
            assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
            assert_eq!(madt.len(), 44 + usize::from(vcpus) * 8 + 12);
            let dsdt = table(&bytes, word(fadt, 140));
            assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
            let devices = dsdt.windows(8).filter(|part| *part == b"LNRO0005").count();
            assert_eq!(devices, count);
        }
    }
}
