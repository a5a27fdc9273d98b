//! The network device (section 5.1): an Ethernet port joined to a tap device of the host.
//!
//! Packets move straight between guest memory and the tap, one system call each, headers and all:
//! the tap speaks the header of section 5.1.6 itself, so checksums and segmentation are left to
//! whoever is last to need them.
//!
//! A small packet of the guest's is sent by the vCPU that offers it, which waits: a tap takes a
//! packet, it does not carry it anywhere, and what answers is on its way the sooner. A large one is
//! part of a stream: it is left to the device thread, and more may join it meanwhile without
//! another notification. The host's are put into the guest by the device thread. It watches the tap
//! only while the guest has buffers.
//!
//! Or the host's kernel does all that: see `vhost`.
//!
//! With mergeable buffers a packet may need several, and how long it is only reading tells. So it
//! is read into as many as the longest one needs: see `room`. Where the guest has too few, memory
//! of ours is behind them. If that is touched, the whole packet is kept there until the guest has
//! room; else nothing was copied.

mod room;
mod tap;
mod vhost;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::chain::{Buffers, gather, scatter, total};
use super::{Broken, Device, Queues, Virtqueue};
use crate::NetConfig;
use room::Room;
use tap::Tap;
pub use tap::{NetError, open_tap};
pub use vhost::has_vhost_net;
pub(crate) use vhost::{VHOST_REQUESTS, VhostNet};

/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
/// `struct virtio_net_hdr` of section 5.1.6, and where it counts the buffers of a packet.
const HEADER_BYTES: usize = 12;
const HEADER_BUFFERS: usize = 10;
/// No packet is longer: header, Ethernet with a VLAN's tag, and 64 KiB of IP.
const PACKET_BYTES: usize = HEADER_BYTES + 18 + 65536;
/// The most buffers one reading is given: the kernel takes 1024.
const PARTS_MAX: usize = 512;
/// A packet of the guest's with more than that is the device thread's.
const SMALL_BYTES: u64 = 4096;
/// `struct virtio_net_config` up to and with `status`.
const CONFIG_BYTES: usize = 8;
const CONFIG_STATUS: usize = 6;

