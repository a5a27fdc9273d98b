//! What this crate needs of ELF: a compact copy of a kernel, and one section of a module.
//!
//! Structure and field offsets are those of the System V gABI, chapters 4 (ELF header, sections)
//! and 5 (program header), 64-bit little-endian form.

/// Why a file is not an ELF that can be handled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not ELF, or not 64-bit little-endian x86-64.
    #[error("not a 64-bit little-endian x86-64 ELF file")]
    NotElf,
    /// A table or segment lies (partly) outside the file.
    #[error(
        "{what} at offset {offset:#x} ({bytes} bytes) lies outside the file; it is truncated or damaged"
    )]
    Truncated {
        /// What was looked for.
        what: &'static str,
        /// Where in the file.
        offset: u64,
        /// Its size.
        bytes: u64,
    },
    /// No segment to load.
    #[error("no loadable segment; this is not a kernel image")]
    NothingToLoad,
    /// A segment's sizes contradict each other.
    #[error(
        "the segment at address {0:#x} has a larger size in the file than in memory, or wraps around"
    )]
    Segment(u64),
}

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PAGE: usize = 4096;

/// Zeros shorter than this stay in the file: a further segment costs a loader about as much as
/// copying them.
const MIN_HOLE_PAGES: usize = 4;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// One program header.
#[derive(Debug, Clone, Copy)]
struct Segment<'a> {
    kind: u32,
    flags: u32,
    virtual_address: u64,
    physical_address: u64,
    memory_bytes: u64,
    content: &'a [u8],
}

/// Copies an executable so that only what a loader needs is left: header, program headers, the
/// content of `PT_LOAD` and `PT_NOTE` segments.
///
/// The kernel's linker script aligns parts of a segment to 2 MiB, and the file carries that
/// padding. Here a segment with long runs of empty pages becomes several, whose memory sizes
/// span the holes; a loader fills those with zeros, as the specification demands, or finds
/// them zero, as fresh guest memory is. Sections and symbols are left out. Memory ends up as
/// before, but for the trap instructions (0xCC) behind the last function, which become zeros too.
///
/// # Errors
/// Any [`Error`]: the input is not trusted.
pub fn compact(elf: &[u8]) -> Result<Vec<u8>, Error> {
    let header = header(elf)?;
    let mut segments = Vec::new();
    let mut notes = Vec::new();
    for segment in program_headers(elf, header)? {
        match segment.kind {
            PT_LOAD if segment.memory_bytes > 0 => split(segment, &mut segments),
            PT_NOTE => notes.push(segment),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(Error::NothingToLoad);
    }
    segments.extend(notes);
    Ok(write(header, &segments))
}

/// Whether a page holds nothing: zeros, or among code the trap instruction with which the kernel's
/// linker script fills the gap behind the last function.
fn is_padding(page: &[u8], flags: u32) -> bool {
    const PF_X: u32 = 1;
    const INT3: u8 = 0xCC;
    page.iter().all(|&byte| byte == 0) || flags & PF_X != 0 && page.iter().all(|&byte| byte == INT3)
}

/// Cuts a segment at its long holes.
fn split<'a>(segment: Segment<'a>, out: &mut Vec<Segment<'a>>) {
    let pages: Vec<bool> =
        segment.content.chunks(PAGE).map(|page| !is_padding(page, segment.flags)).collect();
    // Page ranges that hold something, the first always beginning with the segment.
    let mut ranges: Vec<(usize, usize)> = vec![(0, 0)];
    for (page, _) in pages.iter().enumerate().filter(|(_, used)| **used) {
        match ranges.last_mut() {
            Some(last) if page - last.1 < MIN_HOLE_PAGES => last.1 = page + 1,
            _ => ranges.push((page, page + 1)),
        }
    }
    for (index, &(first, end)) in ranges.iter().enumerate() {
        let start = first * PAGE;
        let stop = (end * PAGE).min(segment.content.len());
        let next = ranges.get(index + 1).map_or(segment.memory_bytes, |r| (r.0 * PAGE) as u64);
        out.push(Segment {
            virtual_address: segment.virtual_address + start as u64,
            physical_address: segment.physical_address + start as u64,
            memory_bytes: next - start as u64,
            content: &segment.content[start..stop],
            ..segment
        });
    }
}

