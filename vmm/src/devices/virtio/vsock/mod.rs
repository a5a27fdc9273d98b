//! The socket device (section 5.10): stream sockets between the guest and Unix sockets of the host.
//!
//! A guest that connects to the host's port P reaches the Unix socket `PATH_P`. A program of the
//! host that connects to `PATH` and sends `CONNECT P\n` reaches the guest's port P; it is answered
//! `OK HOSTPORT\n` when the guest has accepted, or by the end of the stream.
//!
//! All work is the device thread's. Sockets are watched by edges: each event is told once and kept
//! as a flag, so a socket that the guest has no room for wakes nobody. What is kept for the guest is
//! bounded: per connection a buffer of the credit that it was given, a number of connections, and a
//! number of resets for packets of no connection. Where there are that many, the device leaves the
//! driver's packets in their queue until it has taken the resets.

mod connection;
mod header;
mod host;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::chain::{Buffers, gather, total};
use super::{Broken, Device, Notify, Queues};
use crate::VsockConfig;
use connection::{Connection, Fate, State};
use header::{HEADER_BYTES, HOST_CID, Header, STREAM, op};
use host::Host;
pub use host::VsockError;

/// The device's kind (section 5).
const ID: u32 = 19;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` as a whole `struct virtio_vsock_event`.
const TRANSPORT_RESET: [u8; 4] = [0; 4];
/// Connections at one time.
const CONNECTIONS_MAX: usize = 256;
/// Resets that wait for the guest at one time.
const RESETS_MAX: usize = 256;
/// The most data of one packet, either way.
const DATA_BYTES: usize = connection::BUFFER_BYTES as usize;
/// The first port that stands for a program of the host.
const HOST_PORT_FIRST: u32 = 1 << 30;
/// How many events are taken from one wait.
const BATCH: usize = 64;
/// Tokens that are no connection's: nothing may use the host's last port.
const LISTENER: u64 = u64::MAX;
const AGAIN: u64 = u64::MAX - 1;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Vsock {
    guest_cid: u64,
    config: [u8; 8],
    host: Host,
    epoll: Epoll,
    /// Wakes the device thread for work that is left.
    again: EventFd,
    /// A driver is ready, so that the host's programs are let in.
    live: bool,
    /// Programs may be waiting to be let in.
    waiting: bool,
    /// The driver is to hear that all connections are gone.
    transport_reset: bool,
    /// By the host's port and the guest's, see `key`.
    connections: BTreeMap<u64, Connection>,
    /// Whose turn it is to send to the guest: the first connection from there on.
    turn: u64,
    resets: VecDeque<Header>,
    host_port: u32,
    buffers: Buffers,
    data: Box<[u8]>,
}

fn key(host_port: u32, guest_port: u32) -> u64 {
    u64::from(host_port) << 32 | u64::from(guest_port)
}

impl Vsock {
    /// Listens on the host's side.
    ///
    /// # Errors
    ///
    /// A CID that cannot be, or a path that cannot be listened on.
    pub(crate) fn open(config: &VsockConfig) -> Result<Vsock, VsockError> {
        let guest_cid = config.guest_cid;
        check_cid(guest_cid)?;
        let watch = |error: io::Error| VsockError::Watch { error };
        let epoll = Epoll::new().map_err(watch)?;
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(watch)?;
        let host = Host::listen(&config.path)?;
        add(&epoll, again.as_raw_fd(), AGAIN).map_err(watch)?;
        Ok(Vsock {
            guest_cid: guest_cid.into(),
            config: u64::from(guest_cid).to_le_bytes(),
            host,
            epoll,
            again,
            live: false,
            waiting: false,
            transport_reset: false,
            connections: BTreeMap::new(),
            turn: 0,
            resets: VecDeque::new(),
            host_port: HOST_PORT_FIRST,
            buffers: Buffers::new(QUEUE_SIZE),
            data: vec![0; DATA_BYTES].into(),
        })
    }

    fn wake(&self) {
        // It fails only if 2^64 - 2 are unread: then it is awake.
        let _ = self.again.write(1);
    }

    /// Takes what epoll has to tell. What does not fit is told next time.
    fn take_events(&mut self) {
        let mut events = [EpollEvent::default(); BATCH];
        // It fails only if a signal comes; the descriptor stays readable then.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.waiting = true,
                AGAIN => {
                    let _ = self.again.read();
                }
                key => {
                    let Some(connection) = self.connections.get_mut(&key) else { continue };
                    connection.readable |= event.event_set() != EventSet::OUT;
                    if connection.state == State::Greeting {
                        self.greet(key);
                    } else if connection.flush() == Fate::Resets {
                        self.end(key);
                    }
                }
            }
        }
    }

    /// Lets the host's programs in while there is room.
    fn accept(&mut self) {
        while self.waiting && self.make_room() {
            let Ok(socket) = self.host.accept() else {
                // Nobody is waiting; or there are no descriptors: the next to come is tried again.
                self.waiting = false;
                return;
            };
            while self.host_ports_used(self.host_port) {
                self.next_host_port();
            }
            let port = self.host_port;
            self.next_host_port();
            self.insert(Connection::from_host(socket, port));
        }
    }

    fn host_ports_used(&self, port: u32) -> bool {
        self.connections.range(key(port, 0)..=key(port, u32::MAX)).next().is_some()
    }

    fn next_host_port(&mut self) {
        self.host_port = HOST_PORT_FIRST + (self.host_port + 1) % HOST_PORT_FIRST;
    }

    /// Whether there is room for one more connection, if need be in the place of one that only
    /// the guest still keeps.
    fn make_room(&mut self) -> bool {
        if self.connections.len() < CONNECTIONS_MAX {
            return true;
        }
        let closing = self.connections.iter().find(|(_, connection)| connection.is_closing());
        let Some((&key, _)) = closing else { return false };
        self.end(key);
        true
    }

    fn insert(&mut self, connection: Connection) -> bool {
        let key = key(connection.host_port, connection.guest_port);
        let watched = add(&self.epoll, connection.socket.as_raw_fd(), key).is_ok();
        if watched {
            self.connections.insert(key, connection);
        }
        watched
    }

    /// Reads what a program of the host wants; then the connection gets its real place.
    fn greet(&mut self, from: u64) {
        let Some(connection) = self.connections.get_mut(&from) else { return };
        let greeted = connection.greet();
        if let Ok(None) = greeted {
            return;
        }
        let Some(connection) = self.connections.remove(&from) else { return };
        if greeted.is_ok() {
            let fd = connection.socket.as_raw_fd();
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
            self.insert(connection);
        }
    }

    /// Ends a connection; a guest that knows of it is told.
    fn end(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else { return };
        if connection.state != State::Greeting {
            self.resets.push_back(Header {
                source_cid: HOST_CID,
                target_cid: self.guest_cid,
                source_port: connection.host_port,
                target_port: connection.guest_port,
                kind: STREAM,
                op: op::RST,
                ..Header::default()
            });
        }
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(TX) else { return Ok(()) };
        for _ in 0..queue.size() {
            if self.resets.len() >= RESETS_MAX {
                return Ok(());
            }
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            self.packet();
            queue.push(memory, head, 0)?;
        }
        if queue.listen(memory)? {
            self.wake();
        }
        Ok(())
    }

    /// Takes the packet in `self.buffers`. One without a header, or not from this guest to the
    /// host, has nobody to be answered.
    fn packet(&mut self) {
        let Ok(bytes) = self.buffers.take_front::<HEADER_BYTES>() else { return };
        let header = Header::parse(&bytes);
        if header.source_cid != self.guest_cid || header.target_cid != HOST_CID {
            return;
        }
        let key = key(header.target_port, header.source_port);
        let odd = header.kind != STREAM
            || header.target_port == u32::MAX
            || header.source_port == u32::MAX
            || u64::from(header.length) > total(self.buffers.readable())
            || header.length as usize > DATA_BYTES;
        if odd {
            if header.kind == STREAM && self.connections.contains_key(&key) {
                self.end(key);
            } else {
                self.resets.extend(header.reset());
            }
            return;
        }
        match header.op {
            op::RST => {
                self.connections.remove(&key);
            }
            op::REQUEST if !self.connections.contains_key(&key) => self.request(&header),
            _ => {
                let Some(connection) = self.connections.get_mut(&key) else {
                    self.resets.extend(header.reset());
                    return;
                };
                let data = &mut self.data[..header.length as usize];
                gather(self.buffers.readable(), 0, data);
                if connection.take(&header, data) == Fate::Resets {
                    self.end(key);
                }
            }
        }
    }

    fn request(&mut self, header: &Header) {
        let made = self.make_room()
            && self
                .host
                .connect(header.target_port)
                .is_ok_and(|socket| self.insert(Connection::from_guest(socket, header)));
        if !made {
            self.resets.extend(header.reset());
        }
    }

    /// Fills the guest's buffers as long as there are some and something to put there.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(RX) else { return Ok(()) };
        for _ in 0..queue.size() {
            let next = if self.resets.is_empty() { self.next() } else { None };
            if self.resets.is_empty() && next.is_none() {
                return Ok(());
            }
            let mut popped = queue.pop(memory, &mut self.buffers)?;
            if popped.is_none() && queue.listen(memory)? {
                popped = queue.pop(memory, &mut self.buffers)?;
            }
            let Some(head) = popped else { return Ok(()) };
            let room = total(self.buffers.writable());
            if room <= HEADER_BYTES as u64 {
                // Too small for any data.
                queue.push(memory, head, 0)?;
                continue;
            }
            let room = (room - HEADER_BYTES as u64).min(DATA_BYTES as u64) as usize;
            let header = match next {
                None => self.resets.pop_front(),
                Some(key) => self.data_for(key, room),
            };
            let Some(header) = header else {
                queue.unpop();
                continue;
            };
            header.put(self.buffers.writable(), &self.data[..header.length as usize]);
            queue.push(memory, head, HEADER_BYTES as u32 + header.length)?;
        }
        self.wake();
        Ok(())
    }

    /// The connection whose turn it is among those with something for the guest.
    fn next(&mut self) -> Option<u64> {
        let turn = self.turn;
        let mut found = None;
        for (&key, connection) in self.connections.range_mut(turn..) {
            if connection.has_packet() {
                found = Some(key);
                break;
            }
        }
        if found.is_none() {
            for (&key, connection) in self.connections.range_mut(..turn) {
                if connection.has_packet() {
                    found = Some(key);
                    break;
                }
            }
        }
        self.turn = found.map_or(0, |key| key + 1);
        found
    }

    fn data_for(&mut self, key: u64, room: usize) -> Option<Header> {
        let connection = self.connections.get_mut(&key)?;
        match connection.packet(self.guest_cid, &mut self.data[..room]) {
            Ok(header) => header,
            Err(_) => {
                self.end(key);
                None
            }
        }
    }

    /// Tells the driver that the connections are gone, when it has room for that.
    fn tell(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        if !self.transport_reset {
            return Ok(());
        }
        let Some(queue) = queues.get(EVENT) else { return Ok(()) };
        let mut popped = queue.pop(memory, &mut self.buffers)?;
        if popped.is_none() && queue.listen(memory)? {
            popped = queue.pop(memory, &mut self.buffers)?;
        }
        let Some(head) = popped else { return Ok(()) };
        self.transport_reset = !super::chain::scatter(self.buffers.writable(), 0, &TRANSPORT_RESET);
        let written = if self.transport_reset { 0 } else { TRANSPORT_RESET.len() as u32 };
        queue.push(memory, head, written)
    }

    fn work(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.tell(queues)?;
        self.transmit(queues)?;
        let held = self.resets.len() >= RESETS_MAX;
        self.accept();
        self.receive(queues)?;
        if held && self.resets.len() < RESETS_MAX {
            self.wake();
        }
        Ok(())
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn features(&self) -> u64 {
        // Streams are there without a feature (section 5.10.3).
        0
    }

    /// The guest may have a new CID here, and every connection is gone: the driver is told to read
    /// the one and forget the other (section 5.10.6.6).
    fn restored(&mut self) {
        self.transport_reset = true;
    }

    fn negotiated(&mut self, features: u64) {
        if features == 0 && self.live {
            self.live = false;
            self.waiting = false;
            self.connections.clear();
            self.resets.clear();
            let fd = self.host.as_raw_fd();
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
            // Nobody would read it now.
            let _ = self.again.read();
        }
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, _queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if self.live { self.work(queues) } else { Ok(()) }
    }

    fn notify(&self) -> Notify {
        Notify::Thread
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is open as long as `self`, which is borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) })
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if !self.live {
            // On a vCPU's thread: what waits there is then told to the device thread.
            self.live = add(&self.epoll, self.host.as_raw_fd(), LISTENER).is_ok();
            return Ok(());
        }
        self.take_events();
        self.work(queues)
    }
}

fn check_cid(guest_cid: u32) -> Result<(), VsockError> {
    // 0 to 2 and the last are reserved (section 5.10.4).
    if (3..u32::MAX).contains(&guest_cid) { Ok(()) } else { Err(VsockError::Cid { guest_cid }) }
}

fn add(epoll: &Epoll, fd: RawFd, token: u64) -> io::Result<()> {
    let edges = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(edges, token))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
