//! A command's standard streams on one stream socket: what both sides say.
//!
//! The agent opens the socket (or inherits it) before the command starts. Both sides then send
//! frames as in [`FrameKind`](crate::FrameKind), and nothing else:
//!
//! | frame | from | payload |
//! |---|---|---|
//! | `Stdin` | host | bytes for the command's standard input; none: its end |
//! | `Signal` | host | a signal's number (1 byte) for the command's process group |
//! | `Window` | host | the terminal's new size, see [`WindowSize`] |
//! | `Stdout`, `Stderr` | agent | bytes that the command wrote; with a terminal all are `Stdout` |
//! | `Taken` | agent | so many bytes of input have left the agent (`u32`, little-endian) |
//! | `Exit` | agent | the command's status, as in [`FrameKind`](crate::FrameKind) |
//!
//! # Rules
//!
//! - The host never has more than [`INPUT_WINDOW_BYTES`] of input on the way, so that the agent can
//!   always read on and finds a signal behind input that the command does not want. Output needs no
//!   such rule: what the host does not read, the socket holds, and at last the command waits.
//! - `Exit` comes after all of the command's output. The host answers by ending its direction of the
//!   stream, and only then the agent ends the box: nothing is lost on the way.
//! - An end of the stream before that means that the other side is gone.

/// Most bytes of input that the agent has not reported as taken.
pub const INPUT_WINDOW_BYTES: usize = 64 << 10;
/// The host's vsock port for a command's streams.
pub const CONVERSATION_PORT: u32 = 1024;

/// Where the agent finds the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// An inherited descriptor.
    Fd(i32),
    /// This port of the host (CID 2), by vsock.
    Vsock(u32),
}

impl Line {
    /// Reads `fd:N` or `vsock:PORT`.
    pub(crate) fn parse(value: &str) -> Option<Line> {
        let (kind, number) = value.split_once(':')?;
        match kind {
            "fd" => Some(Line::Fd(i32::try_from(plain(number)?).ok()?)),
            "vsock" => Some(Line::Vsock(plain(number)?)),
            _ => None,
        }
    }
}

impl core::fmt::Display for Line {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Line::Fd(fd) => write!(formatter, "fd:{fd}"),
            Line::Vsock(port) => write!(formatter, "vsock:{port}"),
        }
    }
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

impl WindowSize {
    /// Of a terminal that nobody looks at.
    pub const DEFAULT: WindowSize = WindowSize { rows: 24, columns: 80 };

    /// Reads `ROWSxCOLUMNS`.
    pub(crate) fn parse(value: &str) -> Option<WindowSize> {
        let (rows, columns) = value.split_once('x')?;
        let number = |digits| u16::try_from(plain(digits)?).ok();
        Some(WindowSize { rows: number(rows)?, columns: number(columns)? })
    }

    /// As the payload of a frame: rows and columns, little-endian.
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.rows.to_le_bytes(), self.columns.to_le_bytes());
        [a, b, c, d]
    }

    /// From the payload of a frame.
    pub fn from_bytes(payload: &[u8]) -> Option<WindowSize> {
        let [a, b, c, d] = *payload else { return None };
        Some(WindowSize { rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) })
    }
}

impl core::fmt::Display for WindowSize {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}x{}", self.rows, self.columns)
    }
}

/// A number in digits alone; the parser would also take a sign.
fn plain(digits: &str) -> Option<u32> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn test_line_and_window_size_round_trip_through_text_and_bytes() {
        for line in [Line::Fd(0), Line::Fd(i32::MAX), Line::Vsock(0), Line::Vsock(u32::MAX)] {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
        let size = WindowSize { rows: 258, columns: 65535 };
        assert_eq!(size.to_string(), "258x65535");
        assert_eq!(WindowSize::parse("258x65535"), Some(size));
        assert_eq!(size.to_bytes(), [2, 1, 255, 255]);
        assert_eq!(WindowSize::from_bytes(&size.to_bytes()), Some(size));
    }

    #[test]
    fn test_line_and_window_size_invalid_text_or_bytes_return_none() {
        for text in ["", "fd", "fd:", "fd:-1", "fd:2147483648", "vsock:+1", "vsock:4294967296"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
        for text in ["", "24", "24x", "x80", "24x80x2", "-1x80", "65536x80"] {
            assert_eq!(WindowSize::parse(text), None, "{text}");
        }
        assert_eq!(WindowSize::from_bytes(&[1, 2, 3]), None);
        assert_eq!(WindowSize::from_bytes(&[1, 2, 3, 4, 5]), None);
    }
}
