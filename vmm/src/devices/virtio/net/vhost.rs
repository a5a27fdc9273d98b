//! A network device whose packets the host's kernel moves by itself, between the guest's memory and
//! the tap (`vhost_net`; include/uapi/linux/vhost.h).
//!
//! The VMM negotiates and sets the queues up. From then on a driver's notification reaches the
//! kernel's worker by an ioeventfd, and the worker tells the device thread when the driver is to be
//! interrupted: an MMIO device has a register that says why, which somebody must set.
//!
//! The worker reads the rings as the guest left them, checked against the guest's memory by the
//! kernel. While it runs nobody else may use them, so it is stopped for a snapshot.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::descriptor::check;
use super::super::queue::Rings;
use super::super::{Broken, Device, Queues};
use super::tap::{NetError, Tap};
use super::{CONFIG_BYTES, QUEUE_SIZE, config_of, features, offloads_of};
use crate::NetConfig;

const PATH: &str = "/dev/vhost-net";
/// Receive and transmit.
const QUEUES: usize = 2;
/// What is left to the worker, of what the driver has chosen: the rest is between driver and tap.
const RINGS: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << net::VIRTIO_NET_F_MRG_RXBUF;
/// RAM has a part on each side of the hole.
const REGIONS_MAX: usize = 2;

/// Requests (`_IOC` of type 0xAF). Those of a driver's handshake are made by confined threads.
const GET_FEATURES: u32 = 0x8008_af00;
const SET_FEATURES: u32 = 0x4008_af00;
const SET_OWNER: u32 = 0xaf01;
const SET_MEM_TABLE: u32 = 0x4008_af03;
const SET_VRING_NUM: u32 = 0x4008_af10;
const SET_VRING_ADDR: u32 = 0x4028_af11;
const SET_VRING_BASE: u32 = 0x4008_af12;
const GET_VRING_BASE: u32 = 0xc008_af12;
const SET_VRING_KICK: u32 = 0x4008_af20;
const SET_VRING_CALL: u32 = 0x4008_af21;
const SET_VRING_ERR: u32 = 0x4008_af22;
const NET_SET_BACKEND: u32 = 0x4008_af30;

/// The requests that are made while the guest runs.
pub(crate) const VHOST_REQUESTS: [u32; 11] = [
    SET_OWNER,
    SET_VRING_KICK,
    SET_VRING_CALL,
    SET_VRING_ERR,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_VRING_NUM,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    GET_VRING_BASE,
    NET_SET_BACKEND,
];

/// `struct vhost_vring_state`, and `struct vhost_vring_file` with a descriptor for the number.
#[repr(C)]
struct OfQueue {
    index: u32,
    value: u32,
}

/// `struct vhost_vring_addr`: where the rings are in this process.
#[repr(C)]
struct Addresses {
    index: u32,
    flags: u32,
    table: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest: u64,
    bytes: u64,
    host: u64,
    padding: u64,
}

/// `struct vhost_memory`, as long as it can be here.
#[repr(C)]
struct Memory {
    count: u32,
    padding: u32,
    regions: [Region; REGIONS_MAX],
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct VhostNet {
    config: [u8; CONFIG_BYTES],
    tap: Tap,
    vhost: File,
    kicks: [EventFd; QUEUES],
    /// The worker has used something that the driver wants to hear of.
    call: EventFd,
    /// The worker has met something that cannot be.
    error: EventFd,
    /// The source: the two of them.
    epoll: Epoll,
    features: u64,
    /// It has a worker.
    owned: bool,
    running: bool,
}

/// Whether the host has such a device, and this user may use it.
pub fn has_vhost_net() -> bool {
    open().is_ok()
}

fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(PATH)
}

impl VhostNet {
    /// Joins the configuration's tap.
    ///
    /// # Errors
    ///
    /// An address or tap that cannot be used, and [`NetError::Vhost`].
    pub(crate) fn open(config: &NetConfig) -> Result<VhostNet, NetError> {
        let space = config_of(config.mac)?;
        let tap = Tap::open(config)?;
        let failed = |action| move |error| NetError::Vhost { action, error };
        let vhost = open().map_err(failed("open"))?;
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let made = || Ok::<_, io::Error>((Epoll::new()?, [event()?, event()?], event()?, event()?));
        let (epoll, kicks, call, error) = made().map_err(|error| NetError::Watch { error })?;
        for source in [&call, &error] {
            let event = EpollEvent::new(EventSet::IN, 0);
            let added = epoll.ctl(ControlOperation::Add, source.as_raw_fd(), event);
            added.map_err(|error| NetError::Watch { error })?;
        }
        let device = VhostNet {
            config: space,
            tap,
            vhost,
            kicks,
            call,
            error,
            epoll,
            features: 0,
            owned: false,
            running: false,
        };
        let mut known = 0_u64;
        device.ask(GET_FEATURES, &mut known).map_err(failed("ask"))?;
        if known & RINGS != RINGS {
            return Err(failed("use")(io::ErrorKind::Unsupported.into()));
        }
        Ok(device)
    }

