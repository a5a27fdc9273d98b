//! Where things are in guest-physical memory and which interrupt lines they have.
//!
//! ```text
//! 0x0000_0500  GDT
//! 0x0000_7000  zero page (boot_params)
//! 0x0000_9000  page tables: PML4, PDPT, then one page directory per GiB
//! 0x0002_0000  command line
//! 0x0009_fc00  end of conventional memory; MP table, unless there are ACPI tables
//! 0x000e_0000  ACPI tables, if there are any
//! 0x0010_0000  kernel segments may start here; if none starts below 0x0020_0000, no RAM up to there
//! …            initramfs, on the first page behind the kernel
//! 0xc000_0000  hole: virtio-mmio at 0xd000_0000, I/O APIC, HPET, local APIC, KVM's own pages
//! 0x1_0000_0000 RAM again, if there is more than 3 GiB
//! ```

/// Four descriptors of 8 bytes.
pub(crate) const GDT: u64 = 0x500;
/// The zero page of the Linux boot protocol.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// `hvm_start_info` of PVH, with its lists, in the same place.
pub(crate) const START_INFO: u64 = ZERO_PAGE;
/// The root page table; the others follow it.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// First stack pointer, below the page tables; Linux sets its own at once.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// The command line with its terminating NUL.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Conventional memory ends where a PC keeps its extended BIOS data area.
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The MP table, in the last KiB below 640 KiB, where Linux looks for it.
pub(crate) const MP_TABLE: u64 = CONVENTIONAL_END;
/// The ACPI tables, in a PC's read-only memory, where Linux looks for them if it is not told.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// Everything below is for boot data and the legacy hole.
pub(crate) const KERNEL_MIN: u64 = 0x10_0000;
/// The end of the first large page. A guest whose kernel lies above it is told of no RAM between
/// [`KERNEL_MIN`] and here. The boot data are a few pages of 4 KiB then, and no large page is cleared
/// for them; Linux would take its first pages from there, one nested page fault each.
pub(crate) const LOW_END: u64 = 0x20_0000;
/// RAM below 4 GiB ends here at the latest.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// RAM above the hole starts here.
pub(crate) const HOLE_END: u64 = 4 << 30;
/// `initrd_addr_max` of x86-64 Linux (arch/x86/boot/header.S) plus one.
pub(crate) const INITRAMFS_LIMIT: u64 = 0x8000_0000;
/// The first virtio-mmio device's registers.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Distance between virtio-mmio devices, and the size of each one's registers.
pub(crate) const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Three pages that Intel's KVM needs for real mode, within the hole.
pub(crate) const TSS: u64 = 0xfffb_d000;
/// One more such page, for an identity map.
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// COM1's interrupt line.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// The legacy interrupt lines that no other device of ours has: they work with the 8259 alone.
pub(crate) const VIRTIO_IRQS: [u32; 7] = [5, 6, 7, 9, 10, 11, 12];
