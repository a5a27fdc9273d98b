//! The command's standard streams, through a socket: the agent's side of what
//! [`Line`](crate::Line) and its rules describe.
//!
//! Everything here is bounded: one frame on its way out, one window of input, one incoming frame
//! (which is at most a window too, or it is refused).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ptr;

use super::ends::Ends;
use super::signals::Forwarding;
use super::spawn::{Reaped, Usage, reap};
use super::streams::Streams;
use crate::sys::{Mapping, check, check_size, retry, set_nonblocking};
use crate::{
    Context, Decoder, Errno, Error, Event, FrameKind, INPUT_WINDOW_BYTES, WindowSize, frame_header,
};

/// As much as a pipe holds at once by default.
const BUFFER_BYTES: usize = 64 << 10;
/// Output sent after the command has ended: as much as a pipe can be made to hold
/// (/proc/sys/fs/pipe-max-size), so that an orphan that writes for ever does not hold up the box.
const LAST_BYTES: usize = 1 << 20;
/// The largest signal number (signal(7)).
const SIGNAL_MAX: u8 = 64;

/// See the module's text.
pub(super) struct Conversation {
    socket: libc::c_int,
    decoder: Decoder,
    streams: Streams,
    /// From the host, not yet taken by the command.
    input: VecDeque<u8>,
    input_ended: bool,
    /// Input that has left since the host was last told.
    taken: u32,
    /// What is on its way to the host, and how much of it has gone.
    outgoing: Vec<u8>,
    sent: usize,
    /// The host has ended its direction.
    host_ended: bool,
    command: libc::pid_t,
    buffer: Mapping,
}

impl Conversation {
    /// Takes the socket and makes the command's streams; its ends of them are for the one who
    /// starts it.
    pub(super) fn new(
        socket: libc::c_int,
        terminal: Option<WindowSize>,
    ) -> Result<(Conversation, Ends), Error> {
        // A command that closes its input is an error of one write here, and no signal.
        // SAFETY: no handler is installed; `Ends` gives the command the default back.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        set_nonblocking(socket).on("fcntl(O_NONBLOCK)", "the socket of the command's streams")?;
        let (streams, ends) = Streams::new(terminal)?;
        let conversation = Conversation {
            socket,
            decoder: Decoder::default(),
            streams,
            input: VecDeque::new(),
            input_ended: false,
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            host_ended: false,
            command: 0,
            buffer: Mapping::anonymous(BUFFER_BYTES).on("mmap", "a buffer")?,
        };
        Ok((conversation, ends))
    }

    /// Serves both sides until `command` has ended and what it wrote is sent.
    pub(super) fn until_end_of(
        &mut self,
        command: libc::pid_t,
        signals: &Forwarding,
    ) -> Result<(i32, Usage), Error> {
        self.command = command;
        loop {
            match reap(command, libc::WNOHANG)? {
                Reaped::Command(status, usage) => {
                    self.command = 0;
                    self.send_the_rest()?;
                    return Ok((status, usage));
                }
                Reaped::Orphan => {}
                Reaped::Nothing => {
                    self.wait(Some(signals))?;
                    self.receive()?;
                    if self.host_ended {
                        return Err(Error::Conversation("is gone"));
                    }
                    self.feed()?;
                    self.collect()?;
                    self.send()?;
                }
            }
        }
    }

    /// Says how the command ended, and waits until the host has heard it, and so all before it.
    pub(super) fn farewell(&mut self, status: i32) -> Result<(), Error> {
        self.flush()?;
        self.put(FrameKind::Exit, &status.to_le_bytes());
        while !self.host_ended {
            self.send()?;
            self.wait(None)?;
            self.receive()?;
        }
        Ok(())
    }

    /// Sends what is in the command's streams now. Whoever inherited them from the command may keep
    /// them open for ever.
    fn send_the_rest(&mut self) -> Result<(), Error> {
        let mut bytes = 0;
        loop {
            self.flush()?;
            self.collect()?;
            bytes += self.outgoing.len();
            if self.outgoing.is_empty() || bytes > LAST_BYTES {
                return Ok(());
            }
        }
    }

    /// Sends what is on its way. A host that goes away meanwhile ends that.
    fn flush(&mut self) -> Result<(), Error> {
        loop {
            self.send()?;
            if self.outgoing.is_empty() {
                return Ok(());
            }
            self.wait(None)?;
            self.receive()?;
            if self.host_ended {
                return Err(Error::Conversation("is gone"));
            }
        }
    }

