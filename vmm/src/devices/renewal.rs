//! A port that tells a guest who it is now: for one that goes on from a snapshot, perhaps as one of
//! many.
//!
//! The guest writes to [`PORT`] when it has come to the point from which it can go on anew, which
//! the [`Observer`](crate::Observer) hears: that is the moment for a snapshot. Then it reads
//! the port, byte by byte, best with one `rep insb`, which is one exit:
//!
//! | bytes | what |
//! |---|---|
//! | 0–15 | a random identity that no other guest has |
//! | 16–47 | random bytes for the guest's own generator |
//! | 48–55 | nanoseconds since 1970 |
//! | 56–59 | its vsock CID, or 0 |
//! | 60–63 | length of the message that follows, or 0 |
//! | 64– | the message: what the embedder has for this guest ([`Vmm::tell`](crate::Vmm::tell)) |
//!
//! Numbers are little-endian. Each record is made when its first byte is read, so a guest that
//! reads after the point finds what is true where it goes on. A write lets the next read begin a
//! record.

use std::time::{SystemTime, UNIX_EPOCH};

/// The port; nothing of a PC is there.
pub(super) const PORT: u16 = 0xe00;
/// Length of a record without its message.
const RECORD_BYTES: usize = 64;
/// A longer message is not taken.
pub const MESSAGE_MAX_BYTES: usize = 64 << 10;
const RANDOM_BYTES: usize = 48;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Renewal {
    guest_cid: u32,
    record: [u8; RECORD_BYTES],
    message: Vec<u8>,
    next: usize,
}

impl Renewal {
    /// For a guest with that CID, or 0.
    pub(super) fn new(guest_cid: u32) -> Renewal {
        Renewal { guest_cid, record: [0; RECORD_BYTES], message: Vec::new(), next: 0 }
    }

    /// Has a message follow each record; no more than [`MESSAGE_MAX_BYTES`] of it.
    pub(super) fn tell(&mut self, mut message: Vec<u8>) {
        message.truncate(MESSAGE_MAX_BYTES);
        self.message = message;
        self.next = 0;
    }

    /// The guest wrote.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The guest reads.
    pub(super) fn read(&mut self, data: &mut [u8]) {
        for byte in data {
            if self.next == 0 {
                self.renew();
            }
            *byte = match self.next.checked_sub(RECORD_BYTES) {
                None => self.record[self.next],
                Some(at) => self.message.get(at).copied().unwrap_or(0),
            };
            self.next = (self.next + 1) % (RECORD_BYTES + self.message.len());
        }
    }

    fn renew(&mut self) {
        let (random, rest) = self.record.split_at_mut(RANDOM_BYTES);
        fill_with_random_bytes(random);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = u64::try_from(since.as_nanos()).unwrap_or(0);
        rest[..8].copy_from_slice(&now_ns.to_le_bytes());
        rest[8..12].copy_from_slice(&self.guest_cid.to_le_bytes());
        rest[12..].copy_from_slice(&(self.message.len() as u32).to_le_bytes());
    }
}

/// From the host's generator, which blocks only while the host boots. So few bytes it gives whole.
fn fill_with_random_bytes(bytes: &mut [u8]) {
    // SAFETY: the pointer and length are of one slice.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_read_each_record_is_new_and_right() {
        let mut renewal = Renewal::new(7);
        let mut first = [0; RECORD_BYTES];
        let before = SystemTime::now();
        renewal.read(&mut first);
        let after = SystemTime::now();
        let now_ns = u64::from_le_bytes(first[48..56].try_into().unwrap());
        let now = UNIX_EPOCH + std::time::Duration::from_nanos(now_ns);
        assert!((before..=after).contains(&now));
        assert_eq!(first[56..], [7, 0, 0, 0, 0, 0, 0, 0]);
        let mut second = [0; RECORD_BYTES];
        for byte in &mut second {
            renewal.read(std::slice::from_mut(byte));
        }
        assert_ne!(first[..16], second[..16]);
        assert_ne!(first[16..48], second[16..48]);
        // A write begins another.
        renewal.read(&mut first[..20]);
        renewal.rewind();
        renewal.read(&mut second);
        assert_ne!(first[..16], second[..16]);
    }

    #[test]
    fn test_read_a_message_follows_each_record() {
        let mut renewal = Renewal::new(0);
        renewal.tell(b"for you".to_vec());
        for _ in 0..2 {
            let mut record = [0; RECORD_BYTES];
            renewal.read(&mut record);
            assert_eq!(record[60..], [7, 0, 0, 0]);
            let mut message = [0; 7];
            renewal.read(&mut message);
            assert_eq!(&message, b"for you");
        }
        renewal.tell(vec![1; MESSAGE_MAX_BYTES + 1]);
        let mut record = [0; RECORD_BYTES];
        renewal.read(&mut record);
        assert_eq!(record[60..], (MESSAGE_MAX_BYTES as u32).to_le_bytes());
    }
}
