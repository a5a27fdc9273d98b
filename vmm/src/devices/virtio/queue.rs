//! A split virtqueue (section 2.7) whose driver is not trusted.
//!
//! Chains are taken with [`Virtqueue::pop`] and given back with [`Virtqueue::push`], in any order.
//! Whether the driver wants to hear of it is asked once, after a burst. To find the rings in guest
//! memory takes longer than to read them, so [`Virtqueue::available`] and [`Virtqueue::push_all`] do
//! it once for many chains.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory,
    VolatileSlice,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Broken;
use super::chain::{Buffers, DESCRIPTOR_BYTES};

/// Where both rings have their index, and their first entry (sections 2.7.6 and 2.7.8).
const RING_INDEX: usize = 2;
const RING_ENTRIES: usize = 4;
/// An entry of the available ring, and of the used ring.
const AVAILABLE_BYTES: usize = 2;
const USED_BYTES: usize = 8;

/// One queue of a device.
#[derive(Debug)]
pub(crate) struct Virtqueue {
    queue: Queue,
    /// The used ring's index when the driver was last interrupted, or did not want to be.
    told: u16,
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

/// Where the parts of a queue are in this process, for whoever else serves it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rings {
    pub(super) size: u16,
    pub(super) next_available: u16,
    pub(super) table: *mut u8,
    pub(super) available: *mut u8,
    pub(super) used: *mut u8,
}

impl Virtqueue {
    /// A queue of at most `size` descriptors, a power of two.
    pub(super) fn new(size: u16) -> Virtqueue {
        match Queue::new(size) {
            Ok(queue) => Virtqueue { queue, told: 0 },
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
        self.available(memory)?.pop(buffers)
    }

    /// The chains that the driver has made available by now.
    ///
    /// # Errors
    ///
    /// As for `pop`.
    pub(super) fn available<'a>(
        &'a mut self,
        memory: &'a GuestMemoryMmap,
    ) -> Result<Available<'a>, Broken> {
        let broken = |_| Broken::AvailableIndex;
        let size = usize::from(self.queue.size());
        let ring_bytes = RING_ENTRIES + AVAILABLE_BYTES * size;
        let ring = memory
            .get_slice(GuestAddress(self.queue.avail_ring()), ring_bytes)
            .map_err(|_| Broken::AvailableIndex)?;
        let end = u16::from_le(ring.load(RING_INDEX, Ordering::Acquire).map_err(broken)?);
        let ahead = end.wrapping_sub(self.queue.next_avail());
        if !self.ready() || ahead > self.queue.size() {
            return Err(Broken::AvailableIndex);
        }
        let table = memory
            .get_slice(GuestAddress(self.queue.desc_table()), DESCRIPTOR_BYTES * size)
            .map_err(|_| Broken::Rings)?;
        Ok(Available { queue: &mut self.queue, memory, table, ring, end })
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
        self.push_all(memory, [(head, written)])
    }

    /// Gives chains back, of each of which the device has written so many bytes. The driver sees
    /// all of them at once.
    ///
    /// # Errors
    ///
    /// As for `push`.
    pub(super) fn push_all(
        &mut self,
        memory: &GuestMemoryMmap,
        chains: impl IntoIterator<Item = (u16, u32)>,
    ) -> Result<(), Broken> {
        let broken = |_| Broken::UsedRing;
        let size = self.queue.size();
        let ring_bytes = RING_ENTRIES + USED_BYTES * usize::from(size);
        let ring = memory
            .get_slice(GuestAddress(self.queue.used_ring()), ring_bytes)
            .map_err(|_| Broken::UsedRing)?;
        let mut next = self.queue.next_used();
        for (head, written) in chains {
            if head >= size {
                return Err(Broken::UsedRing);
            }
            let entry = u64::from(head) | u64::from(written) << 32;
            let at = RING_ENTRIES + USED_BYTES * usize::from(next % size);
            ring.get_ref(at).map_err(broken)?.store(entry.to_le());
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        ring.store(next.to_le(), RING_INDEX, Ordering::Release).map_err(|_| Broken::UsedRing)
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
        let next = self.queue.next_used();
        let used = next.wrapping_sub(std::mem::replace(&mut self.told, next));
        if used == 0 || !self.ready() {
            return false;
        }
        // The driver first says what it wishes and then looks at the index.
        fence(Ordering::SeqCst);
        let ring = GuestAddress(self.queue.avail_ring());
        if self.queue.event_idx_enabled() {
            // `used_event` lies behind the entries.
            let bytes = RING_ENTRIES + AVAILABLE_BYTES * usize::from(self.queue.size());
            let Some(at) = ring.checked_add(bytes as u64) else { return true };
            let Ok(event) = memory.load::<u16>(at, Ordering::Relaxed) else { return true };
            // Whether it is among those used now.
            return next.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < used;
        }
        let flags = memory.load::<u16>(ring, Ordering::Relaxed);
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

    /// Its parts, for another to serve it; `None` if one is not in one piece of memory.
    pub(super) fn rings(&self, memory: &GuestMemoryMmap) -> Option<Rings> {
        let size = usize::from(self.queue.size());
        // A ring ends with the index at which its reader wants to hear of it.
        let place = |address, bytes| {
            let slice = memory.get_slice(GuestAddress(address), bytes).ok()?;
            Some(slice.ptr_guard_mut().as_ptr())
        };
        let ring_bytes = |entry| RING_ENTRIES + entry * size + size_of::<u16>();
        Some(Rings {
            size: self.queue.size(),
            next_available: self.queue.next_avail(),
            table: place(self.queue.desc_table(), DESCRIPTOR_BYTES * size)?,
            available: place(self.queue.avail_ring(), ring_bytes(AVAILABLE_BYTES))?,
            used: place(self.queue.used_ring(), ring_bytes(USED_BYTES))?,
        })
    }

    /// Goes on after another has served it, up to the chain that is next. What that one has used it
    /// has told of.
    ///
    /// # Errors
    ///
    /// The used ring cannot be read.
    pub(super) fn resume_at(
        &mut self,
        memory: &GuestMemoryMmap,
        next_available: u16,
    ) -> Result<(), Broken> {
        let used = self.queue.used_idx(memory, Ordering::Acquire).map_err(|_| Broken::UsedRing)?;
        self.queue.set_next_avail(next_available);
        self.queue.set_next_used(used.0);
        self.told = used.0;
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
        let told = queue.next_used();
        (!queue.ready() || queue.is_valid(memory)).then_some(Virtqueue { queue, told })
    }

    /// As new.
    pub(super) fn reset(&mut self) {
        self.queue.reset();
        self.told = 0;
    }
}

/// See [`Virtqueue::available`].
pub(super) struct Available<'a> {
    queue: &'a mut Queue,
    memory: &'a GuestMemoryMmap,
    table: VolatileSlice<'a>,
    ring: VolatileSlice<'a>,
    end: u16,
}

