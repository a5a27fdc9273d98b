//! The user of a box: this program's own standard streams and signals, for one command.
//!
//! A box that is a process has the streams themselves, and hears of signals from here. With a
//! microVM's command this holds the conversation that `tare_workload`'s `Line` describes. Nothing
//! grows: input is read only as the command takes it, and boxes are heard only as output goes.

mod raw;
mod sink;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tare_workload::{FrameKind, INPUT_WINDOW_BYTES, WindowSize, frame_header};

use crate::backend::Instance;
use crate::harness::Attendant;
use crate::interrupt::Signals;
pub(crate) use raw::RawMode;
use raw::window_size;
use sink::Sink;

/// Input read at once: half a window, so that the next is on its way while one is taken.
const PIECE_BYTES: usize = INPUT_WINDOW_BYTES / 2;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct User<'a> {
    input: Option<BorrowedFd<'a>>,
    /// Bytes of input that the agent has room for.
    window_bytes: usize,
    outputs: [Sink<'a>; 2],
    signals: Signals,
    /// For the command, bit N for signal N.
    pending: u64,
    /// The terminal whose size is the command's, and whether it has changed.
    terminal: Option<BorrowedFd<'a>>,
    resized: bool,
    /// On the way to the agent.
    outgoing: Vec<u8>,
    sent: usize,
    _raw: Option<RawMode<'a>>,
}

/// Size of the terminal that a command gets: that of the user's, if there is one.
pub(crate) fn terminal_size(input: BorrowedFd<'_>) -> WindowSize {
    window_size(input).unwrap_or(WindowSize::DEFAULT)
}

impl<'a> User<'a> {
    /// Takes the signals; `gives_terminal` says whether the command has a terminal of its own, so
    /// that `input`, if it is one, goes into raw mode.
    pub(crate) fn begin(
        input: BorrowedFd<'a>,
        outputs: [BorrowedFd<'a>; 2],
        gives_terminal: bool,
    ) -> io::Result<User<'a>> {
        let signals = Signals::take()?;
        let terminal = Some(input).filter(|fd| gives_terminal && window_size(*fd).is_some());
        Ok(User {
            input: Some(input),
            window_bytes: INPUT_WINDOW_BYTES,
            outputs: outputs.map(Sink::new),
            signals,
            pending: 0,
            terminal,
            resized: false,
            outgoing: Vec::new(),
            sent: 0,
            _raw: terminal.map(RawMode::begin).transpose()?,
        })
    }

