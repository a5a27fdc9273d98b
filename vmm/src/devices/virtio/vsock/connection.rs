//! One stream between a guest's port and a Unix socket, with the credit of both directions
//! (section 5.10.6.3).

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::super::chain::{advance, gather, total};
use super::header::{HOST_CID, Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, op};
use super::host::{Received, enlarge, is_gone, is_ready, receive_parts, send, send_parts};

/// Bytes that a guest may have on the way to one Unix socket: four packets of Linux's.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;
/// The longest greeting: `CONNECT 4294967295` without its line's end.
const GREETING_MAX_BYTES: usize = 18;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The host's program has yet to say which port it wants.
    Greeting,
    /// The guest has yet to answer.
    Requested,
    /// Data flows.
    Established,
}

/// What a connection is to do after something happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// To go on.
    Lives,
    /// To end with a reset.
    Resets,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: UnixStream,
    pub(super) state: State,
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
    /// The socket may have something. Set by its event, cleared when it has nothing.
    pub(super) readable: bool,
    /// The program has ended its direction: the last event there is.
    pub(super) hung_up: bool,
    greeting: Vec<u8>,
    /// Operations that the guest is to hear of: bit N is operation N.
    pending: u16,
    /// From the guest, not yet taken by the socket.
    buffer: VecDeque<u8>,
    /// Bytes that the socket has taken, and what the guest was last told of that.
    forwarded: u32,
    told: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Bytes that the guest was sent.
    sent: u32,
    /// The guest was asked for credit since it last gave some.
    asked: bool,
    /// Directions that each side has ended.
    guest_shut: u32,
    host_shut: u32,
    /// The socket knows that no more comes from the guest.
    ended: bool,
}

impl Connection {
    fn new(socket: UnixStream, state: State, host_port: u32, guest_port: u32) -> Connection {
        enlarge(&socket);
        Connection {
            socket,
            state,
            host_port,
            guest_port,
            readable: false,
            hung_up: false,
            greeting: Vec::new(),
            pending: 0,
            buffer: VecDeque::new(),
            forwarded: 0,
            told: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            sent: 0,
            asked: false,
            guest_shut: 0,
            host_shut: 0,
            ended: false,
        }
    }

    /// A program of the host has come.
    pub(super) fn from_host(socket: UnixStream, host_port: u32) -> Connection {
        Connection::new(socket, State::Greeting, host_port, u32::MAX)
    }

    /// The guest has reached a program of the host.
    pub(super) fn from_guest(socket: UnixStream, request: &Header) -> Connection {
        let (host_port, guest_port) = (request.target_port, request.source_port);
        let mut connection = Connection::new(socket, State::Established, host_port, guest_port);
        connection.credit(request);
        connection.pend(op::RESPONSE);
        connection
    }