impl Available<'_> {
    /// Adds the next chain's buffers to `buffers` and returns its head, or `None` if there is no
    /// other.
    ///
    /// # Errors
    ///
    /// As for [`Virtqueue::pop`].
    pub(super) fn pop(&mut self, buffers: &mut Buffers) -> Result<Option<u16>, Broken> {
        let next = self.queue.next_avail();
        if next == self.end {
            return Ok(None);
        }
        let at = RING_ENTRIES + AVAILABLE_BYTES * usize::from(next % self.queue.size());
        let head = self.ring.get_ref::<u16>(at).map_err(|_| Broken::AvailableIndex)?;
        let head = u16::from_le(head.load());
        self.queue.set_next_avail(next.wrapping_add(1));
        buffers.add(self.memory, self.table, head)?;
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 4;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;

    fn queue(event_index: bool) -> (GuestMemoryMmap, Virtqueue) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut queue = Virtqueue::new(SIZE);
        queue.set_table(Some(0), None);
        queue.set_available_ring(Some(AVAILABLE as u32), None);
        queue.set_used_ring(Some(USED as u32), None);
        queue.set_event_index(event_index);
        queue.set_ready(&memory, true).unwrap();
        (memory, queue)
    }

    fn used(memory: &GuestMemoryMmap) -> (u16, [[u32; 2]; SIZE as usize]) {
        let read = |at| memory.read_obj(GuestAddress(USED + at)).unwrap();
        let index = memory.read_obj(GuestAddress(USED + 2)).unwrap();
        (index, [4, 12, 20, 28].map(read))
    }

    #[test]
    fn test_push_all_fills_the_ring_round_its_end() {
        let (memory, mut queue) = queue(false);
        queue.push_all(&memory, [(3, 30), (0, 1), (1, 10)]).unwrap();
        assert_eq!(used(&memory), (3, [[3, 30], [0, 1], [1, 10], [0, 0]]));
        queue.push_all(&memory, [(2, 20), (3, u32::MAX)]).unwrap();
        assert_eq!(used(&memory), (5, [[3, u32::MAX], [0, 1], [1, 10], [2, 20]]));
        // Nobody has been given such a chain: the driver sees nothing of it.
        assert_eq!(queue.push_all(&memory, [(0, 0), (SIZE, 0)]), Err(Broken::UsedRing));
        assert_eq!(used(&memory).0, 5);
    }

    #[test]
    fn test_wants_interrupt_once_for_all_that_was_used_beyond_the_event() {
        let (memory, mut queue) = queue(true);
        let event = GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE));
        assert!(!queue.wants_interrupt(&memory), "nothing is used");
        memory.write_obj(2_u16, event).unwrap();
        queue.push_all(&memory, [(0, 0), (1, 0)]).unwrap();
        assert!(!queue.wants_interrupt(&memory), "the third is awaited");
        queue.push_all(&memory, [(2, 0), (3, 0)]).unwrap();
        assert!(queue.wants_interrupt(&memory));
        assert!(!queue.wants_interrupt(&memory), "it has been told");
        queue.push(&memory, 0, 0).unwrap();
        assert!(!queue.wants_interrupt(&memory), "it did not ask again");
    }

    #[test]
    fn test_available_gives_what_was_there_and_no_more() {
        let (memory, mut queue) = queue(false);
        let descriptor = [0x3000_u64, 16];
        for index in 0..u64::from(SIZE) {
            memory.write_obj(descriptor, GuestAddress(16 * index)).unwrap();
        }
        memory.write_obj([2_u16, 3, 1, 0], GuestAddress(AVAILABLE + 2)).unwrap();
        let mut buffers = Buffers::new(SIZE);
        let mut available = queue.available(&memory).unwrap();
        memory.write_obj(SIZE, GuestAddress(AVAILABLE + 2)).unwrap();
        assert_eq!(available.pop(&mut buffers), Ok(Some(3)));
        assert_eq!(available.pop(&mut buffers), Ok(Some(1)));
        assert_eq!(available.pop(&mut buffers), Ok(None));
        assert_eq!(buffers.readable().len(), 2);
        queue.unpop();
        assert_eq!(queue.pop(&memory, &mut buffers), Ok(Some(1)));
        memory.write_obj(2 + SIZE + 1, GuestAddress(AVAILABLE + 2)).unwrap();
        assert_eq!(queue.pop(&memory, &mut buffers), Err(Broken::AvailableIndex));
    }
}
