//! Netlink messages (linux/netlink.h, RFC 3549): a header, a fixed part, attributes.

/// `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Everything begins at multiples of this.
const ALIGNMENT: usize = 4;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its type.
const TYPE_MASK: u16 = 0x3fff;

/// A request being written.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of that type, which is acknowledged unless it is a dump.
    pub(super) fn new(kind: u16, flags: u16) -> Message {
        let flags = if flags & DUMP == DUMP { flags } else { flags | ACK };
        Message::bare(kind, REQUEST | flags)
    }

    /// A message with these flags and no others.
    pub(super) fn bare(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence number and sender: the socket's business.
        bytes.extend([0; 8]);
        Message { bytes }
    }

    /// Appends to the fixed part.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        self.put(kind, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// Appends a text with its terminating zero.
    pub(super) fn text(self, kind: u16, text: &str) -> Message {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends what `fill` appends as one attribute.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let inner = fill(Message { bytes: Vec::new() }).bytes;
        self.put(kind | NESTED, |bytes| bytes.extend_from_slice(&inner));
        self
    }

    fn put(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(&mut self.bytes);
        // No attribute of ours comes near 64 KiB: names, addresses and nests of them.
        let length = (self.bytes.len() - begin) as u16;
        self.bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Whether the kernel is to answer it, whatever comes of it.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.bytes.get(6).is_some_and(|flags| u16::from(*flags) & ACK != 0)
    }

    /// The whole message under a sequence number.
    pub(super) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// A message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram, as far as they are whole.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = number(datagram, 0)? as usize;
        let payload = datagram.get(HEADER_BYTES..length)?;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let sequence = number(datagram, 8)?;
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Received { kind, sequence, payload })
    })
}

/// The attributes that follow a fixed part, as far as they are whole: type and value.
pub(super) fn attributes(payload: &[u8], fixed_bytes: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(fixed_bytes..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The 32-bit number at an offset.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn test_message_is_read_back_with_nests_and_padding() {
        let message = Message::new(16, CREATE)
            .fixed(&[7; 16])
            .text(3, "eth0")
            .nest(18, |nest| nest.text(1, "veth").attribute(2, &[]));
        let bytes = message.finish(5);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read[0].kind, read[0].sequence, read.len()), (16, 5, 1));
        let outer: Vec<_> = attributes(read[0].payload, 16).collect();
        assert_eq!(outer[0], (3, &b"eth0\0"[..]));
        assert_eq!(outer[1].0, 18);
        let inner: Vec<_> = attributes(outer[1].1, 0).collect();
        assert_eq!(inner, [(1, &b"veth\0"[..]), (2, &[][..])]);
    }

    #[test]
    fn test_new_asks_for_an_acknowledgement_unless_it_is_a_dump() {
        let flags = |message: Message| u16::from_ne_bytes([message.bytes[6], message.bytes[7]]);
        assert_eq!(flags(Message::new(1, 0)), REQUEST | ACK);
        assert_eq!(flags(Message::new(1, DUMP)), REQUEST | DUMP);
    }

    proptest! {
        #[test]
        fn test_rubbish_is_read_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&bytes) {
                let _ = attributes(message.payload, 4).count();
            }
            let _ = attributes(&bytes, 0).count();
        }
    }
}