    /// Has a worker made, and gives it what does not depend on the driver. The worker is a thread of
    /// this process, and a process with threads can enter no mount namespace: so it is made when
    /// the driver is ready, not when the device is opened.
    fn own(&self) -> io::Result<()> {
        // SAFETY: the request has no argument.
        check(unsafe { libc::ioctl(self.vhost.as_raw_fd(), SET_OWNER as _) })?;
        for (index, kick) in self.kicks.iter().enumerate() {
            for (request, fd) in
                [(SET_VRING_KICK, kick), (SET_VRING_CALL, &self.call), (SET_VRING_ERR, &self.error)]
            {
                self.set(request, index, fd.as_raw_fd() as u32)?;
            }
        }
        Ok(())
    }

    /// Makes a request whose argument the kernel reads or fills.
    fn ask<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: every caller gives the structure that the request is for, of the size that is a
        // part of the request's number or, of `Memory`, that its count says.
        check(unsafe { libc::ioctl(self.vhost.as_raw_fd(), request as _, &raw mut *argument) })
    }

    fn set(&self, request: u32, index: usize, value: u32) -> io::Result<()> {
        self.ask(request, &mut OfQueue { index: index as u32, value })
    }

    /// Gives the rings to the worker, if both are there.
    fn start(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let mut rings = Vec::with_capacity(QUEUES);
        for index in 0..QUEUES {
            let Some(queue) = queues.get(index) else { return Ok(()) };
            rings.push(queue.rings(memory).ok_or(Broken::Rings)?);
        }
        // What the kernel does not take is the driver's doing: all else was checked.
        let made = if self.owned { Ok(()) } else { self.own() };
        self.owned |= made.is_ok();
        let started = made.and_then(|()| self.hand_over(memory, &rings));
        self.running = true;
        if started.is_err() {
            self.detach();
            return Err(Broken::Rings);
        }
        // What was made available before.
        self.kicks.iter().for_each(kick);
        Ok(())
    }

    fn hand_over(&self, memory: &GuestMemoryMmap, rings: &[Rings]) -> io::Result<()> {
        let mut features = self.features & RINGS;
        self.ask(SET_FEATURES, &mut features)?;
        let mut table = Memory { count: 0, padding: 0, regions: Default::default() };
        for (to, region) in table.regions.iter_mut().zip(memory.iter()) {
            let host = region.as_ptr() as u64;
            *to = Region {
                guest: region.start_addr().raw_value(),
                bytes: region.len(),
                host,
                padding: 0,
            };
            table.count += 1;
        }
        self.ask(SET_MEM_TABLE, &mut table)?;
        for (index, rings) in rings.iter().enumerate() {
            let &Rings { size, next_available, table, available, used } = rings;
            self.set(SET_VRING_NUM, index, size.into())?;
            self.set(SET_VRING_BASE, index, next_available.into())?;
            let (table, used, available) = (table as u64, used as u64, available as u64);
            let index = index as u32;
            let mut addresses = Addresses { index, flags: 0, table, used, available, log: 0 };
            self.ask(SET_VRING_ADDR, &mut addresses)?;
        }
        for index in 0..QUEUES {
            self.set(NET_SET_BACKEND, index, self.tap.as_raw_fd() as u32)?;
        }
        Ok(())
    }

    /// Stops the worker: when this returns, it does not touch the rings any more.
    fn detach(&mut self) {
        if std::mem::take(&mut self.running) {
            for index in 0..QUEUES {
                // Descriptor -1 is none. It fails only where there is no such queue.
                let _ = self.set(NET_SET_BACKEND, index, u32::MAX);
            }
        }
    }

    /// Takes the rings back from the worker.
    fn stop(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if !self.running {
            return Ok(());
        }
        self.detach();
        for index in 0..QUEUES {
            let mut state = OfQueue { index: index as u32, value: 0 };
            self.ask(GET_VRING_BASE, &mut state).map_err(|_| Broken::Rings)?;
            let memory = queues.memory;
            if let Some(queue) = queues.get(index) {
                queue.resume_at(memory, state.value as u16)?;
            }
        }
        Ok(())
    }

    /// Passes on what the worker has said.
    fn listen(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        queues.interrupt |= self.call.read().is_ok();
        if self.error.read().is_ok() { Err(Broken::Rings) } else { Ok(()) }
    }
}

fn kick(event: &EventFd) {
    // It fails only if 2^64 - 2 are unread: then it is kicked.
    let _ = event.write(1);
}

impl Device for VhostNet {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn features(&self) -> u64 {
        features()
    }

    fn negotiated(&mut self, features: u64) {
        self.detach();
        self.features = features;
        if features == 0 {
            let _ = (self.call.read(), self.error.read());
            return;
        }
        self.tap.set_offloads(offloads_of(features));
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    /// Only for what a snapshot has: see [`kick`](Device::kick).
    fn notified(&mut self, queue: usize, _queues: &mut Queues<'_>) -> Result<(), Broken> {
        if let Some(event) = self.kicks.get(queue) {
            kick(event);
        }
        Ok(())
    }

    fn kick(&self, queue: usize) -> Option<RawFd> {
        self.kicks.get(queue).map(AsRawFd::as_raw_fd)
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the epoll instance is open as long as `self`, which the descriptor borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) })
    }

    /// The driver has become ready, or has taken a queue away, or the worker has said something.
    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let is_ready = (0..QUEUES).all(|index| queues.get(index).is_some());
        match (self.running, is_ready) {
            (false, true) => self.start(queues)?,
            (true, false) => self.stop(queues)?,
            _ => {}
        }
        self.listen(queues)
    }

    fn settle(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.stop(queues)?;
        self.listen(queues)
    }
}
