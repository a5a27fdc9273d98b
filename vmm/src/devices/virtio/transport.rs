//! The MMIO transport, register by register (section 4.2.2). Where KVM can, the guest reads the
//! registers without an exit: see `page`.

mod page;
mod saved;

use std::os::fd::{BorrowedFd, RawFd};

use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_mmio as mmio;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestMemoryMmap;

use super::{Broken, Control, Device, Notify, Queues, Virtqueue};
pub(crate) use page::{RegisterPage, RegisterPages};
pub(crate) use saved::SavedTransport;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The version without legacy.
const VERSION: u32 = 2;
/// "tare": any value but 0 that no other vendor uses.
const VENDOR: u32 = 0x6572_6174;
const CONFIG: u64 = mmio::VIRTIO_MMIO_CONFIG as u64;

/// What the transport itself offers with every device.
const FEATURES: u64 = 1 << config::VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device on the bus.
#[derive(Debug)]
pub(crate) struct Transport {
    device: Box<dyn Device>,
    queues: Vec<Virtqueue>,
    status: u32,
    interrupt_status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    /// Changes with the configuration space (section 2.5.3).
    generation: u32,
    /// A queue that a device has left unfinished.
    pending: Option<usize>,
    /// Where the guest reads the registers itself.
    page: Option<RegisterPage>,
}

/// Registers that read as something, but for the configuration's generation.
const READABLE: [u32; 12] = [
    mmio::VIRTIO_MMIO_MAGIC_VALUE,
    mmio::VIRTIO_MMIO_VERSION,
    mmio::VIRTIO_MMIO_DEVICE_ID,
    mmio::VIRTIO_MMIO_VENDOR_ID,
    mmio::VIRTIO_MMIO_DEVICE_FEATURES,
    mmio::VIRTIO_MMIO_QUEUE_NUM_MAX,
    mmio::VIRTIO_MMIO_QUEUE_READY,
    mmio::VIRTIO_MMIO_SHM_LEN_LOW,
    mmio::VIRTIO_MMIO_SHM_LEN_HIGH,
    mmio::VIRTIO_MMIO_SHM_BASE_LOW,
    mmio::VIRTIO_MMIO_SHM_BASE_HIGH,
    mmio::VIRTIO_MMIO_STATUS,
];

impl Transport {
    /// A device that no driver has seen.
    pub(crate) fn new(device: Box<dyn Device>) -> Transport {
        let queues = device.queues().iter().map(|&size| Virtqueue::new(size)).collect();
        Transport {
            device,
            queues,
            status: 0,
            interrupt_status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            generation: 0,
            pending: None,
            page: None,
        }
    }

    /// Shows the registers on `page` from now on.
    pub(crate) fn show_on(&mut self, page: Option<RegisterPage>) {
        self.page = page;
        self.show();
    }

    /// Shows all registers.
    fn show(&self) {
        let Some(page) = &self.page else { return };
        for register in READABLE {
            page.show(register, self.register(register));
        }
        page.show_config(self.device.config(), self.generation);
        self.show_interrupts();
    }

    /// Shows what a driver asks for at an interrupt.
    fn show_interrupts(&self) {
        if let Some(page) = &self.page {
            page.show(mmio::VIRTIO_MMIO_INTERRUPT_STATUS, self.interrupt_status);
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
        if let Some(from) = offset.checked_sub(CONFIG) {
            let driven = self.status & config::VIRTIO_CONFIG_S_DRIVER != 0;
            if let (Ok(from), true) = (usize::try_from(from), driven) {
                self.serve(memory, |device, queues| device.configured(from, data, queues));
                // What the driver may write, it may also read.
                self.show();
            }
            return;
        }
        let (Ok(bytes), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) else {
            return;
        };
        self.set_register(memory, offset as u32, u32::from_le_bytes(bytes));
    }

    fn register(&self, register: u32) -> u32 {
        let queue = self.queues.get(self.queue_select as usize);
        match register {
            mmio::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            mmio::VIRTIO_MMIO_VERSION => VERSION,
            mmio::VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            mmio::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES => half(self.features(), self.device_features_select),
            mmio::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.size_max().into()),
            mmio::VIRTIO_MMIO_QUEUE_READY => queue.is_some_and(Virtqueue::ready).into(),
            mmio::VIRTIO_MMIO_CONFIG_GENERATION => self.generation,
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
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY => self.notified(memory, value as usize),
            mmio::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            mmio::VIRTIO_MMIO_STATUS => self.set_status(memory, value),
            _ => self.set_queue_register(memory, register, value),
        }
        match register {
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY => {}
            mmio::VIRTIO_MMIO_QUEUE_READY => {
                self.host_ready(memory);
                self.show();
            }
            mmio::VIRTIO_MMIO_INTERRUPT_ACK => self.show_interrupts(),
            _ => self.show(),
        }
    }

