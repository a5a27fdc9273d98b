//! A split virtqueue (section 2.7) whose driver is not trusted.
//!
//! Chains are taken with [`Virtqueue::pop`] and given back with [`Virtqueue::push`], in any order.
//! Whether the driver wants to hear of it is asked once, after a burst.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Broken;
use super::chain::Buffers;

/// One queue of a device.
#[derive(Debug)]
pub(crate) struct Virtqueue {
    queue: Queue,
    /// Something has been used since the driver was last interrupted.
    used: bool,
}

/// A queue in a snapshot.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct SavedQueue {
    table: u64,
    available_ring: u64,
    used_ring: u64,
    size: u16,
    next_available: u16,
    next_used: u16,
    ready: u16,
}

impl Virtqueue {
    /// A queue of at most `size` descriptors, a power of two.
    pub(super) fn new(size: u16) -> Virtqueue {
        match Queue::new(size) {
            Ok(queue) => Virtqueue { queue, used: false },
            Err(_) => unreachable!("every device's queue size is a power of two"),
        }
    }

    /// Takes the next chain's buffers into `buffers` and returns its head, or `None` if the driver
    /// has made nothing more available.
    ///
    /// # Errors
    ///
    /// The driver broke the queue: the device must stop.
    pub(super) fn pop(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
    ) -> Result<Option<u16>, Broken> {
        buffers.clear();
        self.pop_more(memory, buffers)
    }

    /// As `pop`, but keeps what is in `buffers` and adds to it.
    ///
    /// # Errors
    ///
    /// As for `pop`.
    pub(super) fn pop_more(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
    ) -> Result<Option<u16>, Broken> {
        let mut available = self.queue.iter(memory).map_err(|_| Broken::AvailableIndex)?;
        let Some(chain) = available.next() else { return Ok(None) };
        let head = chain.head_index();
        buffers.add(memory, chain)?;
        Ok(Some(head))
    }

    /// Leaves the chain that was popped last, of those not yet left so, for the next `pop`.
    pub(super) fn unpop(&mut self) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
    }

    /// Gives a chain back, of which the device has written `written` bytes.
    ///
    /// # Errors
    ///
    /// The used ring cannot be written.
    pub(super) fn push(
        &mut self,
        memory: &GuestMemoryMmap,
        head: u16,
        written: u32,
    ) -> Result<(), Broken> {
        self.used = true;
        self.queue.add_used(memory, head, written).map_err(|_| Broken::UsedRing)
    }

    /// Asks the driver to notify of what it makes available from now on; true if it already has
    /// made something available, so that another look at the queue is due.
    ///
    /// # Errors
    ///
    /// The rings cannot be reached.
    pub(super) fn listen(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Broken> {
        self.queue.enable_notification(memory).map_err(|_| Broken::AvailableIndex)
    }

    /// Descriptors that it has now.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Descriptors that it can have.
    pub(super) fn size_max(&self) -> u16 {
        self.queue.max_size()
    }

    /// Whether the driver has set it up.
    pub(super) fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// Whether the driver is to be interrupted for what has been used (section 2.7.7). One whose
    /// wish cannot be read is.
    pub(super) fn wants_interrupt(&mut self, memory: &GuestMemoryMmap) -> bool {
        if !std::mem::take(&mut self.used) || !self.ready() {
            return false;
        }
        if self.queue.event_idx_enabled() {
            return self.queue.needs_notification(memory).unwrap_or(true);
        }
        let flags = memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::SeqCst);
        u32::from(u16::from_le(flags.unwrap_or(0))) & VRING_AVAIL_F_NO_INTERRUPT == 0
    }

    /// A size that cannot be is not taken.
    pub(super) fn set_size(&mut self, size: u32) {
        self.queue.set_size(u16::try_from(size).unwrap_or(0));
    }

    /// The descriptor table's address, half by half.
    pub(super) fn set_table(&mut self, low: Option<u32>, high: Option<u32>) {
        self.queue.set_desc_table_address(low, high);
    }

    /// The available ring's address, half by half.
    pub(super) fn set_available_ring(&mut self, low: Option<u32>, high: Option<u32>) {
        self.queue.set_avail_ring_address(low, high);
    }

    /// The used ring's address, half by half.
    pub(super) fn set_used_ring(&mut self, low: Option<u32>, high: Option<u32>) {
        self.queue.set_used_ring_address(low, high);
    }

    /// Whether indices, not flags, say when to notify and interrupt (section 2.7.10).
    pub(super) fn set_event_index(&mut self, on: bool) {
        self.queue.set_event_idx(on);
    }

    /// Starts or stops it.
    ///
    /// # Errors
    ///
    /// Its parts are not in memory.
    pub(super) fn set_ready(
        &mut self,
        memory: &GuestMemoryMmap,
        ready: bool,
    ) -> Result<(), Broken> {
        self.queue.set_ready(ready);
        if ready && !self.queue.is_valid(memory) {
            self.queue.set_ready(false);
            return Err(Broken::Rings);
        }
        Ok(())
    }

    /// Its state, for a snapshot. The driver has been told of all that was used.
    pub(super) fn save(&self) -> SavedQueue {
        let state = self.queue.state();
        SavedQueue {
            table: state.desc_table,
            available_ring: state.avail_ring,
            used_ring: state.used_ring,
            size: state.size,
            next_available: state.next_avail,
            next_used: state.next_used,
            ready: state.ready.into(),
        }
    }

    /// A queue of at most `size_max` descriptors in a state of a snapshot; `None` if it cannot be
    /// in that state.
    pub(super) fn restored(
        saved: &SavedQueue,
        size_max: u16,
        event_index: bool,
        memory: &GuestMemoryMmap,
    ) -> Option<Virtqueue> {
        let state = QueueState {
            max_size: size_max,
            next_avail: saved.next_available,
            next_used: saved.next_used,
            event_idx_enabled: event_index,
            size: saved.size,
            ready: saved.ready != 0,
            desc_table: saved.table,
            avail_ring: saved.available_ring,
            used_ring: saved.used_ring,
        };
        let queue = Queue::try_from(state).ok()?;
        (!queue.ready() || queue.is_valid(memory)).then_some(Virtqueue { queue, used: false })
    }

    /// As new.
    pub(super) fn reset(&mut self) {
        self.queue.reset();
        self.used = false;
    }
}
