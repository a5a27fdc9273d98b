//! The agent's side of the command's standard streams: three pipes, or one terminal.

use super::ends::{Ends, Group, occupy_standard_descriptors};
use super::terminal::Terminal;
use crate::sys::{File, Pipe, retry};
use crate::{Context, Errno, Error, FrameKind, WindowSize};

/// Nothing of it waits: what cannot be done now does nothing.
pub(super) enum Streams {
    /// Pipes, each `None` after its end.
    Pipes {
        /// Where the command reads.
        input: Option<File>,
        /// Where it writes, with the one whose turn it is first.
        outputs: [(FrameKind, Option<File>); 2],
    },
    /// A terminal.
    Terminal {
        /// See its module.
        terminal: Terminal,
        /// The last character of input was a line's end, or none has come.
        at_line_start: bool,
    },
}

impl Streams {
    /// Makes them, and the command's side.
    pub(super) fn new(terminal: Option<WindowSize>) -> Result<(Streams, Ends), Error> {
        occupy_standard_descriptors()?;
        if let Some(size) = terminal {
            let terminal = Terminal::new(size)?;
            let ends = terminal.ends()?;
            return Ok((Streams::Terminal { terminal, at_line_start: true }, ends));
        }
        let pipe = || Pipe::new().on("pipe2", "the command's streams");
        let (input, output, error) = (pipe()?, pipe()?, pipe()?);
        for file in [&input.writer, &output.reader, &error.reader] {
            file.set_nonblocking().on("fcntl(O_NONBLOCK)", "the command's streams")?;
        }
        let streams = Streams::Pipes {
            input: Some(input.writer),
            outputs: [
                (FrameKind::Stdout, Some(output.reader)),
                (FrameKind::Stderr, Some(error.reader)),
            ],
        };
        let (input, output, error) = (input.reader, output.writer, error.writer);
        Ok((streams, Ends { input, output, error, group: Group::Own }))
    }

    /// What to wait for in order to read, or to write. A negative descriptor is ignored (poll(2)).
    pub(super) fn polls(&self, reads: bool, writes: bool) -> [(libc::c_int, libc::c_short); 3] {
        let nothing = (-1, 0);
        let entry = |file: &Option<File>, wanted, events| match file {
            Some(file) if wanted => (file.fd(), events),
            _ => nothing,
        };
        match self {
            Streams::Pipes { input, outputs: [(_, first), (_, second)] } => [
                entry(input, writes, libc::POLLOUT),
                entry(first, reads, libc::POLLIN),
                entry(second, reads, libc::POLLIN),
            ],
            Streams::Terminal { terminal, .. } => {
                let fd = terminal.master.fd();
                let events = if reads { libc::POLLIN } else { 0 };
                let events = events | if writes { libc::POLLOUT } else { 0 };
                [if events == 0 { nothing } else { (fd, events) }, nothing, nothing]
            }
        }
    }

    /// Reads what the command wrote to one of its streams; both have their turn.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<(FrameKind, usize)>, Error> {
        match self {
            Streams::Pipes { outputs, .. } => {
                for _ in 0..outputs.len() {
                    outputs.swap(0, 1);
                    let [(kind, reader), _] = outputs;
                    let Some(file) = reader else { continue };
                    match retry(|| file.read(buffer)) {
                        Ok(0) => *reader = None,
                        Ok(bytes) => return Ok(Some((*kind, bytes))),
                        Err(Errno(libc::EAGAIN)) => {}
                        Err(errno) => return Err(errno).on("read", "the command's output"),
                    }
                }
                Ok(None)
            }
            Streams::Terminal { terminal, .. } => {
                match retry(|| terminal.master.read(buffer)) {
                    // EIO: what was there before the terminal was hung up has been read.
                    Ok(0) | Err(Errno(libc::EAGAIN | libc::EIO)) => Ok(None),
                    Ok(bytes) => Ok(Some((FrameKind::Stdout, bytes))),
                    Err(errno) => Err(errno).on("read", "the command's terminal"),
                }
            }
        }
    }

    /// Writes input for the command; how much it took. What a command has no ears for is taken all
    /// the same: the rest of a pipeline must not wait for it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let (file, target) = match self {
            Streams::Pipes { input: None, .. } => return Ok(bytes.len()),
            Streams::Pipes { input: Some(file), .. } => (&*file, "the command's input"),
            Streams::Terminal { terminal, .. } => (&terminal.master, "the command's terminal"),
        };
        let taken = match retry(|| file.write(bytes)) {
            Ok(taken) => taken,
            Err(Errno(libc::EAGAIN)) => 0,
            Err(Errno(libc::EPIPE)) => {
                if let Streams::Pipes { input, .. } = self {
                    *input = None;
                }
                bytes.len()
            }
            Err(errno) => return Err(errno).on("write", target),
        };
        if let (Streams::Terminal { at_line_start, .. }, Some(last)) =
            (self, bytes.get(..taken).and_then(<[u8]>::last))
        {
            *at_line_start = matches!(last, b'\n' | b'\r');
        }
        Ok(taken)
    }

    /// Ends the command's input; false if it has to be tried again. At a terminal that is what a
    /// user does: the end-of-file character, twice if it must first end an unfinished line.
    pub(super) fn end_input(&mut self) -> Result<bool, Error> {
        match self {
            Streams::Pipes { input, .. } => {
                *input = None;
                Ok(true)
            }
            Streams::Terminal { terminal, at_line_start } => {
                let end = terminal.end_of_input().on("tcgetattr", "the command's terminal")?;
                let ends = [end; 2];
                let ends = if *at_line_start { &ends[..1] } else { &ends[..] };
                match retry(|| terminal.master.write(ends)) {
                    Ok(written) if written == ends.len() => Ok(true),
                    Ok(_) => {
                        *at_line_start = true;
                        Ok(false)
                    }
                    Err(Errno(libc::EAGAIN)) => Ok(false),
                    Err(errno) => Err(errno).on("write", "the command's terminal"),
                }
            }
        }
    }

    /// Gives the terminal another size; pipes have none.
    pub(super) fn resize(&self, size: WindowSize) -> Result<(), Error> {
        match self {
            Streams::Pipes { .. } => Ok(()),
            Streams::Terminal { terminal, .. } => {
                terminal.resize(size).on("ioctl(TIOCSWINSZ)", "the command's terminal")
            }
        }
    }
}
