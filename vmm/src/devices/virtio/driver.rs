//! A driver in guest memory that does as a test says, right or wrong.

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Device, Queues, Virtqueue};

pub(super) const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(super) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// Queues, each with its rings, are below; buffers may be from here on.
pub(super) const BUFFERS: u64 = 0x10_0000;
const QUEUE_BYTES: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;

/// One descriptor: address, length, flags and next.
pub(super) type Descriptor = (u64, u32, u16, u16);

pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    queues: Vec<Virtqueue>,
    available: Vec<u16>,
    used: Vec<u16>,
}

impl Driver {
    /// Sets up the queues of `device` in `memory`, whose first MiB it needs.
    pub(super) fn new(device: &dyn Device, memory: GuestMemoryMmap) -> Driver {
        let sizes = device.queues();
        let queues = (0..).zip(sizes).map(|(index, &size)| {
            let base = (index * QUEUE_BYTES) as u32;
            let mut queue = Virtqueue::new(size);
            queue.set_table(Some(base), None);
            queue.set_available_ring(Some(base + AVAILABLE as u32), None);
            queue.set_used_ring(Some(base + USED as u32), None);
            queue.set_ready(&memory, true).unwrap();
            queue
        });
        let queues = queues.collect();
        Driver { memory, queues, available: vec![0; sizes.len()], used: vec![0; sizes.len()] }
    }

    pub(super) fn queues(&mut self) -> Queues<'_> {
        Queues::new(&self.memory, &mut self.queues)
    }

    /// Makes a chain available, whose descriptors are in the table from `head` on.
    pub(super) fn offer(&mut self, queue: usize, head: u16, chain: &[Descriptor]) {
        for (index, &(address, length, flags, next)) in (head..).zip(chain) {
            let at = queue as u64 * QUEUE_BYTES + 16 * u64::from(index);
            self.memory.write_obj(address, GuestAddress(at)).unwrap();
            self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
            self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
        }
        let ring = queue as u64 * QUEUE_BYTES + AVAILABLE;
        let slot = ring + 4 + 2 * u64::from(self.available[queue] % self.queues[queue].size());
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.memory.write_obj(self.available[queue], GuestAddress(ring + 2)).unwrap();
    }

    /// The next chain that the device has used, and how much it wrote.
    pub(super) fn used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = queue as u64 * QUEUE_BYTES + USED;
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.used[queue] {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(self.used[queue] % self.queues[queue].size());
        self.used[queue] = self.used[queue].wrapping_add(1);
        let read = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        Some((read(slot), read(slot + 4)))
    }
}
