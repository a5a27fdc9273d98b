//! A driver that does what its input says: a guest whose kernel is the fuzzer.

use virtio_bindings::{virtio_config as config, virtio_mmio as mmio};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Input;
use crate::devices::{Device, Transport};

/// RAM in two parts, as around a real guest's hole, but small.
const LOW_BYTES: usize = 256 << 10;
const HIGH: u64 = 1 << 20;
const HIGH_BYTES: usize = 64 << 10;
/// A queue's descriptors, available and used ring in the set-up that a driver makes.
const QUEUE_BYTES: u32 = 0x4000;
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;
/// Some descriptors: few enough that they are likely to be used.
const QUEUE_SIZE: u16 = 16;
/// No more is done in one run, that none takes long.
const STEPS_MAX: usize = 256;
/// A driver may add while the device serves: so often it is asked to go on.
const ROUNDS_MAX: usize = 4;

/// A device on its transport, and the memory of its guest.
pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    pub(super) transport: Transport,
}

/// Guest memory of zeros.
pub(super) fn memory() -> GuestMemoryMmap {
    let ranges = [(GuestAddress(0), LOW_BYTES), (GuestAddress(HIGH), HIGH_BYTES)];
    match GuestMemoryMmap::from_ranges(&ranges) {
        Ok(memory) => memory,
        Err(error) => panic!("no memory for a guest: {error}"),
    }
}

impl Driver {
    pub(super) fn new(device: Box<dyn Device>) -> Driver {
        Driver { memory: memory(), transport: Transport::new(device) }
    }

    /// Sets the device up as a good driver does, with these of the features that it offers.
    pub(super) fn start(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(mmio::VIRTIO_MMIO_STATUS, status);
        }
        for select in [0, 1] {
            self.write(mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            let mut bytes = [0; 4];
            self.transport.read(mmio::VIRTIO_MMIO_DEVICE_FEATURES.into(), &mut bytes);
            let mut chosen = u32::from_le_bytes(bytes) & (features >> (32 * select)) as u32;
            if select == 1 {
                chosen |= 1 << (config::VIRTIO_F_VERSION_1 - 32);
            }
            self.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES, chosen);
        }
        self.write(mmio::VIRTIO_MMIO_STATUS, 0xb);
        for queue in 0..self.transport.queue_count() as u32 {
            let base = queue * QUEUE_BYTES;
            self.write(mmio::VIRTIO_MMIO_QUEUE_SEL, queue);
            self.write(mmio::VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
            self.write(mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, base);
            self.write(mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + AVAILABLE);
            self.write(mmio::VIRTIO_MMIO_QUEUE_USED_LOW, base + USED);
            self.write(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.write(mmio::VIRTIO_MMIO_STATUS, 0xf);
    }

    fn write(&mut self, register: u32, value: u32) {
        self.transport.write(&self.memory, register.into(), &value.to_le_bytes());
    }

    /// Does what the input says; `host` is what the other side of the device does.
    pub(super) fn run(&mut self, input: &mut Input<'_>, mut host: impl FnMut(&mut Input<'_>)) {
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            self.step(input, &mut host);
            // What a thread of a vCPU, or of devices, does after each exit or event.
            for _ in 0..ROUNDS_MAX {
                if !self.transport.go_on(&self.memory) {
                    break;
                }
            }
        }
        self.transport.settle(&self.memory);
        let saved = self.transport.save().bytes();
        assert!(crate::devices::SavedTransport::parse(&saved).is_some(), "a state that is none");
    }

    fn step(&mut self, input: &mut Input<'_>, host: &mut dyn FnMut(&mut Input<'_>)) {
        match input.byte() % 9 {
            0 => {
                let address = input.number(3);
                let count = input.byte().into();
                self.store(address, input.take(count));
            }
            1 => {
                let register = u32::from(input.byte()) * 4;
                let value = input.word();
                self.write(register, value);
            }
            2 => {
                let offset = input.half().into();
                let count = usize::from(input.byte() % 9);
                let bytes = input.take(count);
                self.transport.write(&self.memory, offset, bytes);
            }
            3 => {
                let offset = input.half().into();
                let mut bytes = [0; 8];
                let count = usize::from(input.byte() % 9);
                self.transport.read(offset, &mut bytes[..count]);
            }
            4 => self.describe(input),
            5 => self.offer(input),
            6 => self.transport.notified(&self.memory, usize::from(input.byte() % 8)),
            7 => self.transport.host_ready(&self.memory),
            _ => host(input),
        }
    }

    fn store(&self, address: u64, bytes: &[u8]) {
        // What is no RAM takes nothing, as on a real bus.
        let _ = self.memory.write(bytes, GuestAddress(address));
    }

    /// One descriptor, whole.
    fn describe(&self, input: &mut Input<'_>) {
        let queue = u64::from(input.byte() % 4);
        let index = u64::from(input.byte());
        let mut descriptor = [0; 16];
        descriptor[..3].copy_from_slice(&input.number(3).to_le_bytes()[..3]);
        descriptor[8..10].copy_from_slice(&input.half().to_le_bytes());
        // Lengths beyond all memory are as interesting as any.
        descriptor[11] = input.byte() & 0x80;
        descriptor[12..14].copy_from_slice(&u16::from(input.byte() % 8).to_le_bytes());
        descriptor[14..].copy_from_slice(&u16::from(input.byte()).to_le_bytes());
        self.store(queue * u64::from(QUEUE_BYTES) + 16 * index, &descriptor);
    }

    /// Makes a chain available.
    fn offer(&self, input: &mut Input<'_>) {
        let ring = u64::from(input.byte() % 4) * u64::from(QUEUE_BYTES) + u64::from(AVAILABLE);
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
        let head = u16::from(input.byte());
        self.store(ring + 4 + 2 * u64::from(index % QUEUE_SIZE), &head.to_le_bytes());
        self.store(ring + 2, &index.wrapping_add(1).to_le_bytes());
    }
}