/// What a driver that says so takes from the host unfinished, as it and as the tap call it.
const OFFLOADS: [(u32, u32); 4] = [
    (net::VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (net::VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (net::VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (net::VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
];
/// What else is offered. A tap with the header takes any packet unfinished.
const FEATURES: [u32; 8] = [
    // A packet of many parts then takes one descriptor of the queue, which holds the more of them.
    VIRTIO_RING_F_INDIRECT_DESC,
    net::VIRTIO_NET_F_CSUM,
    net::VIRTIO_NET_F_HOST_TSO4,
    net::VIRTIO_NET_F_HOST_TSO6,
    net::VIRTIO_NET_F_HOST_ECN,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_MAC,
    net::VIRTIO_NET_F_STATUS,
];

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Net {
    config: [u8; CONFIG_BYTES],
    tap: Tap,
    /// The source: readable when the tap is and may be heard.
    epoll: Epoll,
    /// Wakes the device thread for packets that are left to it.
    again: EventFd,
    /// It has been woken, and has not come yet.
    woken: bool,
    heard: bool,
    /// The tap has failed: the cable is out.
    gone: bool,
    mergeable: bool,
    /// The packet that is sent.
    buffers: Buffers,
    room: Room,
    /// The host's last packet was a large one.
    streams: bool,
    /// A packet that found too little room, and its length.
    spare: Box<[u8]>,
    kept: Option<usize>,
}

/// The configuration space: the station's address, and that the cable is in.
fn config_of(mac: [u8; 6]) -> Result<[u8; CONFIG_BYTES], NetError> {
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(NetError::Mac { mac });
    }
    let mut config = [0; CONFIG_BYTES];
    config[..mac.len()].copy_from_slice(&mac);
    config[CONFIG_STATUS..].copy_from_slice(&(net::VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
    Ok(config)
}

/// What is offered, whoever moves the packets.
fn features() -> u64 {
    let guest = OFFLOADS.iter().map(|(feature, _)| feature);
    FEATURES.iter().chain(guest).fold(0, |bits, feature| bits | 1 << feature)
}

/// What the tap may leave unfinished, to a driver with these features.
fn offloads_of(features: u64) -> u32 {
    let wanted = OFFLOADS.iter().filter(|(feature, _)| features & 1 << feature != 0);
    let offloads = wanted.fold(0, |bits, (_, offload)| bits | offload);
    // Each stands on the one before (section 5.1.3.1), which the tap insists on.
    if offloads & libc::TUN_F_CSUM == 0 {
        0
    } else if offloads & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
        libc::TUN_F_CSUM
    } else {
        offloads
    }
}

/// What came of a look at the tap.
enum Look {
    Packet,
    NoPacket,
    NoRoom,
}

impl Net {
    /// Joins the configuration's tap.
    ///
    /// # Errors
    ///
    /// An address or tap that cannot be used.
    pub(crate) fn open(config: &NetConfig) -> Result<Net, NetError> {
        let space = config_of(config.mac)?;
        Net::new(Tap::open(config)?, space)
    }

    /// Over something that behaves like a tap.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(tap: std::os::fd::OwnedFd, mac: [u8; 6]) -> Result<Net, NetError> {
        Net::new(Tap::from_fd(tap), config_of(mac)?)
    }

    fn new(tap: Tap, config: [u8; CONFIG_BYTES]) -> Result<Net, NetError> {
        let watch = |error| NetError::Watch { error };
        let epoll = Epoll::new().map_err(watch)?;
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(watch)?;
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, again.as_raw_fd(), event).map_err(watch)?;
        Ok(Net {
            config,
            tap,
            epoll,
            again,
            woken: false,
            heard: false,
            gone: false,
            mergeable: false,
            buffers: Buffers::new(QUEUE_SIZE),
            room: Room::new(),
            streams: false,
            spare: vec![0; PACKET_BYTES].into(),
            kept: None,
        })
    }

    /// Starts or stops watching the tap. Should the kernel refuse, for want of memory, the driver's
    /// next notification tries again.
    fn hear(&mut self, wanted: bool) {
        let wanted = wanted && !self.gone;
        if wanted == self.heard {
            return;
        }
        let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
        let event = EpollEvent::new(EventSet::IN, 0);
        if self.epoll.ctl(operation, self.tap.as_raw_fd(), event).is_ok() {
            self.heard = wanted;
        }
    }

    /// Gives the host's packets to the guest, at most a queue's worth.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(RX) else {
            self.room.forget();
            self.hear(false);
            return Ok(());
        };
        let mut has_room = true;
        for _ in 0..queue.size() {
            let look = match self.kept {
                Some(_) => Look::NoRoom,
                None => self.read(queue, memory)?,
            };
            has_room = match look {
                Look::Packet => true,
                Look::NoPacket => break,
                // The driver may have made some available before it could know that it is to say
                // so.
                Look::NoRoom => self.give_kept(queue, memory)? || queue.listen(memory)?,
            };
            if !has_room {
                break;
            }
        }
        self.hear(has_room);
        if self.gone && self.config[CONFIG_STATUS..] != [0, 0] {
            self.config[CONFIG_STATUS..].fill(0);
            queues.config_changed = true;
        }
        Ok(())
    }

    /// Reads one packet.
    fn read(&mut self, queue: &mut Virtqueue, memory: &GuestMemoryMmap) -> Result<Look, Broken> {
        let room = self.room.fill(queue, memory, self.mergeable)?;
        if room == 0 {
            return Ok(Look::NoRoom);
        }
        let spare = self.spare.get_mut(room..).unwrap_or_default();
        let tap = &self.tap;
        // SAFETY: the buffers are guest memory, which is borrowed, and `spare`.
        let got = self.room.buffers().with_spare(spare, |buffers| unsafe { tap.receive(buffers) });
        match got {
            Ok(length) if length <= room => {
                self.streams = length as u64 > SMALL_BYTES;
                self.room.give(queue, memory, length)?;
                Ok(Look::Packet)
            }
            Ok(length) => {
                // Whatever the guest has made of its buffers by now is its own affair.
                gather(self.room.buffers().writable(), 0, &mut self.spare[..room]);
                // Without mergeable buffers one had to suffice (section 5.1.6.3.1): it is lost.
                self.kept = self.mergeable.then_some(length);
                Ok(if self.mergeable { Look::NoRoom } else { Look::Packet })
            }
            Err(error) => {
                let waits =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                self.gone |= !waits;
                Ok(Look::NoPacket)
            }
        }
    }

    /// Gives the packet that is kept, if there is one; false if the guest has too little room.
    fn give_kept(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, Broken> {
        let Some(length) = self.kept else { return Ok(false) };
        if self.room.fill(queue, memory, self.mergeable)? >= length {
            scatter(self.room.buffers().writable(), 0, &self.spare[..length]);
            self.kept = None;
            self.room.give(queue, memory, length)?;
            return Ok(true);
        }
        // Where even all buffers are too few, it never fits.
        if self.room.buffers().writable().len() >= queue.size().into() {
            self.kept = None;
        }
        Ok(self.kept.is_none())
    }

    /// Has the device thread come.
    fn wake(&mut self) {
        self.woken = true;
        // It fails only if 2^64 - 2 are unread: then it is awake.
        let _ = self.again.write(1);
    }

    /// Sends the guest's packets of at most `limit` bytes, and at most a queue's worth.
    fn transmit(&mut self, queues: &mut Queues<'_>, limit: u64) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(TX) else { return Ok(()) };
        for _ in 0..queue.size() {
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            if total(self.buffers.readable()) > limit {
                queue.unpop();
                self.wake();
                return Ok(());
            }
            // SAFETY: the buffers are guest memory, which is borrowed.
            unsafe { self.tap.send(self.buffers.readable()) };
            queue.push(memory, head, 0)?;
        }
        if queue.listen(memory)? {
            self.wake();
        }
        Ok(())
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        features()
    }

    fn negotiated(&mut self, features: u64) {
        self.hear(false);
        self.kept = None;
        self.streams = false;
        self.room.forget();
        self.mergeable = features & 1 << net::VIRTIO_NET_F_MRG_RXBUF != 0;
        if features == 0 {
            self.woken = false;
            let _ = self.again.read();
            return;
        }
        self.tap.set_offloads(offloads_of(features));
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match index {
            RX => self.receive(queues),
            // Else it is the device thread's already.
            TX if !self.woken => self.transmit(queues, SMALL_BYTES),
            _ => Ok(()),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the epoll instance is open as long as `self`, which the descriptor borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) })
    }

    /// A packet that was kept stays with the guest the snapshot was taken of: the copy is another
    /// station, and networks lose packets. The driver will not say again that it has buffers.
    fn restored(&mut self) {
        self.hear(true);
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if std::mem::take(&mut self.woken) {
            let _ = self.again.read();
            self.transmit(queues, u64::MAX)?;
        }
        self.receive(queues)
    }

    fn gathers(&self) -> bool {
        self.streams
    }

    fn settle(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match queues.get(RX) {
            Some(queue) => self.room.put_back(queue),
            None => self.room.forget(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
