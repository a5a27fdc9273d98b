//! The file `state`: a head, sections, and a checksum. All numbers are little-endian.
//!
//! | part | bytes |
//! |---|---|
//! | magic | 8: `TARESNAP` |
//! | version | 4 |
//! | number of sections | 4 |
//! | each section: kind, index, length, contents | 4, 4, 8, length |
//! | CRC-32 of all before | 4 |

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MAGIC: &[u8; 8] = b"TARESNAP";
/// Changes with the format and with the meaning of any section.
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 16;
pub(super) const CHECKSUM_BYTES: usize = 4;
/// More than any guest of this machine has.
const SECTIONS_MAX: u32 = 1024;

/// What a section holds. The index tells vCPUs and devices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// What guest this is.
    Guest = 1,
    /// What a vCPU says of itself.
    CpuId = 2,
    /// Of a differential snapshot: which one it differs from, and where that was.
    Parent = 3,
    /// Which snapshot it is.
    Id = 4,
    /// The registers of a vCPU, a section for each group of them.
    Registers = 0x10,
    SystemRegisters = 0x11,
    ExtendedControl = 0x12,
    ExtendedState = 0x13,
    LocalApic = 0x14,
    ModelSpecific = 0x15,
    Debug = 0x16,
    Events = 0x17,
    Running = 0x18,
    TscFrequency = 0x19,
    /// The interrupt controllers, by number, the timer and the clock.
    Controller = 0x30,
    Timer = 0x31,
    Clock = 0x32,
    /// The serial port, and the virtio devices by the order of their addresses.
    Serial = 0x40,
    Virtio = 0x41,
    /// Which pages the file `memory` has.
    Memory = 0x50,
}

/// Why a file is no state.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FormatError {
    #[error("it is no snapshot of tare (no magic number)")]
    Magic,
    #[error("it has version {0}, this tare reads version {VERSION}: take the snapshot again")]
    Version(u32),
    #[error("it is cut off, or has bytes too many")]
    Length,
    #[error("its checksum is wrong: it was damaged or written to")]
    Checksum,
    #[error("section {0} ({1}) is missing or has a length that it cannot have")]
    Section(u32, u32),
}

/// A state that is being written.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    count: u32,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        let mut bytes = Vec::with_capacity(64 << 10);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        Writer { bytes, count: 0 }
    }

    /// Adds a section.
    pub(crate) fn section<T: IntoBytes + Immutable + ?Sized>(
        &mut self,
        kind: Kind,
        index: usize,
        contents: &T,
    ) {
        self.add(kind as u32, index as u32, contents.as_bytes());
    }

    /// Adds the sections of another state, but for some kinds.
    pub(super) fn copy(&mut self, from: &Sections, except: &[Kind]) {
        for (kind, index, range) in &from.list {
            if except.iter().all(|except| *except as u32 != *kind) {
                self.add(*kind, *index, &from.bytes[range.clone()]);
            }
        }
    }

    fn add(&mut self, kind: u32, index: u32, contents: &[u8]) {
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(index.to_le_bytes());
        self.bytes.extend((contents.len() as u64).to_le_bytes());
        self.bytes.extend(contents);
        self.count += 1;
    }

    /// The whole file.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&self.count.to_le_bytes());
        let checksum = crc32fast::hash(&self.bytes);
        self.bytes.extend(checksum.to_le_bytes());
        self.bytes
    }
}

/// A state that was read and is whole.
#[derive(Debug)]
pub(crate) struct Sections {
    bytes: Vec<u8>,
    /// Kind, index, and where the contents are.
    list: Vec<(u32, u32, std::ops::Range<usize>)>,
}

