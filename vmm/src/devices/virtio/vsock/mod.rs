//! The socket device (section 5.10): stream sockets between the guest and Unix sockets of the host.
//!
//! A guest that connects to the host's port P reaches the socket that was given for that port, once,
//! or else the Unix socket `PATH_P`. A program of the host that connects to `PATH` and sends
//! `CONNECT P\n` reaches the guest's port P; it is answered `OK HOSTPORT\n` when the guest has
//! accepted, or by the end of the stream. Without a path only the sockets that were given are there.
//!
//! All work is the device thread's. Sockets are watched by edges: each event is told once and kept
//! as a flag, so a socket that the guest has no room for wakes nobody. What is kept for the guest is
//! bounded: per connection a buffer of the credit that it was given, a number of connections, and a
//! number of resets for packets of no connection. Where there are that many, the device leaves the
//! driver's packets in their queue until it has taken the resets.
//!
//! Data is copied once, by the kernel: from guest memory to the socket by sendmsg(2), and the other
//! way by recvmsg(2), into as many of the guest's buffers at once as there are data and credit for.

mod batch;
mod connection;
mod header;
mod host;
mod switch;

use std::os::fd::BorrowedFd;

use super::chain::{Buffers, cut, scatter, total};
use super::{Broken, Device, Notify, Queues};
use crate::VsockConfig;
use batch::Batch;
use header::{HEADER_BYTES, HOST_CID, Header, STREAM};
pub use host::{Streams, VsockError};
use switch::{RESETS_MAX, Switch};

/// The device's kind (section 5).
const ID: u32 = 19;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` as a whole `struct virtio_vsock_event`.
const TRANSPORT_RESET: [u8; 4] = [0; 4];
/// The most data of one packet of the guest's, as of Linux's (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`), and
/// the most that a connection sends before others have their turn.
const DATA_BYTES: usize = 64 << 10;
/// The most buffers that one reading is given: the kernel takes 1024.
const PARTS_MAX: usize = 512;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Vsock {
    switch: Switch,
    config: [u8; 8],
    /// A driver is ready, so that the host's programs are let in.
    live: bool,
    /// The driver is to hear that all connections are gone.
    transport_reset: bool,
    buffers: Buffers,
    batch: Batch,
}

impl Vsock {
    /// Listens on the host's side.
    ///
    /// # Errors
    ///
    /// A CID that cannot be, a path that cannot be listened on, or a socket that cannot be used.
    pub(crate) fn open(config: &VsockConfig, streams: Streams) -> Result<Vsock, VsockError> {
        let switch = Switch::open(config, streams)?;
        Ok(Vsock {
            config: switch.guest_cid().to_le_bytes(),
            switch,
            live: false,
            transport_reset: false,
            buffers: Buffers::new(QUEUE_SIZE),
            batch: Batch::default(),
        })
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(TX) else { return Ok(()) };
        for _ in 0..queue.size() {
            if self.switch.resets.len() >= RESETS_MAX {
                return Ok(());
            }
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            self.packet();
            queue.push(memory, head, 0)?;
        }
        if queue.listen(memory)? {
            self.switch.wake();
        }
        Ok(())
    }

    /// Takes the packet in `self.buffers`. One without a header, or not from this guest to the
    /// host, has nobody to be answered.
    fn packet(&mut self) {
        let Ok(bytes) = self.buffers.take_front::<HEADER_BYTES>() else { return };
        let header = Header::parse(&bytes);
        if header.source_cid != self.switch.guest_cid() || header.target_cid != HOST_CID {
            return;
        }
        let odd = header.kind != STREAM
            || header.target_port == u32::MAX
            || header.source_port == u32::MAX
            || u64::from(header.length) > total(self.buffers.readable())
            || header.length as usize > DATA_BYTES;
        if odd {
            self.switch.refuse(&header);
            return;
        }
        let data = self.buffers.readable_mut();
        cut(data, header.length as usize);
        // SAFETY: the buffers are guest memory, which the caller borrows.
        unsafe { self.switch.take(&header, data) };
    }

    /// Fills the guest's buffers as long as there are some and something to put there.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(RX) else { return Ok(()) };
        for _ in 0..queue.size() {
            let next = if self.switch.resets.is_empty() { self.switch.next() } else { None };
            if self.switch.resets.is_empty() && next.is_none() {
                return Ok(());
            }
            let Some(wanted) = next.map_or(Some(0), |key| self.switch.look(key)) else { continue };
            let wanted = wanted.min(DATA_BYTES);
            if !self.batch.collect(queue, memory, &mut self.buffers, wanted)? {
                return Ok(());
            }
            let word = match next {
                None => self.switch.resets.pop_front(),
                Some(key) => self.switch.word(key),
            };
            let header = match (word, next) {
                (None, Some(key)) => {
                    // SAFETY: the room is guest memory, which is borrowed.
                    unsafe { self.switch.data(key, self.batch.room()) }
                }
                (word, _) => word,
            };
            self.batch.put(queue, memory, &self.buffers, header)?;
        }
        self.switch.wake();
        Ok(())
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
        self.transport_reset = !scatter(self.buffers.writable(), 0, &TRANSPORT_RESET);
        let written = if self.transport_reset { 0 } else { TRANSPORT_RESET.len() as u32 };
        queue.push(memory, head, written)
    }

    fn work(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.tell(queues)?;
        self.transmit(queues)?;
        let held = self.switch.resets.len() >= RESETS_MAX;
        self.switch.accept();
        self.receive(queues)?;
        if held && self.switch.resets.len() < RESETS_MAX {
            self.switch.wake();
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
            self.switch.stop();
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
        Some(self.switch.source())
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if !self.live {
            // On a vCPU's thread: what waits there is then told to the device thread.
            self.live = self.switch.begin();
            // Before a restored guest runs: a connection that it makes then is not meant.
            return self.tell(queues);
        }
        self.switch.take_events();
        self.work(queues)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
