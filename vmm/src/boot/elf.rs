//! Loading an ELF kernel (System V ABI, chapter 4 and 5) that nobody vouches for.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::image::Draft;
use super::initramfs::open;
use super::{BootError, bzimage, pvh};
use crate::layout::KERNEL_MIN;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// More than any kernel has (Linux has five); bounds what a hostile file makes us read.
const PROGRAM_HEADERS_MAX: u16 = 64;
const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// Linux has some hundred bytes of notes.
const NOTES_MAX_BYTES: usize = 1 << 16;

/// A kernel in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Guest-physical address of the first instruction.
    pub(super) entry: u64,
    /// Guest-physical address of the first instruction by PVH, if the kernel has that.
    pub(super) pvh_entry: Option<u64>,
    /// Start of the lowest segment.
    pub(super) start: u64,
    /// End of the highest segment.
    pub(super) end: u64,
}

/// A `PT_LOAD` segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_bytes: u64,
    memory: Range<u64>,
}

/// Copies the file's bytes of each segment to its physical address. What a segment has beyond
/// them (.bss) is not touched: fresh guest memory is zero.
pub(super) fn load(path: &Path, draft: &mut Draft) -> Result<Loaded, BootError> {
    let (file, size) = open(path, "kernel")?;
    let (file, size) = match bzimage::unpack(path, &file, size)? {
        Some((elf, size)) => (elf, size),
        None => (file, size),
    };
    let read_failed =
        |error| BootError::File { action: "read", what: "kernel", path: path.to_owned(), error };
    // Most kernels have their program headers right behind the header: one read gets both.
    let mut head = [0; HEADER_BYTES + PROGRAM_HEADER_BYTES * PROGRAM_HEADERS_MAX as usize];
    let head_bytes = head.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    let head = &mut head[..head_bytes];
    file.read_exact_at(head, 0).map_err(read_failed)?;
    let parser = Parser { path, size };
    let header = parser.header(head)?;
    let table_bytes = usize::from(header.count) * PROGRAM_HEADER_BYTES;
    let place = header.table as usize..(header.table as usize).saturating_add(table_bytes);
    let elsewhere;
    let table = match head.get(place) {
        Some(table) => table,
        None => {
            let mut bytes = vec![0; table_bytes];
            file.read_exact_at(&mut bytes, header.table).map_err(read_failed)?;
            elsewhere = bytes;
            &elsewhere
        }
    };
    let segments = parser.segments(table, draft.limit())?;
    if !segments.iter().any(|segment| segment.memory.contains(&header.entry)) {
        let reason = format!("its entry {:#x} lies in none of its segments", header.entry);
        return Err(parser.bad(reason));
    }
    for segment in &segments {
        draft
            .copy(segment.memory.start, &file, segment.offset, segment.file_bytes)
            .map_err(read_failed)?;
    }
    let start = segments.iter().map(|segment| segment.memory.start).min().unwrap_or(KERNEL_MIN);
    let end = segments.iter().map(|segment| segment.memory.end).max().unwrap_or(KERNEL_MIN);
    let mut pvh_entry = None;
    for (offset, bytes) in parser.notes(table)? {
        let mut notes = vec![0; bytes];
        file.read_exact_at(&mut notes, offset).map_err(read_failed)?;
        pvh_entry = pvh_entry.or(pvh::entry(&notes));
    }
    pvh_entry = pvh_entry.filter(|at| segments.iter().any(|segment| segment.memory.contains(at)));
    Ok(Loaded { entry: header.entry, pvh_entry, start, end })
}

/// What the ELF header says about the rest.
struct Header {
    entry: u64,
    table: u64,
    count: u16,
}

struct Parser<'a> {
    path: &'a Path,
    size: u64,
}