    /// Registers of the selected queue. A size or address that cannot be is not taken.
    fn set_queue_register(&mut self, memory: &GuestMemoryMmap, register: u32, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        match register {
            mmio::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value),
            mmio::VIRTIO_MMIO_QUEUE_READY if queue.set_ready(memory, value == 1).is_err() => {
                self.fail();
            }
            mmio::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_table(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_table(None, Some(value)),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_available_ring(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_available_ring(None, Some(value)),
            mmio::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring(Some(value), None),
            mmio::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring(None, Some(value)),
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
    fn set_status(&mut self, memory: &GuestMemoryMmap, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut value = value | self.status;
        let chosen = value & !self.status & config::VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if chosen {
            let modern = self.driver_features & 1 << config::VIRTIO_F_VERSION_1 != 0;
            if modern && self.driver_features & !self.features() == 0 {
                let event_index = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
                for queue in &mut self.queues {
                    queue.set_event_index(event_index);
                }
                self.device.negotiated(self.driver_features);
            } else {
                value &= !config::VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        let started = value & !self.status & config::VIRTIO_CONFIG_S_DRIVER_OK != 0;
        self.status = value;
        if started {
            // What the host had for the guest before there was a driver to take it.
            self.host_ready(memory);
        }
    }

    fn reset(&mut self) {
        for queue in &mut self.queues {
            queue.reset();
        }
        self.status = 0;
        self.interrupt_status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.pending = None;
        self.device.negotiated(0);
    }

    /// The driver has made something available in a queue.
    pub(crate) fn notified(&mut self, memory: &GuestMemoryMmap, queue: usize) {
        if self.queues.get(queue).is_some_and(Virtqueue::ready) {
            self.serve(memory, |device, queues| device.notified(queue, queues));
        }
    }

    /// Goes on with a queue that was left unfinished; false if there is none.
    pub(crate) fn go_on(&mut self, memory: &GuestMemoryMmap) -> bool {
        let Some(queue) = self.pending.take() else { return false };
        self.notified(memory, queue);
        true
    }

    /// Whether [`go_on`](Transport::go_on) has something to do.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.pending.is_some()
    }

    /// The device's descriptor is ready, or the driver is.
    pub(crate) fn host_ready(&mut self, memory: &GuestMemoryMmap) {
        self.serve(memory, |device, queues| device.host_ready(queues));
    }

    /// See [`Device::notify`].
    pub(crate) fn notify(&self) -> Notify {
        self.device.notify()
    }

    /// How many queues it has.
    pub(crate) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// See [`Device::control`].
    pub(crate) fn control(&self) -> Option<Control> {
        self.device.control()
    }

    /// See [`Device::kick`].
    pub(crate) fn kick(&self, queue: usize) -> Option<RawFd> {
        self.device.kick(queue)
    }

    /// See [`Device::source`].
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.device.source()
    }

    /// See [`Device::gathers`].
    pub(crate) fn gathers(&self) -> bool {
        self.device.gathers()
    }

    fn features(&self) -> u64 {
        FEATURES | self.device.features()
    }

    /// Lets the device work, if it is live, and finds out whether the driver is to be interrupted.
    fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        work: impl FnOnce(&mut dyn Device, &mut Queues<'_>) -> Result<(), Broken>,
    ) {
        let live = self.status & config::VIRTIO_CONFIG_S_DRIVER_OK != 0
            && self.status & config::VIRTIO_CONFIG_S_NEEDS_RESET == 0;
        if !live {
            return;
        }
        let mut queues = Queues::new(memory, &mut self.queues);
        let result = work(&mut *self.device, &mut queues);
        self.pending = queues.again;
        let config_changed = queues.config_changed;
        if queues.interrupt {
            self.interrupt_status |= mmio::VIRTIO_MMIO_INT_VRING;
        }
        if config_changed {
            self.generation = self.generation.wrapping_add(1);
            self.interrupt_status |= mmio::VIRTIO_MMIO_INT_CONFIG;
        }
        for queue in &mut self.queues {
            if queue.wants_interrupt(memory) {
                self.interrupt_status |= mmio::VIRTIO_MMIO_INT_VRING;
            }
        }
        if result.is_err() {
            self.fail();
        }
        if config_changed || result.is_err() { self.show() } else { self.show_interrupts() }
    }

    /// Stops the device until the driver resets it, and tells the driver (section 2.1.2).
    fn fail(&mut self) {
        // Nor may what the host has for it wake anyone.
        self.device.negotiated(0);
        self.status |= config::VIRTIO_CONFIG_S_NEEDS_RESET;
        if self.status & config::VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.interrupt_status |= mmio::VIRTIO_MMIO_INT_CONFIG;
        }
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
