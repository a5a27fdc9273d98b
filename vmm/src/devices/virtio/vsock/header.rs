//! The header of every packet (section 5.10.6).

use super::super::chain::scatter;

/// Bytes of `struct virtio_vsock_hdr`.
pub(super) const HEADER_BYTES: usize = 44;
/// The host's CID.
pub(super) const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// The operations (`enum virtio_vsock_op`).
pub(super) mod op {
    /// Asks for a connection.
    pub(crate) const REQUEST: u16 = 1;
    /// Grants it.
    pub(crate) const RESPONSE: u16 = 2;
    /// Refuses or ends it at once.
    pub(crate) const RST: u16 = 3;
    /// Ends one or both directions.
    pub(crate) const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub(crate) const RW: u16 = 5;
    /// Tells how much more may be sent.
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    /// Asks for the former.
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// A packet's header, in the host's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    /// Bytes of data behind the header.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// The sender's buffer for this connection, in bytes.
    pub(super) buffer_bytes: u32,
    /// Bytes that have left that buffer since the connection began, modulo 2^32.
    pub(super) forwarded: u32,
}

impl Header {
    /// From the bytes that a driver sent.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Header {
        let [low, high, words @ ..] = words(bytes);
        let target_cid = u64::from(words[0]) | u64::from(words[1]) << 32;
        Header {
            source_cid: u64::from(low) | u64::from(high) << 32,
            target_cid,
            source_port: words[2],
            target_port: words[3],
            length: words[4],
            kind: words[5] as u16,
            op: (words[5] >> 16) as u16,
            flags: words[6],
            buffer_bytes: words[7],
            forwarded: words[8],
        }
    }

    /// As a driver reads it.
    pub(super) fn bytes(&self) -> [u8; HEADER_BYTES] {
        let words = [
            self.source_cid as u32,
            (self.source_cid >> 32) as u32,
            self.target_cid as u32,
            (self.target_cid >> 32) as u32,
            self.source_port,
            self.target_port,
            self.length,
            u32::from(self.kind) | u32::from(self.op) << 16,
            self.flags,
            self.buffer_bytes,
            self.forwarded,
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (part, word) in bytes.chunks_exact_mut(4).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The refusal of this packet, but for a refusal.
    pub(super) fn reset(&self) -> Option<Header> {
        (self.op != op::RST).then_some(Header {
            source_cid: self.target_cid,
            target_cid: self.source_cid,
            source_port: self.target_port,
            target_port: self.source_port,
            kind: self.kind,
            op: op::RST,
            ..Header::default()
        })
    }

    /// Puts it into a chain's buffers; false if they are too small.
    pub(super) fn put(&self, buffers: &[libc::iovec]) -> bool {
        scatter(buffers, 0, &self.bytes())
    }
}

fn words(bytes: &[u8; HEADER_BYTES]) -> [u32; HEADER_BYTES / 4] {
    let mut words = [0; HEADER_BYTES / 4];
    for (word, part) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*part);
    }
    words
}
