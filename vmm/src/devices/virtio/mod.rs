//! Virtio devices (Virtual I/O Device Version 1.2, OASIS, 2022): the MMIO transport of section
//! 4.2 and the block device of section 5.2.
//!
//! A device is run by the vCPU's own thread when the guest notifies it: with one vCPU, nothing in
//! the guest could run meanwhile, and a second thread would only add two wake-ups to each request.
//!
//! The guest's driver is not trusted. A queue that breaks the rules stops its device, which asks
//! for a reset (section 2.1.2); a request that breaks them fails.

mod block;
mod chain;
mod disk;
mod transport;

pub(crate) use block::Block;
pub use disk::BlockError;
pub(crate) use transport::Transport;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// What the transport needs of a device with one queue.
pub(crate) trait Device {
    /// The device's kind (section 5).
    const ID: u32;

    /// What it offers.
    fn features(&self) -> u64;

    /// The driver has chosen among what is offered, or the device has been reset (0).
    fn negotiated(&mut self, features: u64);

    /// Its configuration space.
    fn config(&self) -> &[u8];

    /// Serves what the driver has made available, at most a whole queue of it; says whether it
    /// used any. An error means that the driver broke the queue.
    fn serve(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, Broken>;
}

/// The driver broke a rule on which the queue stands: the device cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
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
