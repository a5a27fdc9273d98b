use std::io::Write;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

const RAM_BYTES: u64 = 32 << 20;

/// What a test does to an image.
type Bend = fn(&mut Image);

/// An ELF kernel of which each number can be bent.
#[derive(Debug, Clone)]
struct Image {
    magic: [u8; 4],
    class: u8,
    order: u8,
    kind: u16,
    machine: u16,
    entry: u64,
    table: u64,
    entry_bytes: u16,
    count: u16,
    /// Type, offset, physical address, bytes in the file, bytes in memory.
    segments: Vec<(u32, u64, u64, u64, u64)>,
    length: usize,
}

impl Default for Image {
    fn default() -> Image {
        Image {
            magic: *b"\x7fELF",
            class: CLASS_64,
            order: LITTLE_ENDIAN,
            kind: EXECUTABLE,
            machine: X86_64,
            entry: 0x10_0010,
            table: 64,
            entry_bytes: 56,
            count: 2,
            segments: vec![
                (LOAD, 0x1000, 0x10_0000, 0x100, 0x2000),
                (LOAD, 0x1100, 0x20_0000, 0x100, 0x100),
            ],
            length: 0x1200,
        }
    }
}

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.magic);
        bytes.extend([self.class, self.order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.machine.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(self.entry.to_le_bytes());
        bytes.extend(self.table.to_le_bytes());
        bytes.extend([0; 14]);
        bytes.extend(self.entry_bytes.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend([0; 6]);
        for &(kind, offset, physical, in_file, in_memory) in &self.segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([7, 0, 0, 0]);
            for word in [offset, !0, physical, in_file, in_memory, 0x1000] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes.resize(bytes.len().max(0x1000), 0);
        bytes.resize(0x1200, 0xcc);
        bytes.resize(self.length, 0xcc);
        bytes
    }
}

fn load_bytes(bytes: &[u8]) -> Result<(Loaded, Draft), BootError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut draft = Draft::new(RAM_BYTES).unwrap();
    load(file.path(), &mut draft).map(|loaded| (loaded, draft))
}

fn error_of(adapt: impl FnOnce(&mut Image)) -> BootError {
    let mut image = Image::default();
    adapt(&mut image);
    load_bytes(&image.bytes()).map(|(loaded, _)| loaded).unwrap_err()
}

#[test]
fn test_load_copies_file_bytes_and_leaves_bss_zero() {
    let (loaded, draft) = load_bytes(&Image::default().bytes()).unwrap();
    assert_eq!(
        loaded,
        Loaded { entry: 0x10_0010, pvh_entry: None, start: 0x10_0000, end: 0x20_0100 }
    );
    let byte = |address| draft.byte(address);
    assert_eq!((byte(0x10_0000), byte(0x10_00ff), byte(0x10_0100)), (0xcc, 0xcc, 0));
    assert_eq!((byte(0x0f_ffff), byte(0x20_00ff), byte(0x20_0100)), (0, 0xcc, 0));
}

#[test]
fn test_load_program_headers_far_from_the_header() {
    let mut image = Image { table: 0x3000, length: 0x3000, ..Image::default() };
    let mut bytes = image.bytes();
    image.length = 0x1200;
    bytes.extend_from_slice(&image.bytes()[64..64 + 112]);
    assert_eq!(load_bytes(&bytes).unwrap().0.entry, 0x10_0010);
}

#[test]
fn test_load_not_an_elf_returns_not_elf() {
    for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 4096]] {
        let error = load_bytes(bytes).map(|(loaded, _)| loaded).unwrap_err();
        assert!(matches!(error, BootError::NotElf { .. }), "{error}");
        assert!(error.to_string().contains("vmlinux"), "{error}");
    }
}

#[test]
fn test_load_other_machine_class_order_or_type_returns_wrong_elf() {
    let bends: [Bend; 4] = [
        |image| image.machine = 183,
        |image| image.class = 1,
        |image| image.order = 2,
        |image| image.kind = 1,
    ];
    for bend in bends {
        let error = error_of(bend);
        assert!(matches!(error, BootError::WrongElf { .. }), "{error}");
    }
}

#[test]
fn test_load_cut_anywhere_returns_truncated() {
    let bytes = Image::default().bytes();
    for length in [4, 63, 64, 100, 175, 0x1000, 0x10ff, 0x11ff] {
        let error = load_bytes(&bytes[..length]).map(|(loaded, _)| loaded).unwrap_err();
        let right = matches!(error, BootError::Truncated { size, .. } if size == length as u64);
        assert!(right, "{length}: {error}");
    }
}

#[test]
fn test_load_numbers_that_overflow_return_truncated_or_too_large() {
    let error = error_of(|image| image.table = u64::MAX - 8);
    assert!(matches!(error, BootError::Truncated { end: u64::MAX, .. }), "{error}");
    let error = error_of(|image| image.segments[0].1 = u64::MAX - 8);
    assert!(matches!(error, BootError::Truncated { end: u64::MAX, .. }), "{error}");
    let error = error_of(|image| image.segments[1].2 = u64::MAX - 8);
    assert!(matches!(error, BootError::KernelTooLarge { end: u64::MAX, .. }), "{error}");
}

#[test]
fn test_load_segment_outside_memory_returns_too_large() {
    let error = error_of(|image| image.segments[0].4 = RAM_BYTES);
    let right = matches!(error, BootError::KernelTooLarge { end, limit: RAM_BYTES, .. }
        if end == RAM_BYTES + 0x10_0000);
    assert!(right, "{error}");
    assert!(error.to_string().contains("at least 33 MiB"), "{error}");
}

#[test]
fn test_load_contradictions_return_bad_elf() {
    let bends: [(Bend, &str); 8] = [
        (|image| image.segments[0].2 = 0x7000, "first MiB"),
        (|image| image.segments[1].2 = 0x10_1fff, "overlap"),
        (|image| image.segments[0].3 = 0x2001, "in memory"),
        (|image| image.entry = 0x20_0100, "entry"),
        (|image| image.entry = 0, "entry"),
        (|image| image.count = 0, "0 program headers"),
        (|image| image.count = 65, "65 program headers"),
        (|image| image.entry_bytes = 32, "32 bytes"),
    ];
    for (bend, word) in bends {
        let error = error_of(bend);
        assert!(matches!(error, BootError::BadElf { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = error_of(|image| image.segments.iter_mut().for_each(|segment| segment.0 = 4));
    assert!(error.to_string().contains("no segment"), "{error}");
}

proptest! {
    #[test]
    fn test_load_any_headers_stays_in_memory(
        entry: u64,
        table in prop_oneof![Just(64), any::<u64>()],
        count in 0_u16..70,
        numbers: [u64; 8],
        flips in prop::collection::vec((0_usize..0x1200, any::<u8>()), 0..8),
        length in 0_usize..0x1300,
    ) {
        let [a, b, c, d, e, f, g, h] = numbers;
        let segments = vec![(LOAD, a, b, c, d), (LOAD, e, f, g, h)];
        let mut bytes =
            Image { entry, table, count, segments, length, ..Image::default() }.bytes();
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok((loaded, _)) = load_bytes(&bytes) {
            prop_assert!(loaded.end <= RAM_BYTES);
            prop_assert!((KERNEL_MIN..loaded.end).contains(&loaded.entry));
        }
    }
}
