//! The MMIO transport, register by register (section 4.2.2).

use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_mmio as mmio;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Device;

/// Descriptors in a queue at most.
pub(super) const QUEUE_SIZE: u16 = 256;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The version without legacy.
const VERSION: u32 = 2;
/// "tare": any value but 0 that no other vendor uses.
const VENDOR: u32 = 0x6572_6174;
const CONFIG: u64 = mmio::VIRTIO_MMIO_CONFIG as u64;

/// A device on the bus.
#[derive(Debug)]
pub(crate) struct Transport<D> {
    device: D,
    queue: Queue,
    status: u32,
    interrupt_status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
}

impl<D: Device> Transport<D> {
    /// A device that no driver has seen.
    pub(crate) fn new(device: D) -> Transport<D> {
        Transport {
            device,
            queue: new_queue(),
            status: 0,
            interrupt_status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
        }
    }

    /// Whether the interrupt line is high.
    pub(crate) fn interrupts(&self) -> bool {
        self.interrupt_status != 0
    }

    /// Answers a read. Registers are four bytes wide; another access to them reads as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(from) = offset.checked_sub(CONFIG) {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let space = self.device.config().get(from..).unwrap_or_default();
            for (byte, value) in data.iter_mut().zip(space) {
                *byte = *value;
            }
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.register(offset as u32).to_le_bytes());
        }
    }

    /// Takes a write, and serves the queue if it is a notification.
    pub(crate) fn write(&mut self, memory: &GuestMemoryMmap, offset: u64, data: &[u8]) {
        let (Ok(bytes), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) else {
            return;
        };
        // The configuration space of a block device is for reading only.
        if offset < CONFIG {
            self.set_register(memory, offset as u32, u32::from_le_bytes(bytes));
        }
    }

    fn register(&self, register: u32) -> u32 {
        let first = self.queue_select == 0;
        match register {
            mmio::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            mmio::VIRTIO_MMIO_VERSION => VERSION,
            mmio::VIRTIO_MMIO_DEVICE_ID => D::ID,
            mmio::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.device.features(), self.device_features_select)
            }
            mmio::VIRTIO_MMIO_QUEUE_NUM_MAX if first => u32::from(QUEUE_SIZE),
            mmio::VIRTIO_MMIO_QUEUE_READY if first => u32::from(self.queue.ready()),
            mmio::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            mmio::VIRTIO_MMIO_STATUS => self.status,
            // No shared memory: a region of length -1 (section 4.2.2.1).
            mmio::VIRTIO_MMIO_SHM_LEN_LOW..=mmio::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn set_register(&mut self, memory: &GuestMemoryMmap, register: u32, value: u32) {
        match register {
            mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES => self.choose_features(value),
            mmio::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY if value == 0 => self.notified(memory),
            mmio::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            mmio::VIRTIO_MMIO_STATUS => self.set_status(value),
            _ if self.queue_select == 0 => self.set_queue_register(memory, register, value),
            _ => {}
        }
    }

    /// Registers of the selected queue. A size or address that cannot be is not taken.
    fn set_queue_register(&mut self, memory: &GuestMemoryMmap, register: u32, value: u32) {
        let queue = &mut self.queue;
        match register {
            mmio::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            mmio::VIRTIO_MMIO_QUEUE_READY => {
                queue.set_ready(value == 1);
                if value == 1 && !queue.is_valid(memory) {
                    self.queue.set_ready(false);
                    self.fail();
                }
            }
            mmio::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            mmio::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// The driver's choice counts until it says that it has chosen.
    fn choose_features(&mut self, value: u32) {
        if self.status & config::VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_select {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => {
                self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32;
            }
            _ => {}
        }
    }

    /// The handshake of section 3.1.1. Bits are only ever added, but for a reset by 0.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut value = value | self.status;
        let chosen = value & !self.status & config::VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if chosen {
            let modern = self.driver_features & 1 << config::VIRTIO_F_VERSION_1 != 0;
            if modern && self.driver_features & !self.device.features() == 0 {
                self.device.negotiated(self.driver_features);
            } else {
                value &= !config::VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        self.status = value;
    }

    fn reset(&mut self) {
        self.queue = new_queue();
        self.status = 0;
        self.interrupt_status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.device.negotiated(0);
    }

    fn notified(&mut self, memory: &GuestMemoryMmap) {
        let live = self.status & config::VIRTIO_CONFIG_S_DRIVER_OK != 0
            && self.status & config::VIRTIO_CONFIG_S_NEEDS_RESET == 0;
        if !live || !self.queue.ready() {
            return;
        }
        match self.device.serve(memory, &mut self.queue) {
            Ok(true) if wants_interrupt(memory, &self.queue) => {
                self.interrupt_status |= mmio::VIRTIO_MMIO_INT_VRING;
            }
            Ok(_) => {}
            Err(_) => self.fail(),
        }
    }

    /// Stops the device until the driver resets it, and tells the driver (section 2.1.2).
    fn fail(&mut self) {
        self.status |= config::VIRTIO_CONFIG_S_NEEDS_RESET;
        if self.status & config::VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.interrupt_status |= mmio::VIRTIO_MMIO_INT_CONFIG;
        }
    }
}

fn new_queue() -> Queue {
    match Queue::new(QUEUE_SIZE) {
        Ok(queue) => queue,
        Err(_) => unreachable!("the size is a power of two"),
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// What the driver says in the available ring's flags (section 2.7.7). One that cannot be read
/// gets its interrupt.
fn wants_interrupt(memory: &GuestMemoryMmap, queue: &Queue) -> bool {
    let flags = memory.read_obj::<u16>(GuestAddress(queue.avail_ring())).unwrap_or(0);
    u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