    /// Reads the host's `CONNECT PORT` line and nothing behind it: the port, once it is whole.
    ///
    /// # Errors
    ///
    /// The program is gone or says something else.
    pub(super) fn greet(&mut self) -> io::Result<Option<u32>> {
        while self.readable {
            let mut byte = [0];
            match self.socket.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => {
                    let port = parse_greeting(&self.greeting)
                        .ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
                    self.guest_port = port;
                    self.state = State::Requested;
                    self.pend(op::REQUEST);
                    return Ok(Some(port));
                }
                Ok(_) if self.greeting.len() == GREETING_MAX_BYTES => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(_) => self.greeting.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A packet of the guest's, whose data is `data`.
    ///
    /// # Safety
    ///
    /// The data must be valid for reading.
    pub(super) unsafe fn take(&mut self, header: &Header, data: &mut [libc::iovec]) -> Fate {
        self.credit(header);
        match (header.op, self.state) {
            (op::RESPONSE, State::Requested) => {
                self.state = State::Established;
                let answer = format!("OK {}\n", self.host_port);
                // The first bytes on a socket always fit, unless it is gone.
                match send(&self.socket, answer.as_bytes()) {
                    Ok(sent) if sent == answer.len() => Fate::Lives,
                    _ => Fate::Resets,
                }
            }
            // SAFETY: the caller's.
            (op::RW, State::Established) => unsafe { self.forward(data) },
            (op::SHUTDOWN, State::Established) => {
                self.guest_shut |= header.flags & SHUTDOWN_BOTH;
                if self.guest_shut & SHUTDOWN_RECEIVE != 0 {
                    let _ = self.socket.shutdown(Shutdown::Read);
                }
                self.flush()
            }
            (op::CREDIT_UPDATE, _) => Fate::Lives,
            (op::CREDIT_REQUEST, State::Established) => {
                self.pend(op::CREDIT_UPDATE);
                Fate::Lives
            }
            _ => Fate::Resets,
        }
    }

    /// Lets the socket take what it can; ends it when the guest has ended and all is delivered.
    pub(super) fn flush(&mut self) -> Fate {
        while !self.buffer.is_empty() {
            let (front, _) = self.buffer.as_slices();
            match send(&self.socket, front) {
                Ok(sent) => {
                    self.buffer.drain(..sent);
                    self.forwarded(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Lives,
                Err(_) => return Fate::Resets,
            }
        }
        if self.guest_shut == SHUTDOWN_BOTH {
            // The answer that a closing guest waits for (section 5.10.6.5).
            return Fate::Resets;
        }
        if self.guest_shut & SHUTDOWN_SEND != 0 && !self.ended {
            // Once, for it is itself an event that leads here.
            self.ended = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Fate::Lives
    }

    /// Whether there is something to tell the guest, as far as is known.
    pub(super) fn has_packet(&mut self) -> bool {
        let wanted = self.state == State::Established
            && self.readable
            && self.host_shut & SHUTDOWN_SEND == 0
            && self.guest_shut & SHUTDOWN_RECEIVE == 0;
        if wanted && self.room() == 0 && !self.asked {
            self.asked = true;
            self.pend(op::CREDIT_REQUEST);
        }
        self.pending != 0 || (wanted && self.room() > 0)
    }

    /// Asks the socket whether it really has something, before the guest's buffers are taken for
    /// it; how much data the guest may be sent next, or `None` if there is nothing to say.
    pub(super) fn look(&mut self) -> Option<usize> {
        if self.pending != 0 {
            return Some(0);
        }
        self.readable = is_ready(&self.socket);
        self.readable.then_some(self.room() as usize)
    }

    /// The next packet for the guest that has no data; `None` if there is none.
    pub(super) fn word(&mut self, guest_cid: u64) -> Option<Header> {
        let op = self.pending.trailing_zeros() as u16;
        self.pending &= self.pending.checked_sub(1)?;
        Some(Header { op, ..self.header(guest_cid) })
    }

    /// The next data for the guest, in `room`: a packet as long as all of it together, to be cut
    /// into as many as it takes. `None` if there was nothing after all.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    ///
    /// # Safety
    ///
    /// The room must be valid for writing.
    pub(super) unsafe fn data(
        &mut self,
        guest_cid: u64,
        room: &[libc::iovec],
    ) -> io::Result<Option<Header>> {
        // SAFETY: the caller's.
        let Some(length) = (unsafe { self.read(room)? }) else { return Ok(None) };
        if length == 0 {
            let gone = is_gone(&self.socket);
            self.host_shut = if gone { SHUTDOWN_BOTH } else { SHUTDOWN_SEND };
            let header = self.header(guest_cid);
            return Ok(Some(Header { op: op::SHUTDOWN, flags: self.host_shut, ..header }));
        }
        self.sent = self.sent.wrapping_add(length);
        Ok(Some(Header { op: op::RW, length, ..self.header(guest_cid) }))
    }

    fn header(&mut self, guest_cid: u64) -> Header {
        // Every packet tells of it.
        self.told = self.forwarded;
        self.pending &= !(1 << op::CREDIT_UPDATE);
        Header {
            source_cid: HOST_CID,
            target_cid: guest_cid,
            source_port: self.host_port,
            target_port: self.guest_port,
            kind: STREAM,
            buffer_bytes: BUFFER_BYTES,
            forwarded: self.forwarded,
            ..Header::default()
        }
    }

    /// Whether the host's side is over and only the guest keeps it.
    pub(super) fn is_closing(&self) -> bool {
        self.host_shut == SHUTDOWN_BOTH
    }

    /// # Safety
    ///
    /// The room must be valid for writing.
    unsafe fn read(&mut self, room: &[libc::iovec]) -> io::Result<Option<u32>> {
        loop {
            // SAFETY: the caller's.
            match unsafe { receive_parts(&self.socket, room) } {
                Ok(Received { bytes, is_cut }) => {
                    // Less than there was room for: that was all, but for the end.
                    let is_all = (bytes as u64) < total(room) && !is_cut && !self.hung_up;
                    self.readable &= !is_all;
                    // At most the guest's credit, which has 32 bits.
                    return Ok(Some(bytes as u32));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes data on; what the socket does not take now waits, as far as the guest has credit.
    ///
    /// # Safety
    ///
    /// The data must be valid for reading.
    unsafe fn forward(&mut self, data: &mut [libc::iovec]) -> Fate {
        let credit = BUFFER_BYTES as usize - self.buffer.len();
        let mut length = total(data) as usize;
        if length > credit || self.guest_shut & SHUTDOWN_SEND != 0 {
            return Fate::Resets;
        }
        while self.buffer.is_empty() && length > 0 {
            // SAFETY: the caller's.
            match unsafe { send_parts(&self.socket, data) } {
                Ok(sent) => {
                    advance(data, sent);
                    length -= sent;
                    self.forwarded(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Fate::Resets,
            }
        }
        if length > 0 {
            // The socket is full: it says so when it is no longer.
            let mut rest = vec![0; length];
            gather(data, 0, &mut rest);
            self.buffer.extend(rest);
            return Fate::Lives;
        }
        self.flush()
    }

    fn forwarded(&mut self, bytes: usize) {
        self.forwarded = self.forwarded.wrapping_add(bytes as u32);
        // Before the guest runs out, but not for every packet.
        if self.forwarded.wrapping_sub(self.told) >= BUFFER_BYTES / 2 {
            self.pend(op::CREDIT_UPDATE);
        }
    }

    fn credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer_bytes;
        self.guest_forwarded = header.forwarded;
        if self.room() > 0 {
            self.asked = false;
        }
    }

    /// Bytes that the guest has room for. One that lies about it harms itself.
    fn room(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    fn pend(&mut self, op: u16) {
        self.pending |= 1 << op;
    }
}

fn parse_greeting(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    // Digits alone: the parser would also take a sign. The last port is no port (vsock(7)).
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&port| plain && port != u32::MAX)
}
