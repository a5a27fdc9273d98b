//! All connections, and the programs of the host that they lead to: everything of the device but
//! its virtqueues.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::connection::{Connection, Fate, State};
use super::header::{HOST_CID, Header, STREAM, op};
use super::host::{Host, Streams, VsockError};
use crate::VsockConfig;

/// Connections at one time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Resets that wait for the guest at one time.
pub(super) const RESETS_MAX: usize = 256;
/// The first port that stands for a program of the host.
const HOST_PORT_FIRST: u32 = 1 << 30;
/// How many events are taken from one wait.
const BATCH: usize = 64;
/// Tokens that are no connection's: nothing may use the host's last port.
const LISTENER: u64 = u64::MAX;
const AGAIN: u64 = u64::MAX - 1;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Switch {
    guest_cid: u32,
    host: Host,
    epoll: Epoll,
    /// Wakes the device thread for work that is left.
    again: EventFd,
    /// Programs may be waiting to be let in.
    waiting: bool,
    /// By the host's port and the guest's, see `key`.
    pub(super) connections: BTreeMap<u64, Connection>,
    /// Whose turn it is to send to the guest: the first connection from there on.
    turn: u64,
    pub(super) resets: VecDeque<Header>,
    host_port: u32,
}

/// A connection's place.
pub(super) fn key(host_port: u32, guest_port: u32) -> u64 {
    u64::from(host_port) << 32 | u64::from(guest_port)
}

impl Switch {
    /// Listens on the host's side.
    pub(super) fn open(config: &VsockConfig, streams: Streams) -> Result<Switch, VsockError> {
        check_cid(config.guest_cid)?;
        let watch = |error: io::Error| VsockError::Watch { error };
        let epoll = Epoll::new().map_err(watch)?;
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(watch)?;
        let host = Host::new(config.path.as_deref(), streams)?;
        add(&epoll, again.as_raw_fd(), AGAIN).map_err(watch)?;
        Ok(Switch {
            guest_cid: config.guest_cid,
            host,
            epoll,
            again,
            waiting: false,
            connections: BTreeMap::new(),
            turn: 0,
            resets: VecDeque::new(),
            host_port: HOST_PORT_FIRST,
        })
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid.into()
    }

    /// Lets the host's programs come from now on; false if they cannot be watched.
    pub(super) fn begin(&mut self) -> bool {
        self.host.fd().is_none_or(|fd| add(&self.epoll, fd, LISTENER).is_ok())
    }

    /// Ends all connections and lets nobody come.
    pub(super) fn stop(&mut self) {
        self.waiting = false;
        self.connections.clear();
        self.resets.clear();
        if let Some(fd) = self.host.fd() {
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        // Nobody would read it now.
        let _ = self.again.read();
    }

    /// Has the device thread come again.
    pub(super) fn wake(&self) {
        // It fails only if 2^64 - 2 are unread: then it is awake.
        let _ = self.again.write(1);
    }

    /// What becomes readable when there is work.
    pub(super) fn source(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self`, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }

    /// Takes what epoll has to tell. What does not fit is told next time.
    pub(super) fn take_events(&mut self) {
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
                    let events = event.event_set();
                    connection.readable |= events != EventSet::OUT;
                    let ends = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
                    connection.hung_up |= events.intersects(ends);
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
    pub(super) fn accept(&mut self) {
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
                target_cid: self.guest_cid(),
                source_port: connection.host_port,
                target_port: connection.guest_port,
                kind: STREAM,
                op: op::RST,
                ..Header::default()
            });
        }
    }

    /// Refuses a packet of the guest's that cannot be: that ends its connection.
    pub(super) fn refuse(&mut self, header: &Header) {
        let key = key(header.target_port, header.source_port);
        if header.kind == STREAM && self.connections.contains_key(&key) {
            self.end(key);
        } else {
            self.resets.extend(header.reset());
        }
    }

    /// Takes a packet of the guest's, whose data is `data`.
    ///
    /// # Safety
    ///
    /// The data must be valid for reading.
    pub(super) unsafe fn take(&mut self, header: &Header, data: &mut [libc::iovec]) {
        let key = key(header.target_port, header.source_port);
        match header.op {
            op::RST => {
                self.connections.remove(&key);
            }
            op::REQUEST if !self.connections.contains_key(&key) => self.request(header),
            _ => match self.connections.get_mut(&key) {
                None => self.resets.extend(header.reset()),
                Some(connection) => {
                    // SAFETY: the caller's.
                    if unsafe { connection.take(header, data) } == Fate::Resets {
                        self.end(key);
                    }
                }
            },
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

    /// The connection whose turn it is among those with something for the guest.
    pub(super) fn next(&mut self) -> Option<u64> {
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

    /// The next packet without data of one connection, see [`Connection::word`].
    pub(super) fn word(&mut self, key: u64) -> Option<Header> {
        let guest_cid = self.guest_cid();
        self.connections.get_mut(&key)?.word(guest_cid)
    }

    /// How much data a connection may have for the guest, see [`Connection::look`].
    pub(super) fn look(&mut self, key: u64) -> Option<usize> {
        self.connections.get_mut(&key).and_then(Connection::look)
    }

    /// The next data of one connection, see [`Connection::data`].
    ///
    /// # Safety
    ///
    /// The room must be valid for writing.
    pub(super) unsafe fn data(&mut self, key: u64, room: &[libc::iovec]) -> Option<Header> {
        let guest_cid = self.guest_cid();
        let connection = self.connections.get_mut(&key)?;
        // SAFETY: the caller's.
        match unsafe { connection.data(guest_cid, room) } {
            Ok(header) => header,
            Err(_) => {
                self.end(key);
                None
            }
        }
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
