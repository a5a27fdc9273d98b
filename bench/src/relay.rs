//! A container's terminal and the user's: bytes both ways, sizes one way, until one of them ends.
//!
//! Between processes the same travels in pieces: a byte that says what it is, a 16-bit length, and
//! so many bytes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare_container::Terminal;

use crate::interrupt::Signals;
use crate::user::RawMode;

/// Ctrl-P, Ctrl-Q: lets go of the terminal, as elsewhere.
const DETACH: [u8; 2] = [16, 17];

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes for the terminal, or from it.
    Data = 0,
    /// Its size: rows and columns, 16 bits each.
    Size = 1,
    /// The exit status of its program, one byte.
    Status = 2,
}

/// Writes one piece.
pub(crate) fn send(to: &mut impl Write, kind: Piece, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(usize::from(u16::MAX)) {
        let length = (part.len() as u16).to_le_bytes();
        to.write_all(&[kind as u8, length[0], length[1]])?;
        to.write_all(part)?;
    }
    Ok(())
}

/// Reads one; `None` at the end.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Option<(Piece, Vec<u8>)>> {
    let mut head = [0; 3];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let mut bytes = vec![0; usize::from(u16::from_le_bytes([head[1], head[2]]))];
    from.read_exact(&mut bytes)?;
    let kind = match head[0] {
        0 => Piece::Data,
        1 => Piece::Size,
        2 => Piece::Status,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(Some((kind, bytes)))
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side has nothing more to say.
    There,
    /// The user has let go.
    Detached,
}

/// What the user's terminal is connected to.
pub(crate) trait Far {
    /// Becomes readable when it has something to say.
    fn fd(&self) -> BorrowedFd<'_>;
    /// What it says, to be shown; `None` when it has ended.
    fn hear(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// What the user types.
    fn tell(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// A signal that was sent to this program; whether it goes on after it.
    fn signal(&mut self, signal: i32) -> bool;
    /// The size of the user's terminal.
    fn resize(&mut self, size: Terminal) -> io::Result<()>;
}

/// Connects the user's standard streams with a terminal until the other side ends or, where that is
/// possible (`detaches`), the user lets go.
pub(crate) fn converse(far: &mut dyn Far, detaches: bool) -> anyhow::Result<Ended> {
    let mut signals = Signals::take()?;
    let stdin = io::stdin();
    let mut size = Terminal::of(stdin.as_fd());
    let _raw = size.map(|_| RawMode::begin(stdin.as_fd())).transpose()?;
    if let Some(size) = size {
        far.resize(size)?;
    }
    let mut input = Some(stdin.as_fd());
    let mut typed_first = false;
    loop {
        let mut fds = vec![
            PollFd::new(far.fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(input.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] {
            let heard = signals.heard().map(|forwarded| forwarded.signal);
            for signal in heard.filter(|signal| *signal != libc::SIGWINCH) {
                if !far.signal(signal) {
                    return Ok(Ended::Detached);
                }
            }
            let now = Terminal::of(stdin.as_fd());
            if let Some(now) = now.filter(|now| size != Some(*now)) {
                size = Some(now);
                far.resize(now)?;
            }
        }
        if ready.get(2).copied().unwrap_or(false) {
            let mut bytes = [0; 4096];
            // SAFETY: a buffer of that length.
            let count =
                unsafe { libc::read(stdin.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            let bytes = &bytes[..usize::try_from(count).unwrap_or(0)];
            if bytes.is_empty() {
                // What a terminal's user does at the end of what is typed.
                far.tell(&[4])?;
                input = None;
            }
            // The two keys may come by themselves, or with others.
            let keys = detaches && size.is_some();
            if keys
                && (bytes.windows(2).any(|pair| pair == DETACH)
                    || (typed_first && bytes.first() == Some(&DETACH[1])))
            {
                return Ok(Ended::Detached);
            }
            typed_first = bytes.last() == Some(&DETACH[0]);
            far.tell(bytes)?;
        }
        if ready[0] {
            let Some(bytes) = far.hear()? else { return Ok(Ended::There) };
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes)?;
            stdout.flush()?;
        }
    }
}

/// A terminal whose other end this process has.
pub(crate) struct Near<'a> {
    pub(crate) terminal: std::fs::File,
    pub(crate) container: &'a tare_container::Container,
}

impl Far for Near<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }

    fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; 4096];
        match self.terminal.read(&mut bytes) {
            Ok(0) => Ok(None),
            Ok(count) => {
                bytes.truncate(count);
                Ok(Some(bytes))
            }
            // Its last user has closed it.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }

    fn tell(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.terminal.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::from(100u8));
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn signal(&mut self, signal: i32) -> bool {
        let _ = self.container.signal(signal);
        true
    }

    fn resize(&mut self, size: Terminal) -> io::Result<()> {
        size.apply(self.terminal.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_pieces_arrive_whole_and_nonsense_is_refused() {
        let mut wire = Vec::new();
        send(&mut wire, Piece::Data, &vec![7; 70_000]).unwrap();
        send(&mut wire, Piece::Status, &[3]).unwrap();
        let mut from = &wire[..];
        let mut total = 0;
        while let Some((kind, bytes)) = receive(&mut from).unwrap() {
            match kind {
                Piece::Data => total += bytes.len(),
                _ => assert_eq!((kind, bytes), (Piece::Status, vec![3])),
            }
        }
        assert_eq!(total, 70_000);
        assert!(receive(&mut &[9, 0, 0][..]).is_err());
        assert!(receive(&mut &[0, 5, 0, 1][..]).is_err());
    }
}
