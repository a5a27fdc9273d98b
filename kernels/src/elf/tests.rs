use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// An ELF of the given loadable segments: (address, content, size in memory), and one note.
fn elf_of(segments: &[(u64, Vec<u8>, u64)], note: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 64];
    put(&mut header, 0, b"\x7fELF\x02\x01\x01");
    put(&mut header, 18, &62u16.to_le_bytes());
    put(&mut header, 24, &0x1234u64.to_le_bytes());
    let mut parts: Vec<Segment> = segments
        .iter()
        .map(|(address, content, memory_bytes)| Segment {
            kind: PT_LOAD,
            flags: 7,
            virtual_address: *address,
            physical_address: *address,
            memory_bytes: *memory_bytes,
            content,
        })
        .collect();
    parts.push(Segment {
        kind: PT_NOTE,
        flags: 4,
        virtual_address: 0x40,
        physical_address: 0x40,
        memory_bytes: note.len() as u64,
        content: note,
    });
    write(&header, &parts)
}

/// The memory that a loader makes of a file: every nonzero byte and the bounds.
fn load(elf: &[u8]) -> (BTreeMap<u64, u8>, u64, Vec<u8>) {
    let (mut memory, mut end, mut note) = (BTreeMap::new(), 0, Vec::new());
    for segment in program_headers(elf, header(elf).unwrap()).unwrap() {
        if segment.kind == PT_NOTE {
            note = segment.content.to_vec();
            continue;
        }
        end = end.max(segment.physical_address + segment.memory_bytes);
        for (address, &byte) in (segment.physical_address..).zip(segment.content) {
            if byte != 0 {
                assert!(memory.insert(address, byte).is_none(), "segments overlap");
            }
        }
    }
    (memory, end, note)
}

#[test]
fn test_compact_padding_is_dropped_and_memory_kept() {
    let mut content = vec![1; 5000];
    content.resize(2 << 20, 0);
    content.extend([2; 100]);
    let input = elf_of(&[(0x20_0000, content, (2 << 20) + 9000)], b"note");
    let output = compact(&input).unwrap();
    assert!(output.len() < 20_000, "{}", output.len());
    assert_eq!(load(&output), load(&input));
    assert_eq!(u64_at(&output, 24), 0x1234, "entry point");
}

#[test]
fn test_compact_trap_padding_of_code_is_dropped_and_of_data_kept() {
    let mut content = vec![1; 4096];
    content.resize(100 * 4096, 0xCC);
    content.push(2);
    let bytes = content.len() as u64;
    let mut input = elf_of(&[(0x10_0000, content, bytes)], b"");
    assert!(compact(&input).unwrap().len() < 20_000);
    put(&mut input, 64 + 4, &6u32.to_le_bytes()); // readable and writable, not executable
    assert!(compact(&input).unwrap().len() > 100 * 4096);
}

#[test]
fn test_compact_twice_changes_nothing_more() {
    let mut content = vec![0; 100_000];
    content[60_000] = 1;
    let once = compact(&elf_of(&[(0x1000, content, 200_000)], b"n")).unwrap();
    assert_eq!(compact(&once).unwrap(), once);
}

#[test]
fn test_compact_offsets_are_congruent_to_addresses() {
    let output = compact(&elf_of(&[(0x1_0123, vec![1; 10], 10)], b"")).unwrap();
    assert_eq!(u64_at(&output, 64 + 8) % 4096, 0x123);
}

#[test]
fn test_compact_not_elf_returns_not_elf() {
    let bzimage = vec![0x4d; 4096];
    for bytes in [&b""[..], b"\x7fELF", &bzimage] {
        assert_eq!(compact(bytes), Err(Error::NotElf));
    }
}

#[test]
fn test_compact_no_segment_returns_nothing_to_load() {
    assert_eq!(compact(&elf_of(&[], b"note")), Err(Error::NothingToLoad));
}

#[test]
fn test_compact_file_larger_than_memory_returns_segment() {
    assert_eq!(compact(&elf_of(&[(0x1000, vec![1; 10], 5)], b"")), Err(Error::Segment(0x1000)));
    let wraps = elf_of(&[(u64::MAX - 3, vec![], 10)], b"");
    assert_eq!(compact(&wraps), Err(Error::Segment(u64::MAX - 3)));
}

#[test]
fn test_section_no_sections_returns_none() {
    assert_eq!(section(&elf_of(&[], b""), ".modinfo"), Ok(None));
}

#[test]
fn test_has_interpreter_tells_dynamic_from_static() {
    assert_eq!(has_interpreter(&std::fs::read("/bin/sh").unwrap()), Ok(true));
    assert_eq!(has_interpreter(&std::fs::read("/proc/self/exe").unwrap()), Ok(false));
}

proptest! {
    #[test]
    fn test_compact_any_segment_keeps_memory(
        runs in proptest::collection::vec((0usize..40_000, any::<u8>()), 0..12),
        tail in 0u64..50_000,
        place in 0u64..4096,
    ) {
        let content: Vec<u8> =
            runs.iter().flat_map(|&(length, byte)| std::iter::repeat_n(byte & 1, length)).collect();
        let bytes = content.len() as u64 + tail;
        prop_assume!(bytes > 0);
        let input = elf_of(&[(0x10_0000 + place, content, bytes)], b"note");
        let output = compact(&input).unwrap();
        prop_assert_eq!(load(&output), load(&input));
    }

    #[test]
    fn test_compact_truncated_or_damaged_never_panics(
        cut in 0usize..9000,
        flips in proptest::collection::vec((0usize..200, any::<u8>()), 0..6),
    ) {
        let mut elf = elf_of(&[(0x1000, vec![1; 5000], 6000)], b"note");
        for (at, value) in flips {
            elf[at] = value;
        }
        elf.truncate(cut);
        let _ = compact(&elf);
        let _ = section(&elf, ".modinfo");
    }
}
