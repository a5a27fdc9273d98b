//! Marks: single bytes that a box pushes when it passes an edge.
//!
//! The values 0xF8–0xFF never occur in UTF-8, so a mark can share a serial port with console
//! text and still be told apart without any framing.

/// A point in the life of an instance that the box itself announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mark {
    /// The first thing `tare-guest` does in the box.
    Init = 0xF8,
    /// The workload is prepared and about to start.
    Ready = 0xF9,
    /// The workload has finished.
    Done = 0xFA,
    /// Means nothing: sent in a row to measure what sending a mark costs.
    Probe = 0xFB,
}

impl Mark {
    /// Decodes a byte; `None` for anything that is not a mark.
    pub const fn from_byte(byte: u8) -> Option<Mark> {
        match byte {
            0xF8 => Some(Mark::Init),
            0xF9 => Some(Mark::Ready),
            0xFA => Some(Mark::Done),
            0xFB => Some(Mark::Probe),
            _ => None,
        }
    }

    /// The byte that goes over the channel.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::Mark;

    #[test]
    fn test_every_mark_round_trips_and_no_text_byte_is_a_mark() {
        for byte in 0..=u8::MAX {
            match Mark::from_byte(byte) {
                Some(mark) => assert_eq!(mark.byte(), byte),
                None => assert!(!(0xF8..=0xFB).contains(&byte)),
            }
        }
    }
}