    /// Writes what is left once the box is gone. A signal ends that.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        while self.is_full() {
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.output_polls());
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if self.signals.heard().any(|forwarded| forwarded.signal != libc::SIGWINCH) {
                return Ok(());
            }
            self.write_outputs()?;
        }
        Ok(())
    }

    fn output_polls(&self) -> impl Iterator<Item = PollFd<'a>> {
        let busy = self.outputs.iter().filter(|sink| !sink.is_empty());
        busy.map(|sink| PollFd::new(sink.fd(), PollFlags::POLLOUT))
    }

    fn write_outputs(&mut self) -> io::Result<()> {
        for sink in &mut self.outputs {
            while !sink.is_empty() && is_ready(sink.fd(), PollFlags::POLLOUT)? {
                if !sink.write() {
                    // What the kernel would have told the command, had it written there itself.
                    self.pending |= 1 << libc::SIGPIPE;
                }
            }
        }
        Ok(())
    }

    fn hear_signals(&mut self, instance: &dyn Instance) {
        let relays = instance.conversation().is_some();
        for forwarded in self.signals.heard() {
            if forwarded.signal == libc::SIGWINCH {
                self.resized = self.terminal.is_some();
            } else if relays {
                self.pending |= 1 << forwarded.signal;
            } else if !(forwarded.is_from_kernel && instance.shares_terminal()) {
                signal(instance.pidfd(), forwarded.signal);
            }
        }
    }

    /// Puts the next thing that is to be said on its way, if nothing else is.
    fn collect(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            return Ok(());
        }
        while self.pending != 0 {
            let signal = self.pending.trailing_zeros().to_le_bytes()[0];
            self.pending &= self.pending - 1;
            self.put(FrameKind::Signal, &[signal]);
        }
        if std::mem::take(&mut self.resized)
            && let Some(size) = self.terminal.and_then(window_size)
        {
            self.put(FrameKind::Window, &size.to_bytes());
        }
        let Some(input) = self.input.filter(|_| self.window_bytes > 0) else { return Ok(()) };
        if is_ready(input, PollFlags::POLLIN)? {
            let mut bytes = [0; PIECE_BYTES];
            let room = self.window_bytes.min(PIECE_BYTES);
            // SAFETY: the buffer is valid for writing of that length.
            let read = unsafe { libc::read(input.as_raw_fd(), bytes.as_mut_ptr().cast(), room) };
            match usize::try_from(read) {
                Ok(read) => {
                    self.window_bytes -= read;
                    self.put(FrameKind::Stdin, bytes.get(..read).unwrap_or_default());
                    // No bytes: the end, for the agent too.
                    self.input = self.input.filter(|_| read > 0);
                }
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                    // What cannot be read has no more for the command.
                    _ => {
                        self.input = None;
                        self.put(FrameKind::Stdin, &[]);
                    }
                },
            }
        }
        Ok(())
    }

    fn put(&mut self, kind: FrameKind, payload: &[u8]) {
        // It fits: a piece is far smaller.
        self.outgoing.extend(frame_header(kind, payload.len() as u32));
        self.outgoing.extend(payload);
    }

    /// Sends as much as the socket takes now. An agent that is gone hears nothing more.
    fn send(&mut self, socket: BorrowedFd<'_>) {
        while let Some(rest @ [_, ..]) = self.outgoing.get(self.sent..) {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the bytes are valid for reading of their length.
            let sent =
                unsafe { libc::send(socket.as_raw_fd(), rest.as_ptr().cast(), rest.len(), flags) };
            match usize::try_from(sent) {
                Ok(sent) => self.sent += sent,
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return,
                    _ => {
                        self.input = None;
                        break;
                    }
                },
            }
        }
        self.outgoing.clear();
        self.sent = 0;
    }
}

impl Attendant for User<'_> {
    fn output(&mut self, is_stderr: bool, bytes: &[u8]) {
        self.outputs[usize::from(is_stderr)].take(bytes);
    }

    fn is_full(&self) -> bool {
        self.outputs.iter().any(|sink| !sink.is_empty())
    }

    fn taken(&mut self, bytes: u32) {
        // An agent that has taken more than there was has harmed itself.
        self.window_bytes = (self.window_bytes + bytes as usize).min(INPUT_WINDOW_BYTES);
    }

    fn polls<'b>(&'b self, instance: &'b dyn Instance) -> Vec<PollFd<'b>> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.output_polls());
        if let Some(socket) = instance.conversation() {
            if !self.outgoing.is_empty() {
                fds.push(PollFd::new(socket, PollFlags::POLLOUT));
            } else if let Some(input) = self.input.filter(|_| self.window_bytes > 0) {
                fds.push(PollFd::new(input, PollFlags::POLLIN));
            }
        }
        fds
    }

    fn serve(&mut self, instance: &dyn Instance) -> io::Result<()> {
        self.hear_signals(instance);
        self.write_outputs()?;
        if let Some(socket) = instance.conversation() {
            self.collect()?;
            self.send(socket);
        }
        Ok(())
    }
}

/// Whether something can be done now, be it to learn that it fails.
fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, flags)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a signal to a process that may have ended.
fn signal(pidfd: BorrowedFd<'_>, signal: i32) {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a signal to a pidfd cannot reach another process than the one it names.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
