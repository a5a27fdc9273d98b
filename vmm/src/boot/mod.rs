//! Laying out Linux for the 64-bit boot protocol (Documentation/arch/x86/boot.rst) or for PVH.
//!
//! The kernel, the initramfs and the command line are outside input: every number in them is
//! checked before it is used.

mod acpi;
mod bzimage;
mod cmdline;
mod elf;
mod image;
mod initramfs;
mod mptable;
mod payload;
mod pvh;
mod tables;
mod zero_page;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use bzimage::unpack_bzimage;
pub(crate) use cmdline::compose;
pub(crate) use image::{Image, Piece};
pub(crate) use tables::{CODE_SELECTOR, DATA_SELECTOR, GDT_ENTRIES, TSS_SELECTOR, descriptor};

use crate::layout::{ACPI_TABLES, CMDLINE, GDT, MP_TABLE, PAGE_TABLES, START_INFO, ZERO_PAGE};
use crate::{BootProtocol, Config};
use image::Draft;
use zero_page::Ram;

/// The longest command line that x86-64 Linux takes (`COMMAND_LINE_SIZE` less the NUL).
pub const CMDLINE_MAX_BYTES: usize = 2047;

/// Why a guest could not be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// A file could not be opened or read.
    #[error("cannot {action} the {what} {}: {error}; check the path and its permissions", path.display())]
    File {
        /// "open" or "read".
        action: &'static str,
        /// "kernel" or "initramfs".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// Something other than a regular file was given.
    #[error("the {what} {} is not a regular file: name the file itself", path.display())]
    NotAFile {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The kernel is neither an ELF file nor a bzImage.
    #[error("the kernel {} is neither an ELF file nor a bzImage: give a `vmlinux` or a `vmlinuz` for x86-64", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is a bzImage that cannot be unpacked.
    #[error("the bzImage {} cannot be unpacked: {reason}", path.display())]
    BadBzImage {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The kernel cannot be entered as asked.
    #[error("the kernel {} has no PVH entry (an ELF note of type 18 by Xen): build it with CONFIG_PVH=y, or boot it by the 64-bit protocol", path.display())]
    NoPvh {
        /// The file.
        path: PathBuf,
    },
    /// The kernel is an ELF file of another kind.
    #[error("the kernel {} is not a little-endian x86-64 ELF executable ({reason}): build it for x86-64", path.display())]
    WrongElf {
        /// The file.
        path: PathBuf,
        /// Which field was wrong.
        reason: String,
    },
    /// The kernel's file ends before what its headers promise.
    #[error("the kernel {} is truncated: {part} ends at byte {end}, the file has {size}; copy or build it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What is cut.
        part: String,
        /// Where it should end.
        end: u64,
        /// The file's size in bytes.
        size: u64,
    },
    /// The kernel's headers contradict themselves or this machine.
    #[error("the kernel {} cannot be loaded: {reason}", path.display())]
    BadElf {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A kernel segment does not fit into the guest's memory.
    #[error("the kernel {} needs guest memory up to {end:#x}, but memory below the PCI hole ends at {limit:#x}: give the guest at least {needed_mib} MiB", path.display(), needed_mib = end.div_ceil(1 << 20))]
    KernelTooLarge {
        /// The file.
        path: PathBuf,
        /// Where the segment ends.
        end: u64,
        /// Where memory ends.
        limit: u64,
    },
    /// The initramfs is empty.
    #[error("the initramfs {} is empty: leave it out, or build it again", path.display())]
    InitramfsEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The initramfs does not fit beside the kernel.
    #[error("the initramfs {} has {size} bytes, but the guest's memory has room for {room} beside the kernel: give the guest more memory or a smaller initramfs", path.display())]
    InitramfsTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// How many bytes there are for it.
        room: u64,
    },
    /// The command line is too long.
    #[error(
        "the kernel command line has {length} bytes with the {added} that announce devices, but Linux takes {CMDLINE_MAX_BYTES}: shorten it"
    )]
    CmdlineTooLong {
        /// Length of all of it in bytes.
        length: usize,
        /// How many of them the VMM added.
        added: usize,
    },
    /// The command line has a byte that no kernel command line can have.
    #[error(
        "the kernel command line has the byte {byte:#04x} at {position}: use printable ASCII only"
    )]
    CmdlineByte {
        /// The byte.
        byte: u8,
        /// Its position, counted from 0.
        position: usize,
    },
    /// The image of the guest could not be made.
    #[error(
        "cannot put {what} into the image of the guest: {error}; see whether the host has run out of memory or of descriptors"
    )]
    Image {
        /// What was to be put there.
        what: &'static str,
        /// The answer.
        #[source]
        error: io::Error,
    },
}

/// What the vCPU needs to know to start the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Guest-physical address of the first instruction.
    pub(crate) address: u64,
    /// How it is entered.
    pub(crate) protocol: BootProtocol,
}

/// Lays out kernel, initramfs and boot data; `cmdline` is already composed, and `irqs` are the lines
/// of the virtio devices.
pub(crate) fn lay_out(config: &Config, cmdline: &str, irqs: &[u32]) -> Result<Image, BootError> {
    let failed = |what| move |error| BootError::Image { what, error };
    let mut draft = Draft::new(config.memory_bytes).map_err(failed("anything"))?;
    let kernel = elf::load(&config.kernel, &mut draft)?;
    let initramfs = match &config.initramfs {
        Some(path) => Some(initramfs::load(path, kernel.end, &mut draft)?),
        None => None,
    };
    let mut write = |what, address, bytes: &[u8]| {
        draft.write(address, bytes).map_err(|error| BootError::Image { what, error })
    };
    write("the GDT", GDT, &tables::gdt(config.protocol))?;
    // The NUL after it is there: fresh guest memory is zero.
    write("the command line", CMDLINE, cmdline.as_bytes())?;
    let root_pointer = config.acpi.then_some(ACPI_TABLES);
    if config.acpi {
        let tables = acpi::build(ACPI_TABLES, config.vcpus, irqs);
        write("the ACPI tables", ACPI_TABLES, &tables)?;
    } else {
        // For one processor too: a kernel that finds no table looks for one at every 16 bytes of
        // 64 KiB of absent firmware, through a new mapping each time.
        write("the MP table", MP_TABLE, &mptable::build(MP_TABLE, config.vcpus))?;
    }
    let ram = Ram::of(config.memory_bytes, kernel.start);
    let address = match config.protocol {
        BootProtocol::Linux64 => {
            write("the page tables", PAGE_TABLES, &tables::identity_map(kernel.end))?;
            let page = zero_page::build(ram, cmdline.len(), initramfs, root_pointer);
            write("the zero page", ZERO_PAGE, &page)?;
            kernel.entry
        }
        BootProtocol::Pvh => {
            let info = pvh::start_info(ram, initramfs, root_pointer);
            write("the start info", START_INFO, &info)?;
            let path = || config.kernel.clone();
            kernel.pvh_entry.ok_or_else(|| BootError::NoPvh { path: path() })?
        }
    };
    draft.finish(Entry { address, protocol: config.protocol }).map_err(failed("its seal"))
}