impl Parser<'_> {
    fn header(&self, bytes: &[u8]) -> Result<Header, BootError> {
        if !bytes.starts_with(MAGIC) {
            return Err(BootError::NotElf { path: self.path.to_owned() });
        }
        if bytes.len() < HEADER_BYTES {
            return Err(self.truncated("the ELF header".to_owned(), HEADER_BYTES as u64));
        }
        let (class, order) = (byte(bytes, 4), byte(bytes, 5));
        let (kind, machine) = (half(bytes, 16), half(bytes, 18));
        let wrong = if class != CLASS_64 {
            Some(format!("its class is {class}, not 64-bit"))
        } else if order != LITTLE_ENDIAN {
            Some(format!("its byte order is {order}"))
        } else if machine != X86_64 {
            Some(format!("its machine is {machine}, not {X86_64}"))
        } else if kind != EXECUTABLE && kind != SHARED {
            Some(format!("its type is {kind}"))
        } else {
            None
        };
        if let Some(reason) = wrong {
            return Err(BootError::WrongElf { path: self.path.to_owned(), reason });
        }
        let (entry, table) = (word(bytes, 24), word(bytes, 32));
        let (entry_bytes, count) = (half(bytes, 54), half(bytes, 56));
        if usize::from(entry_bytes) != PROGRAM_HEADER_BYTES {
            return Err(self.bad(format!("a program header has {entry_bytes} bytes, not 56")));
        }
        if count == 0 || count > PROGRAM_HEADERS_MAX {
            let reason = format!("it has {count} program headers, not 1 to {PROGRAM_HEADERS_MAX}");
            return Err(self.bad(reason));
        }
        let table_bytes = u64::from(count) * PROGRAM_HEADER_BYTES as u64;
        self.within("the program header table".to_owned(), table, table_bytes)?;
        Ok(Header { entry, table, count })
    }

    /// The segments to load, in ascending order, each checked.
    fn segments(&self, table: &[u8], limit: u64) -> Result<Vec<Segment>, BootError> {
        let mut segments = Vec::with_capacity(4);
        for (index, header) in table.chunks_exact(PROGRAM_HEADER_BYTES).enumerate() {
            if half(header, 0) as u32 | (half(header, 2) as u32) << 16 != LOAD {
                continue;
            }
            let (offset, start) = (word(header, 8), word(header, 24));
            let (file_bytes, memory_bytes) = (word(header, 32), word(header, 40));
            if memory_bytes == 0 {
                continue;
            }
            if file_bytes > memory_bytes {
                return Err(self.bad(format!(
                    "segment {index} has {file_bytes} bytes in the file, {memory_bytes} in memory"
                )));
            }
            self.within(format!("segment {index}"), offset, file_bytes)?;
            if start < KERNEL_MIN {
                return Err(self.bad(format!(
                    "segment {index} starts at {start:#x}, but the first MiB is for boot data"
                )));
            }
            let end = start.saturating_add(memory_bytes);
            if end > limit {
                return Err(BootError::KernelTooLarge { path: self.path.to_owned(), end, limit });
            }
            segments.push(Segment { offset, file_bytes, memory: start..end });
        }
        segments.sort_by_key(|segment| segment.memory.start);
        if let Some([low, high]) =
            segments.array_windows().find(|[low, high]| low.memory.end > high.memory.start)
        {
            let reason = format!(
                "its segments at {:#x} and {:#x} overlap",
                low.memory.start, high.memory.start
            );
            return Err(self.bad(reason));
        }
        if segments.is_empty() {
            return Err(self.bad("it has no segment to load".to_owned()));
        }
        Ok(segments)
    }

    /// Offset and length of each segment of notes.
    fn notes(&self, table: &[u8]) -> Result<Vec<(u64, usize)>, BootError> {
        let mut notes = Vec::new();
        for (index, header) in table.chunks_exact(PROGRAM_HEADER_BYTES).enumerate() {
            let (offset, bytes) = (word(header, 8), word(header, 32));
            if half(header, 0) as u32 | (half(header, 2) as u32) << 16 != NOTE {
                continue;
            }
            self.within(format!("segment {index}"), offset, bytes)?;
            match usize::try_from(bytes) {
                Ok(bytes) if bytes <= NOTES_MAX_BYTES => notes.push((offset, bytes)),
                _ => return Err(self.bad(format!("segment {index} has {bytes} bytes of notes"))),
            }
        }
        Ok(notes)
    }

    fn within(&self, part: String, start: u64, bytes: u64) -> Result<(), BootError> {
        match start.checked_add(bytes) {
            Some(end) if end <= self.size => Ok(()),
            end => Err(self.truncated(part, end.unwrap_or(u64::MAX))),
        }
    }

    fn truncated(&self, part: String, end: u64) -> BootError {
        BootError::Truncated { path: self.path.to_owned(), part, end, size: self.size }
    }

    fn bad(&self, reason: String) -> BootError {
        BootError::BadElf { path: self.path.to_owned(), reason }
    }
}

/// Reads beyond the slice are zero, so that no length can make these panic.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    array::<1>(bytes, at)[0]
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
