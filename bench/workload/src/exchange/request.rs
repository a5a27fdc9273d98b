//! What a box asks its peer for.

/// The least that a message may have.
pub(crate) const MESSAGE_MIN_BYTES: u64 = 8;
/// The most that a message may have.
pub(crate) const MESSAGE_MAX_BYTES: u64 = 1 << 20;
/// Length of a request.
pub(super) const REQUEST_BYTES: usize = 32;

/// What is done with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// They come back.
    Echo,
    /// The peer takes them.
    Sink,
    /// The peer sends them.
    Source,
}

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// What is done.
    pub(crate) operation: Operation,
    /// Length of a message.
    pub(crate) message_bytes: u32,
    /// How many there are.
    pub(crate) count: u64,
    /// Of the messages' contents.
    pub(crate) seed: u64,
    /// Whether every byte is checked.
    pub(crate) is_checked: bool,
}

impl Request {
    /// As it is sent.
    pub(super) fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let operation: u32 = match self.operation {
            Operation::Echo => 1,
            Operation::Sink => 2,
            Operation::Source => 3,
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&operation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.message_bytes.to_le_bytes());
        let words = [self.count, self.seed, self.is_checked.into()];
        for (part, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// As it was received; `None` if nobody asks for such a thing.
    pub(super) fn from_bytes(bytes: [u8; REQUEST_BYTES]) -> Option<Request> {
        let ([head, words @ ..], []) = bytes.as_chunks::<8>() else { return None };
        let [a, b, c, d, length @ ..] = *head;
        let operation = match u32::from_le_bytes([a, b, c, d]) {
            1 => Operation::Echo,
            2 => Operation::Sink,
            3 => Operation::Source,
            _ => return None,
        };
        let message_bytes = u32::from_le_bytes(length);
        let allowed = MESSAGE_MIN_BYTES..=MESSAGE_MAX_BYTES;
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        allowed.contains(&message_bytes.into()).then_some(Request {
            operation,
            message_bytes,
            count: words.next()?,
            seed: words.next()?,
            is_checked: words.next()? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_request_round_trips_and_odd_ones_are_refused() {
        for operation in [Operation::Echo, Operation::Sink, Operation::Source] {
            let (count, seed) = (u64::MAX, 7);
            let request = Request { operation, message_bytes: 8, count, seed, is_checked: true };
            assert_eq!(Request::from_bytes(request.to_bytes()), Some(request));
            let none = Request { message_bytes: 7, ..request };
            assert_eq!(Request::from_bytes(none.to_bytes()), None);
            let much = Request { message_bytes: (1 << 20) + 1, ..request };
            assert_eq!(Request::from_bytes(much.to_bytes()), None);
        }
        assert_eq!(Request::from_bytes([0; REQUEST_BYTES]), None);
        assert_eq!(Request::from_bytes([4; REQUEST_BYTES]), None);
    }
}
