//! Virtio devices (Virtual I/O Device Version 1.2, OASIS, 2022): the MMIO transport of section
//! 4.2, and a file for each device of section 5.
//!
//! A device works when its driver notifies it and when the host has something for the guest.
//! Which thread that is on, [`Device::notify`] and [`Device::source`] decide. The vCPU's own thread
//! is best where the guest waits for the answer anyway: a second thread would add two wake-ups to
//! each request.
//!
//! The guest's driver is not trusted. A queue that breaks the rules stops its device, which asks
//! for a reset (section 2.1.2); a request that breaks them fails.

mod balloon;
mod block;
mod chain;
mod console;
mod descriptor;
mod disk;
#[cfg(test)]
mod driver;
mod net;
mod queue;
mod rng;
mod transport;
mod vsock;

use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};

use vm_memory::GuestMemoryMmap;

pub(crate) use balloon::Balloon;
pub use balloon::{BalloonControl, BalloonState, BalloonStatistics};
pub use block::BLOCK_QUEUES_MAX;
pub(crate) use block::Block;
pub(crate) use console::Console;
pub use console::{ConsoleControl, ConsoleError};
pub use disk::BlockError;
pub(crate) use net::{Net, VHOST_REQUESTS, VhostNet};
pub use net::{NetError, has_vhost_net, open_tap};
use queue::Virtqueue;
pub(crate) use rng::Rng;
pub(crate) use transport::{RegisterPages, SavedTransport, Transport};
pub(crate) use vsock::Vsock;
pub use vsock::{Streams, VsockError};

/// What the transport needs of a device. Queues are counted from 0, as in section 5.
///
/// All calls are made under the device's lock, by the thread of a vCPU or by the device thread.
/// None may block.
pub(crate) trait Device: fmt::Debug + Send {
    /// The device's kind (section 5).
    fn id(&self) -> u32;

    /// How many descriptors each of its queues can have: powers of two.
    fn queues(&self) -> &[u16];

    /// What it offers besides what the transport offers with every device (`VIRTIO_F_VERSION_1`
    /// and `VIRTIO_RING_F_EVENT_IDX`).
    fn features(&self) -> u64;

    /// The driver has chosen among what is offered, or the device has been reset (0): then it
    /// forgets every chain that it has not given back, and touches their memory no more.
    fn negotiated(&mut self, features: u64);

    /// Its configuration space.
    fn config(&self) -> &[u8];

    /// The driver wrote `data` at `offset` of the configuration space.
    ///
    /// # Errors
    ///
    /// As for `notified`.
    fn configured(
        &mut self,
        _offset: usize,
        _data: &[u8],
        _queues: &mut Queues<'_>,
    ) -> Result<(), Broken> {
        Ok(())
    }

    /// The driver has made chains available in `queue`, which is ready. At most one queue's worth
    /// may be served in one call, for the driver may add while the device serves; what is left
    /// then is asked for with [`Queues::again`].
    ///
    /// # Errors
    ///
    /// The driver broke the queue: the device must not go on.
    fn notified(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken>;

    /// Which thread calls `notified`.
    fn notify(&self) -> Notify {
        Notify::Vcpu
    }

    /// An eventfd of the device's for a queue, to which the driver's notifications go: whoever has the
    /// other end serves the queue, and `notified` is not called for them.
    fn kick(&self, _queue: usize) -> Option<RawFd> {
        None
    }

    /// A descriptor that is readable when the host has something for the guest. It must not be
    /// readable while the device can do nothing about it, or the device thread would spin: a
    /// device with more than one source, or with one that it must leave aside at times, has an
    /// epoll instance of its own and gives that.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether more for the guest is likely to follow at once: then the device thread lets whoever
    /// sends it go first, where both share a CPU, and the guest is interrupted once for all.
    fn gathers(&self) -> bool {
        false
    }

    /// Finishes what it has begun and does not begin anything: a snapshot is taken. A device that
    /// never leaves anything between two calls has nothing to do.
    ///
    /// # Errors
    ///
    /// As for `notified`.
    fn settle(&mut self, _queues: &mut Queues<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// The guest goes on from a snapshot, perhaps one of many that do: what tied it to where it was
    /// is gone. Follows `negotiated`.
    fn restored(&mut self) {}

    /// What it must have again where the guest goes on from a snapshot, beside its queues. Nobody
    /// but [`set_state`](Device::set_state) reads it.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes a state of a snapshot; false if that is none of this device's. Follows `restored`.
    fn set_state(&mut self, state: &[u8]) -> bool {
        state.is_empty()
    }

    /// What the embedder's threads have of it while it works.
    fn control(&self) -> Option<Control> {
        None
    }

    /// The source is readable, or the driver has just become ready, or has started or stopped a queue
    /// after that. Queues may not be ready.
    ///
    /// # Errors
    ///
    /// As for `notified`.
    fn host_ready(&mut self, _queues: &mut Queues<'_>) -> Result<(), Broken> {
        Ok(())
    }
}

/// The host's side of a device that the embedder's threads reach.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    /// A balloon's.
    Balloon(BalloonControl),
    /// A console's.
    Console(ConsoleControl),
}

/// Where a driver's notification is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notify {
    /// On the notifying vCPU's thread, which waits: fastest where the work is short.
    Vcpu,
    /// On the device thread, by an ioeventfd: the vCPU goes on at once.
    Thread,
}

/// What a device works with during one call.
pub(crate) struct Queues<'a> {
    /// Guest memory.
    pub(super) memory: &'a GuestMemoryMmap,
    list: &'a mut [Virtqueue],
    /// Set by the device when its configuration space has changed: the driver is told.
    pub(super) config_changed: bool,
    /// Set by a device whose queues another serves, to have the driver interrupted.
    pub(super) interrupt: bool,
    again: Option<usize>,
}

impl<'a> Queues<'a> {
    pub(super) fn new(memory: &'a GuestMemoryMmap, list: &'a mut [Virtqueue]) -> Queues<'a> {
        Queues { memory, list, config_changed: false, interrupt: false, again: None }
    }

    /// The queue of that number, if the driver has set it up.
    pub(super) fn get(&mut self, index: usize) -> Option<&mut Virtqueue> {
        self.list.get_mut(index).filter(|queue| queue.ready())
    }

    /// Asks for another call of `notified` for that queue, once others have had their turn.
    pub(super) fn again(&mut self, index: usize) {
        self.again = Some(index);
    }
}

/// The driver broke a rule on which the queue stands: the device cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The rings are not in memory.
    Rings,
    /// The available ring's index is more than the queue's size ahead.
    AvailableIndex,
    /// The used ring is not in memory.
    UsedRing,
    /// A descriptor chain is longer than the queue, or loops.
    Endless,
    /// A descriptor chain ends in something unreadable: an index beyond the table, a nested or odd
    /// indirect table, or more than 4 GiB of buffers.
    Cut,
    /// A buffer is not in memory.
    Buffer,
    /// A readable buffer follows a writable one.
    Order,
    /// The chain has no room for the request's header or its status.
    Frame,
}