    /// Sleeps until something can be done. With `signals` also until a child has ended: SIGCHLD is
    /// blocked except in here, so that none is missed between the check for it and the sleep.
    fn wait(&self, signals: Option<&Forwarding>) -> Result<(), Error> {
        let poll = |(fd, events)| libc::pollfd { fd, events, revents: 0 };
        let is_idle = self.outgoing.is_empty();
        let out = if is_idle { 0 } else { libc::POLLOUT };
        let socket = poll((self.socket, libc::POLLIN | out));
        let serves = signals.is_some();
        let wanted = self.streams.polls(serves && is_idle, serves && self.has_input());
        let mut polls = [socket, poll(wanted[0]), poll(wanted[1]), poll(wanted[2])];
        let mask = signals.map_or(ptr::null(), |signals| ptr::from_ref(signals.mask()));
        // SAFETY: `polls` has as many entries as are announced; the mask is valid or null.
        let result =
            check(unsafe { libc::ppoll(polls.as_mut_ptr(), polls.len() as _, ptr::null(), mask) });
        match result {
            Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
            Err(errno) => Err(errno).on("ppoll", "the command's streams"),
        }
    }

    fn has_input(&self) -> bool {
        !self.input.is_empty() || self.input_ended
    }

    /// Reads what the host says, once.
    fn receive(&mut self) -> Result<(), Error> {
        let buffer = self.buffer.as_mut();
        let read = retry(|| {
            // SAFETY: the buffer is valid for writing of its length.
            let read =
                unsafe { libc::recv(self.socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            check_size(read)
        });
        let bytes = match read {
            Err(Errno(libc::EAGAIN)) => return Ok(()),
            // A host that was killed, or, for a copy of a guest, one that never knew this connection.
            Ok(0) | Err(Errno(libc::ECONNRESET | libc::ENOTCONN)) => {
                self.host_ended = true;
                return Ok(());
            }
            Ok(bytes) => bytes,
            Err(errno) => return Err(errno).on("recv", "the socket of the command's streams"),
        };
        let mut events = Vec::new();
        let heard = self.buffer.as_mut().get(..bytes).unwrap_or_default();
        self.decoder
            .push(heard, |event| events.push(event))
            .map_err(|_| Error::Conversation("sent what is no frame of this version"))?;
        events.into_iter().try_for_each(|event| self.take(event))
    }

    fn take(&mut self, event: Event) -> Result<(), Error> {
        let wrong = Err(Error::Conversation("sent what has no place there"));
        let Event::Frame(kind, payload) = event else { return wrong };
        match (kind, &payload[..]) {
            (FrameKind::Stdin, []) => self.input_ended = true,
            (FrameKind::Stdin, _) => {
                if self.input_ended || self.input.len() + payload.len() > INPUT_WINDOW_BYTES {
                    return wrong;
                }
                self.input.extend(payload);
            }
            (FrameKind::Signal, &[signal @ 1..=SIGNAL_MAX]) => {
                if self.command > 0 {
                    // It fails only if the group has ended.
                    // SAFETY: touches no memory; the command has not been waited for.
                    unsafe { libc::kill(-self.command, signal.into()) };
                }
            }
            (FrameKind::Window, _) => {
                let Some(size) = WindowSize::from_bytes(&payload) else { return wrong };
                self.streams.resize(size)?;
            }
            _ => return wrong,
        }
        Ok(())
    }

    /// Gives the command what it takes of its input.
    fn feed(&mut self) -> Result<(), Error> {
        while !self.input.is_empty() {
            let bytes = self.streams.write(self.input.as_slices().0)?;
            if bytes == 0 {
                return Ok(());
            }
            self.input.drain(..bytes);
            // At most a window is on the way.
            self.taken += bytes as u32;
        }
        if self.input_ended {
            self.input_ended = !self.streams.end_input()?;
        }
        Ok(())
    }

    /// Puts the next thing that is to be said on its way, if nothing else is.
    fn collect(&mut self) -> Result<(), Error> {
        if !self.outgoing.is_empty() {
            return Ok(());
        }
        if self.taken > 0 {
            let taken = core::mem::take(&mut self.taken);
            self.put(FrameKind::Taken, &taken.to_le_bytes());
        }
        let read = self.streams.read(self.buffer.as_mut())?;
        if let Some((kind, bytes)) = read {
            let payload = self.buffer.as_mut().get(..bytes).unwrap_or_default();
            put(&mut self.outgoing, kind, payload);
        }
        Ok(())
    }

    fn put(&mut self, kind: FrameKind, payload: &[u8]) {
        put(&mut self.outgoing, kind, payload);
    }

    /// Sends as much as the socket takes now.
    fn send(&mut self) -> Result<(), Error> {
        while let Some(rest @ [_, ..]) = self.outgoing.get(self.sent..) {
            let sent = retry(|| {
                // SAFETY: the bytes are valid for reading of their length.
                let sent = unsafe {
                    libc::send(self.socket, rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL)
                };
                check_size(sent)
            });
            match sent {
                Ok(bytes) => self.sent += bytes,
                Err(Errno(libc::EAGAIN)) => return Ok(()),
                Err(errno) => return Err(errno).on("send", "the socket of the command's streams"),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }
}

fn put(outgoing: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    // It fits: the buffer that it comes from is far smaller.
    outgoing.extend(frame_header(kind, payload.len() as u32));
    outgoing.extend(payload);
}
