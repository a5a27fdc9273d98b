//! A virtio device in a snapshot: what its driver has set up.

use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestMemoryMmap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::queue::{SavedQueue, Virtqueue};
use super::{Device, Transport};

/// The part that every device has; its queues follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    driver_features: u64,
    kind: u32,
    status: u32,
    interrupt_status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    generation: u32,
    queue_count: u32,
}

/// A device's state, read from a snapshot or for one.
#[derive(Debug, Clone)]
pub(crate) struct SavedTransport {
    head: Head,
    queues: Vec<SavedQueue>,
    /// The device's own.
    state: Vec<u8>,
}

impl SavedTransport {
    /// As it is in a snapshot.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.as_bytes().to_vec();
        bytes.extend(self.queues.as_slice().as_bytes());
        bytes.extend(&self.state);
        bytes
    }

    /// From a snapshot; `None` if it is no device's state.
    pub(crate) fn parse(bytes: &[u8]) -> Option<SavedTransport> {
        let (head, rest) = Head::read_from_prefix(bytes).ok()?;
        let size = size_of::<SavedQueue>();
        let (queues, state) =
            rest.split_at_checked((head.queue_count as usize).checked_mul(size)?)?;
        let queues =
            queues.chunks_exact(size).filter_map(|queue| SavedQueue::read_from_bytes(queue).ok());
        Some(SavedTransport { head, queues: queues.collect(), state: state.to_vec() })
    }
}

impl Transport {
    /// Its state. The device has been told to settle.
    pub(crate) fn save(&self) -> SavedTransport {
        let queues: Vec<_> = self.queues.iter().map(Virtqueue::save).collect();
        let head = Head {
            driver_features: self.driver_features,
            kind: self.device.id(),
            status: self.status,
            interrupt_status: self.interrupt_status,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            generation: self.generation,
            queue_count: queues.len() as u32,
        };
        SavedTransport { head, queues, state: self.device.state() }
    }

    /// A fresh device in a state of a snapshot; `None` if this device cannot be in that state. What
    /// the driver asked for and did not get yet is served by [`resume`](Transport::resume).
    pub(crate) fn restored(
        device: Box<dyn Device>,
        saved: &SavedTransport,
        memory: &GuestMemoryMmap,
    ) -> Option<Transport> {
        let mut transport = Transport::new(device);
        let head = &saved.head;
        let fits = head.kind == transport.device.id()
            && saved.queues.len() == transport.queues.len()
            && head.driver_features & !transport.features() == 0;
        if !fits {
            return None;
        }
        let chosen = head.status & config::VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let event_index = chosen && head.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for (queue, saved) in transport.queues.iter_mut().zip(&saved.queues) {
            *queue = Virtqueue::restored(saved, queue.size_max(), event_index, memory)?;
        }
        transport.status = head.status;
        transport.interrupt_status = head.interrupt_status;
        transport.device_features_select = head.device_features_select;
        transport.driver_features_select = head.driver_features_select;
        transport.driver_features = head.driver_features;
        transport.queue_select = head.queue_select;
        transport.generation = head.generation;
        if chosen && head.status & config::VIRTIO_CONFIG_S_NEEDS_RESET == 0 {
            transport.device.negotiated(head.driver_features);
            transport.device.restored();
        }
        if !transport.device.set_state(&saved.state) {
            return None;
        }
        Some(transport)
    }

    /// Serves what the driver had asked for when the snapshot was taken.
    pub(crate) fn resume(&mut self, memory: &GuestMemoryMmap) {
        for queue in 0..self.queues.len() {
            self.notified(memory, queue);
        }
        self.host_ready(memory);
    }

    /// Finishes what the device has begun.
    pub(crate) fn settle(&mut self, memory: &GuestMemoryMmap) {
        self.serve(memory, |device, queues| device.settle(queues));
    }
}