impl Sections {
    /// Takes a file apart.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Sections, FormatError> {
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(FormatError::Magic);
        }
        let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(FormatError::Length)?;
        let version = number(&bytes, 8).ok_or(FormatError::Length)?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        if number(&bytes, body) != Some(crc32fast::hash(&bytes[..body])) {
            return Err(FormatError::Checksum);
        }
        let count = number(&bytes[..body], 12).ok_or(FormatError::Length)?;
        if count > SECTIONS_MAX {
            return Err(FormatError::Length);
        }
        let mut list = Vec::with_capacity(count as usize);
        let mut at = HEAD_BYTES;
        for _ in 0..count {
            let head = bytes[..body].get(at..).and_then(|rest| rest.get(..16));
            let head = head.ok_or(FormatError::Length)?;
            let (kind, index) = (number(head, 0), number(head, 4));
            let length = u64::read_from_bytes(&head[8..]).map_err(|_| FormatError::Length)?;
            let start = at + 16;
            let end = usize::try_from(u64::from_le(length)).ok();
            let end = end.and_then(|length| start.checked_add(length)).filter(|&end| end <= body);
            let (Some(kind), Some(index), Some(end)) = (kind, index, end) else {
                return Err(FormatError::Length);
            };
            list.push((kind, index, start..end));
            at = end;
        }
        if at != body {
            return Err(FormatError::Length);
        }
        Ok(Sections { bytes, list })
    }

    /// Whether there is a section of a kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.list.iter().any(|(found, _, _)| *found == kind as u32)
    }

    /// How long the file was.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The contents of a section.
    pub(crate) fn get(&self, kind: Kind, index: usize) -> Result<&[u8], FormatError> {
        let wanted = (kind as u32, index as u32);
        let mut sections = self.list.iter();
        let found = sections.find(|(kind, index, _)| (*kind, *index) == wanted);
        let range = found.map(|(_, _, range)| range.clone());
        let contents = range.and_then(|range| self.bytes.get(range));
        contents.ok_or(FormatError::Section(wanted.0, wanted.1))
    }

    /// The contents of a section as one value.
    pub(crate) fn value<T: FromBytes>(&self, kind: Kind, index: usize) -> Result<T, FormatError> {
        T::read_from_bytes(self.get(kind, index)?)
            .map_err(|_| FormatError::Section(kind as u32, index as u32))
    }

    /// The contents of a section as a list.
    pub(crate) fn values<T: FromBytes>(
        &self,
        kind: Kind,
        index: usize,
    ) -> Result<Vec<T>, FormatError> {
        let contents = self.get(kind, index)?;
        let size = size_of::<T>();
        if !contents.len().is_multiple_of(size) {
            return Err(FormatError::Section(kind as u32, index as u32));
        }
        // The iterator does not know its length, and growing a list step by step costs a restore.
        let mut values = Vec::with_capacity(contents.len() / size);
        values.extend(contents.chunks_exact(size).filter_map(|item| T::read_from_bytes(item).ok()));
        Ok(values)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.get(..4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.section(Kind::Guest, 0, b"abc".as_slice());
        writer.section(Kind::Registers, 1, &[1_u64, 2]);
        writer.finish()
    }

    /// Puts the right checksum behind changed contents.
    fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
        let body = bytes.len() - CHECKSUM_BYTES;
        let checksum = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn test_parse_finds_what_was_written() {
        let sections = Sections::parse(sample()).unwrap();
        assert_eq!(sections.get(Kind::Guest, 0).unwrap(), b"abc");
        assert_eq!(sections.value::<[u64; 2]>(Kind::Registers, 1).unwrap(), [1, 2]);
        assert_eq!(sections.values::<u64>(Kind::Registers, 1).unwrap(), [1, 2]);
        assert_eq!(sections.get(Kind::Registers, 0), Err(FormatError::Section(0x10, 0)));
        let short = sections.value::<[u64; 3]>(Kind::Registers, 1);
        assert_eq!(short, Err(FormatError::Section(0x10, 1)));
        assert!(sections.values::<u64>(Kind::Guest, 0).is_err());
    }

    #[test]
    fn test_parse_every_flipped_bit_and_every_cut_is_refused() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Sections::parse(bytes).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Sections::parse(good[..length].to_vec()).is_err(), "length {length}");
        }
        assert!(Sections::parse([good, vec![0]].concat()).is_err());
    }

    #[test]
    fn test_parse_another_version_is_named() {
        let mut bytes = sample();
        bytes[8] = 9;
        assert_eq!(Sections::parse(bytes).unwrap_err(), FormatError::Version(9));
    }

    proptest! {
        /// Even with a right checksum.
        #[test]
        fn test_parse_any_bytes_never_panics(
            tail in prop::collection::vec(any::<u8>(), 0..200),
            count in 0_u32..4,
        ) {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &count.to_le_bytes()].concat();
            bytes.extend(tail);
            bytes.extend([0; 4]);
            if let Ok(sections) = Sections::parse(checked(bytes)) {
                let total: usize = sections.list.iter().map(|(_, _, range)| range.len()).sum();
                prop_assert!(total <= sections.bytes.len());
            }
        }
    }
}
