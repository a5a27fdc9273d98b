//! A request's header (section 5.2.6), and the list of ranges that some requests carry.

use std::io;

use virtio_bindings::virtio_blk as blk;

use super::super::Broken;
use super::super::chain::{Buffers, gather, total};
use super::super::disk::Disk;
use super::place;

/// Header of a request: type, reserved, sector.
const HEADER_BYTES: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const RANGE_BYTES: usize = 16;
/// The only flag that a range can have.
const UNMAP: u32 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Id,
    Discard,
    WriteZeroes,
    Unknown,
}

/// A request without its buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Where the data begins on the disk.
    pub(super) sector: u64,
}

/// How a request failed: one of the error statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Io,
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Io
    }
}

impl Failure {
    /// The status byte of a result.
    pub(super) fn code(result: Result<(), Failure>) -> u8 {
        let status = match result {
            Ok(()) => blk::VIRTIO_BLK_S_OK,
            Err(Failure::Io) => blk::VIRTIO_BLK_S_IOERR,
            Err(Failure::Unsupported) => blk::VIRTIO_BLK_S_UNSUPP,
        };
        status as u8
    }
}

impl Request {
    /// Takes the header from the front of `buffers`.
    ///
    /// # Errors
    ///
    /// [`Broken::Frame`]: there is none.
    pub(super) fn parse(buffers: &mut Buffers) -> Result<Request, Broken> {
        let header = buffers.take_front::<HEADER_BYTES>()?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = match u32::from_le_bytes([t0, t1, t2, t3]) {
            blk::VIRTIO_BLK_T_IN => Kind::Read,
            blk::VIRTIO_BLK_T_OUT => Kind::Write,
            blk::VIRTIO_BLK_T_FLUSH => Kind::Flush,
            blk::VIRTIO_BLK_T_GET_ID => Kind::Id,
            blk::VIRTIO_BLK_T_DISCARD => Kind::Discard,
            blk::VIRTIO_BLK_T_WRITE_ZEROES => Kind::WriteZeroes,
            _ => Kind::Unknown,
        };
        Ok(Request { kind, sector: u64::from_le_bytes(sector) })
    }
}

/// A part of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// The space may be given up.
    pub(super) unmap: bool,
}

/// The list of a request to discard or to write zeroes, copied out of guest memory: the guest
/// cannot change what has been checked.
#[derive(Debug)]
pub(super) struct Ranges {
    list: Vec<[u8; RANGE_BYTES]>,
}

impl Ranges {
    /// Reads the list, of at most `limit` ranges.
    ///
    /// # Errors
    ///
    /// It is empty, too long or no whole number of ranges.
    pub(super) fn read(buffers: &Buffers, limit: u32) -> Result<Ranges, Failure> {
        let bytes = total(buffers.readable());
        let count = bytes / RANGE_BYTES as u64;
        if count == 0 || !bytes.is_multiple_of(RANGE_BYTES as u64) || count > u64::from(limit) {
            return Err(Failure::Io);
        }
        let mut list = vec![[0; RANGE_BYTES]; count as usize];
        if !gather(buffers.readable(), 0, list.as_flattened_mut()) {
            return Err(Failure::Io);
        }
        Ok(Ranges { list })
    }

    /// The ranges, all of which lie on the disk and have at most `sectors_max` sectors: nothing is
    /// done of a request that asks for something impossible.
    ///
    /// # Errors
    ///
    /// [`Failure::Unsupported`] for unknown flags, or `unmap` where `may_unmap` is not said
    /// (section 5.2.6.2); [`Failure::Io`] for ranges that cannot be.
    pub(super) fn checked(
        &self,
        disk: &Disk,
        sectors_max: u32,
        may_unmap: bool,
    ) -> Result<Vec<Range>, Failure> {
        let range = |bytes: &[u8; RANGE_BYTES]| {
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = *bytes;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes(flags);
            if flags & !UNMAP != 0 || flags & UNMAP != 0 && !may_unmap {
                return Err(Failure::Unsupported);
            }
            if sectors > sectors_max {
                return Err(Failure::Io);
            }
            let bytes = u64::from(sectors) * super::SECTOR_BYTES;
            Ok(Range { offset: place(disk, sector, bytes)?, bytes, unmap: flags & UNMAP != 0 })
        };
        self.list.iter().map(range).collect()
    }
}