/// Lays header, program headers and contents out; a segment's offset keeps its address's place
/// within a page, so that the file can be mapped.
fn write(header: &[u8], segments: &[Segment]) -> Vec<u8> {
    let mut out = header.to_vec();
    put(&mut out, 32, &(HEADER_BYTES as u64).to_le_bytes()); // e_phoff
    put(&mut out, 40, &[0; 8]); // e_shoff
    put(&mut out, 54, &(PROGRAM_HEADER_BYTES as u16).to_le_bytes()); // e_phentsize
    put(&mut out, 56, &(segments.len() as u16).to_le_bytes()); // e_phnum
    put(&mut out, 58, &[0; 6]); // e_shentsize, e_shnum, e_shstrndx
    out.resize(HEADER_BYTES + segments.len() * PROGRAM_HEADER_BYTES, 0);
    for (index, segment) in segments.iter().enumerate() {
        let align = if segment.kind == PT_LOAD { PAGE } else { 4 };
        let place = segment.virtual_address as usize % align;
        let offset = (out.len() + align - 1 - place) / align * align + place;
        let file_bytes = segment.content.len() as u64;
        let at = HEADER_BYTES + index * PROGRAM_HEADER_BYTES;
        put(&mut out, at, &segment.kind.to_le_bytes());
        put(&mut out, at + 4, &segment.flags.to_le_bytes());
        let words = [
            offset as u64,
            segment.virtual_address,
            segment.physical_address,
            file_bytes,
            segment.memory_bytes,
            align as u64,
        ];
        for (field, word) in words.iter().enumerate() {
            put(&mut out, at + 8 + 8 * field, &word.to_le_bytes());
        }
        out.resize(offset, 0);
        out.extend_from_slice(segment.content);
    }
    out
}

/// Whether the kernel would have to load a dynamic loader to run the program.
///
/// # Errors
/// As [`compact`].
pub(crate) fn has_interpreter(elf: &[u8]) -> Result<bool, Error> {
    let segments = program_headers(elf, header(elf)?)?;
    Ok(segments.iter().any(|segment| segment.kind == PT_INTERP))
}

/// The content of the section `name`, if there is one.
///
/// # Errors
/// As [`compact`].
pub(crate) fn section<'a>(elf: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Error> {
    let header = header(elf)?;
    let (table, count) = (u64_at(header, 40), u64::from(u16_at(header, 60)));
    let names_index = u64::from(u16_at(header, 62));
    let entry = |index: u64| slice(elf, "section header", table.saturating_add(index * 64), 64);
    if count == 0 || names_index >= count {
        return Ok(None);
    }
    let content = |entry: &[u8]| slice(elf, "section", u64_at(entry, 24), u64_at(entry, 32));
    let names = content(entry(names_index)?)?;
    for index in 0..count {
        let entry = entry(index)?;
        let own = names.get(u32_at(entry, 0) as usize..).unwrap_or_default();
        if own.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
            return content(entry).map(Some);
        }
    }
    Ok(None)
}

/// The first 64 bytes, checked to be what this module understands.
fn header(elf: &[u8]) -> Result<&[u8], Error> {
    const EM_X86_64: u16 = 62;
    let header = elf.get(..HEADER_BYTES).ok_or(Error::NotElf)?;
    // Magic, ELFCLASS64, ELFDATA2LSB.
    if !header.starts_with(b"\x7fELF\x02\x01") || u16_at(header, 18) != EM_X86_64 {
        return Err(Error::NotElf);
    }
    Ok(header)
}

fn program_headers<'a>(elf: &'a [u8], header: &[u8]) -> Result<Vec<Segment<'a>>, Error> {
    let (table, count) = (u64_at(header, 32), u64::from(u16_at(header, 56)));
    let size = PROGRAM_HEADER_BYTES as u64;
    let entries = slice(elf, "program header table", table, count * size)?;
    let parse = |entry: &[u8]| {
        let (offset, file_bytes) = (u64_at(entry, 8), u64_at(entry, 32));
        let (virtual_address, memory_bytes) = (u64_at(entry, 16), u64_at(entry, 40));
        let physical_address = u64_at(entry, 24);
        let kind = u32_at(entry, 0);
        let wraps = virtual_address.checked_add(memory_bytes).is_none()
            || physical_address.checked_add(memory_bytes).is_none();
        if kind == PT_LOAD && (file_bytes > memory_bytes || wraps) {
            return Err(Error::Segment(virtual_address));
        }
        let content = match kind {
            PT_LOAD | PT_NOTE => slice(elf, "segment", offset, file_bytes)?,
            _ => &[],
        };
        let flags = u32_at(entry, 4);
        Ok(Segment { kind, flags, virtual_address, physical_address, memory_bytes, content })
    };
    entries.chunks_exact(PROGRAM_HEADER_BYTES).map(parse).collect()
}

fn slice<'a>(
    elf: &'a [u8],
    what: &'static str,
    offset: u64,
    bytes: u64,
) -> Result<&'a [u8], Error> {
    let range = || {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        elf.get(start..end)
    };
    range().ok_or(Error::Truncated { what, offset, bytes })
}

/// The `N` bytes at `at` of a slice whose length has been checked.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

fn put(out: &mut [u8], at: usize, value: &[u8]) {
    out[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests;
