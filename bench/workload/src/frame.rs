//! The byte stream from a box to the host: marks, frames and stray console text in one channel.
//!
//! A process or container writes to an inherited descriptor; a microVM writes to COM1 with string
//! output instructions, so that a whole frame costs one exit. Both carry the same bytes:
//!
//! ```text
//! mark   one byte, see [`Mark`]
//! frame  0xFC, kind (1 byte), payload length (4 bytes, little-endian), payload
//! text   anything else, e.g. what a guest kernel prints to the same serial port
//! ```

use alloc::vec::Vec;

use crate::Mark;

/// Announces a frame.
pub const FRAME_START: u8 = 0xFC;
/// Bytes before a frame's payload: start, kind, length.
pub const FRAME_HEADER_BYTES: usize = 6;
/// A longer payload is a protocol error: a box is not trusted with the host's memory.
pub const FRAME_PAYLOAD_MAX_BYTES: usize = 1 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`Report`](crate::Report) in its text form.
    Report = 1,
    /// Bytes the command wrote to its standard output.
    Stdout = 2,
    /// Bytes the command wrote to its standard error.
    Stderr = 3,
    /// Exit status of the box: `i32`, little-endian; a signal `n` is `128 + n`.
    Exit = 4,
    /// Why the agent or its workload failed: UTF-8 text.
    Error = 5,
    /// Bytes for the command's standard input, or none for its end.
    Stdin = 6,
    /// How many bytes of input have left the agent: `u32`, little-endian.
    Taken = 7,
    /// A signal for the command: its number, one byte.
    Signal = 8,
    /// The size of the command's terminal, see [`WindowSize`](crate::WindowSize).
    Window = 9,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<FrameKind> {
        match byte {
            1 => Some(FrameKind::Report),
            2 => Some(FrameKind::Stdout),
            3 => Some(FrameKind::Stderr),
            4 => Some(FrameKind::Exit),
            5 => Some(FrameKind::Error),
            6 => Some(FrameKind::Stdin),
            7 => Some(FrameKind::Taken),
            8 => Some(FrameKind::Signal),
            9 => Some(FrameKind::Window),
            _ => None,
        }
    }
}

/// The header of a frame whose payload has `payload_bytes` bytes, which must be at most
/// [`FRAME_PAYLOAD_MAX_BYTES`].
pub const fn frame_header(kind: FrameKind, payload_bytes: u32) -> [u8; FRAME_HEADER_BYTES] {
    let length = payload_bytes.to_le_bytes();
    [FRAME_START, kind as u8, length[0], length[1], length[2], length[3]]
}

/// One thing read from the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A mark was pushed.
    Mark(Mark),
    /// A frame is complete.
    Frame(FrameKind, Vec<u8>),
    /// Bytes outside any frame.
    Text(Vec<u8>),
}

/// The box broke the protocol; nothing it sends afterwards can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind byte is unknown.
    #[error("the box sent a frame of unknown kind {0:#04x}: agent and host differ in version")]
    Kind(u8),
    /// The length is over [`FRAME_PAYLOAD_MAX_BYTES`].
    #[error("the box announced a frame of {0} bytes, more than {FRAME_PAYLOAD_MAX_BYTES} allowed")]
    Length(u32),
    /// A frame that is none of the sender's, or not in this place, or whose payload is none of its
    /// kind; or something that is no frame where there are frames alone.
    #[error("the box sent {0} where it has no place")]
    Misplaced(&'static str),
}

/// Splits a channel's bytes into [`Event`]s, across any fragmentation.
///
/// It holds at most one frame, and no more of it than has arrived. Text is handed on as it comes and
/// so may be split where the stream was.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Vec<u8>,
}

