//! What a guest is made of before it runs: its kernel's file, and the parameters of its boot.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::Input;
use crate::layout::VIRTIO_IRQS;
use crate::mapping::memory_file;
use crate::memory::check_size;
use crate::{BootProtocol, Config, Pages, boot, cpu};

const RAM_BYTES: u64 = 16 << 20;
/// An ELF executable of one segment with one instruction, `hlt`, at 1 MiB, and a PVH note.
const KERNEL: &[u8] = include_bytes!("../../fuzz/kernel.elf");

/// A file in memory, and a path to it.
fn file_of(bytes: &[u8]) -> (File, PathBuf) {
    let file = memory_file(c"tare-fuzz").and_then(|mut file| {
        file.write_all(bytes)?;
        Ok(file)
    });
    match file {
        Ok(file) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
            (file, path)
        }
        Err(error) => panic!("the host cannot fuzz: {error}"),
    }
}

/// The kernel loader: ELF and bzImage, with every compression.
pub fn kernel(data: &[u8]) {
    let (_file, kernel) = file_of(data);
    for protocol in [BootProtocol::Linux64, BootProtocol::Pvh] {
        let config = Config {
            kernel: kernel.clone(),
            memory_bytes: RAM_BYTES,
            protocol,
            ..Config::default()
        };
        lay_out(&config, &[]);
    }
}

/// Command line, zero page, start information, MP table and ACPI tables of any configuration.
pub fn boot_parameters(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let initramfs_bytes = usize::from(input.half());
    let (_initramfs, path) = file_of(&vec![1; initramfs_bytes]);
    let (_kernel, kernel) = file_of(KERNEL);
    let config = Config {
        kernel,
        initramfs: (flags & 1 != 0).then_some(path),
        protocol: if flags & 2 == 0 { BootProtocol::Linux64 } else { BootProtocol::Pvh },
        acpi: flags & 4 != 0,
        vcpus: input.byte(),
        // Any page count to beyond what is possible, or any number.
        memory_bytes: if flags & 8 == 0 {
            u64::from(input.word() % (17 << 20)) << 12
        } else {
            input.number(8)
        },
        pages: if flags & 16 == 0 { Pages::Thp } else { Pages::Huge2M },
        ..Config::default()
    };
    let irqs = &VIRTIO_IRQS[..usize::from(input.byte()) % (VIRTIO_IRQS.len() + 1)];
    let cmdline = String::from_utf8_lossy(input.0);
    let announced = if config.acpi { &[] } else { irqs };
    let Ok(cmdline) = boot::compose(&cmdline, announced) else { return };
    assert!(cmdline.len() <= crate::CMDLINE_MAX_BYTES && cmdline.is_ascii());
    if check_size(config.memory_bytes, config.pages).is_err()
        || cpu::check_count(config.vcpus).is_err()
    {
        return;
    }
    let config = Config { cmdline: cmdline.clone(), ..config };
    lay_out(&config, irqs);
}

/// Lays out what can be, and checks that all of it is in RAM below the hole, and where nothing else is.
fn lay_out(config: &Config, irqs: &[u32]) {
    let Ok(image) = boot::lay_out(config, &config.cmdline, irqs) else { return };
    let limit = crate::memory::low_end(config.memory_bytes);
    let mut places: Vec<_> =
        image.pieces().iter().map(|piece| (piece.address, piece.bytes as u64)).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "pieces overlap: {pair:x?}");
    }
    assert!(places.iter().all(|(start, bytes)| start + bytes <= limit), "outside RAM: {places:x?}");
}