impl Decoder {
    /// Takes the next bytes and hands each event to `sink`, in order.
    ///
    /// # Errors
    /// [`FrameError`] at the first malformed frame header, and again at every later call.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Event)) -> Result<(), FrameError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = if self.partial.is_empty() {
                self.outside(rest, &mut sink)
            } else {
                self.inside(rest, &mut sink)?
            };
        }
        Ok(())
    }

    /// True while a frame has begun and not ended: the box died in mid-sentence.
    pub fn is_inside_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    fn outside<'a>(&mut self, bytes: &'a [u8], sink: &mut impl FnMut(Event)) -> &'a [u8] {
        let special = |byte: &u8| *byte == FRAME_START || Mark::from_byte(*byte).is_some();
        let (text, rest) = bytes.split_at(bytes.iter().position(special).unwrap_or(bytes.len()));
        if !text.is_empty() {
            sink(Event::Text(text.to_vec()));
        }
        let Some((first, rest)) = rest.split_first() else { return rest };
        match Mark::from_byte(*first) {
            Some(mark) => sink(Event::Mark(mark)),
            None => self.partial.push(FRAME_START),
        }
        rest
    }

    fn inside<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut impl FnMut(Event),
    ) -> Result<&'a [u8], FrameError> {
        let header_missing = FRAME_HEADER_BYTES.saturating_sub(self.partial.len());
        if header_missing > 0 {
            let taken = header_missing.min(bytes.len());
            self.partial.extend_from_slice(&bytes[..taken]);
            if self.partial.len() == FRAME_HEADER_BYTES {
                self.finish_if_complete(sink)?;
            }
            return Ok(&bytes[taken..]);
        }
        let missing = self.announced()?.1 + FRAME_HEADER_BYTES - self.partial.len();
        let taken = missing.min(bytes.len());
        self.partial.extend_from_slice(&bytes[..taken]);
        self.finish_if_complete(sink)?;
        Ok(&bytes[taken..])
    }

    /// Kind and payload length in bytes of the frame whose header is complete.
    fn announced(&self) -> Result<(FrameKind, usize), FrameError> {
        let header = &self.partial[..FRAME_HEADER_BYTES];
        let kind = FrameKind::from_byte(header[1]).ok_or(FrameError::Kind(header[1]))?;
        let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= FRAME_PAYLOAD_MAX_BYTES => Ok((kind, bytes)),
            _ => Err(FrameError::Length(length)),
        }
    }

    fn finish_if_complete(&mut self, sink: &mut impl FnMut(Event)) -> Result<(), FrameError> {
        let (kind, payload_bytes) = self.announced()?;
        if self.partial.len() == FRAME_HEADER_BYTES + payload_bytes {
            let payload = self.partial.split_off(FRAME_HEADER_BYTES);
            self.partial.clear();
            sink(Event::Frame(kind, payload));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;

    use super::*;

    /// Events with adjacent text joined, the result, and whether a frame is incomplete.
    fn decode<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Event>, Result<(), FrameError>, bool) {
        let mut decoder = Decoder::default();
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            let result = decoder.push(piece, |event| match (events.last_mut(), event) {
                (Some(Event::Text(text)), Event::Text(more)) => text.extend(more),
                (_, event) => events.push(event),
            });
            if result.is_err() {
                return (events, result, true);
            }
        }
        (events, Ok(()), decoder.is_inside_frame())
    }

    fn encode(events: &[Event]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for event in events {
            match event {
                Event::Mark(mark) => bytes.push(mark.byte()),
                Event::Text(text) => bytes.extend(text),
                Event::Frame(kind, payload) => {
                    bytes.extend(frame_header(*kind, payload.len() as u32));
                    bytes.extend(payload);
                }
            }
        }
        bytes
    }

    #[test]
    fn test_marks_frames_and_text_are_told_apart_in_one_stream() {
        let events = [
            Event::Text(b"[ 0.1] booting\n".to_vec()),
            Event::Mark(Mark::Init),
            Event::Mark(Mark::Ready),
            Event::Frame(FrameKind::Stdout, vec![0xF8, 0xFC, 0xFF]),
            Event::Frame(FrameKind::Report, vec![]),
            Event::Text("\u{10FFFF}".as_bytes().to_vec()),
            Event::Mark(Mark::Done),
        ];
        let bytes = encode(&events);
        assert_eq!(decode([&bytes[..]]), (events.to_vec(), Ok(()), false));
    }

    #[test]
    fn test_frame_invalid_kind_or_length_returns_error_for_ever() {
        let unknown = [FRAME_START, 10, 0, 0, 0, 0];
        assert_eq!(decode([&unknown[..]]).1, Err(FrameError::Kind(10)));
        let too_long = frame_header(FrameKind::Stdout, FRAME_PAYLOAD_MAX_BYTES as u32 + 1);
        let mut decoder = Decoder::default();
        for _ in 0..2 {
            let result = decoder.push(&too_long, |event| panic!("{event:?}"));
            assert_eq!(result, Err(FrameError::Length(FRAME_PAYLOAD_MAX_BYTES as u32 + 1)));
        }
        assert_eq!(decoder.partial.len(), FRAME_HEADER_BYTES);
    }

    #[test]
    fn test_frame_cut_short_is_seen_as_such() {
        let mut bytes = frame_header(FrameKind::Error, 4).to_vec();
        bytes.extend(b"abc");
        for length in 1..=bytes.len() {
            assert_eq!(decode([&bytes[..length]]), (vec![], Ok(()), true));
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let kind = prop::sample::select(vec![
            FrameKind::Report,
            FrameKind::Stdout,
            FrameKind::Stderr,
            FrameKind::Exit,
            FrameKind::Error,
            FrameKind::Stdin,
            FrameKind::Taken,
            FrameKind::Signal,
            FrameKind::Window,
        ]);
        let mark = prop::sample::select(vec![Mark::Init, Mark::Ready, Mark::Done, Mark::Probe]);
        prop_oneof![
            mark.prop_map(Event::Mark),
            "[^\0]{1,9}".prop_map(|text| Event::Text(text.into_bytes())),
            (kind, prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(kind, payload)| Event::Frame(kind, payload)),
        ]
    }

    /// The pieces of these sizes, in turn, in which a stream arrives.
    fn pieces(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces
    }

    proptest! {
        #[test]
        fn test_any_events_survive_any_fragmentation(
            events in prop::collection::vec(any_event(), 0..12),
            sizes in prop::collection::vec(1usize..20, 1..6),
        ) {
            let bytes = encode(&events);
            let whole = decode([&bytes[..]]);
            let pieces = pieces(&bytes, &sizes);
            prop_assert_eq!(&decode(pieces.iter().map(Vec::as_slice)), &whole);
            prop_assert_eq!(encode(&whole.0), bytes);
            prop_assert!(!whole.2);
        }

        #[test]
        fn test_any_bytes_decode_alike_in_any_fragmentation(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), 0xF8u8..=0xFF, 0u8..11], 0..200),
            sizes in prop::collection::vec(1usize..20, 1..6),
        ) {
            let whole = decode([&bytes[..]]);
            let pieces = pieces(&bytes, &sizes);
            prop_assert_eq!(decode(pieces.iter().map(Vec::as_slice)), whole);
        }
    }
}
