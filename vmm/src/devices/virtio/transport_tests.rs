use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;
use virtio_bindings::virtio_config::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;

const TABLE: u32 = 0x1000;
const AVAILABLE: u32 = 0x4000;
const USED: u32 = 0x5000;
const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 2;

/// What the device saw, and what it is to answer.
#[derive(Debug, Default)]
struct Told {
    served: u32,
    negotiated: u64,
    configured: Vec<(usize, Vec<u8>)>,
    answer: Option<Broken>,
    idle: bool,
    again: u32,
}

/// A device that counts and answers as told.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Told>>);

impl Device for Fake {
    fn id(&self) -> u32 {
        42
    }

    fn queues(&self) -> &[u16] {
        &[256]
    }

    fn features(&self) -> u64 {
        1 << 2
    }

    fn negotiated(&mut self, features: u64) {
        self.0.lock().unwrap().negotiated = features;
    }

    fn config(&self) -> &[u8] {
        b"config"
    }

    fn configured(&mut self, at: usize, data: &[u8], _: &mut Queues<'_>) -> Result<(), Broken> {
        self.0.lock().unwrap().configured.push((at, data.to_vec()));
        Ok(())
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let mut told = self.0.lock().unwrap();
        told.served += 1;
        if told.again > 0 {
            told.again -= 1;
            queues.again(index);
        }
        if let Some(broken) = told.answer {
            return Err(broken);
        }
        let memory = queues.memory;
        match queues.get(index) {
            Some(queue) if !told.idle => queue.push(memory, 0, 0),
            _ => Ok(()),
        }
    }
}

struct Bus {
    memory: GuestMemoryMmap,
    transport: Transport,
    fake: Fake,
    pages: RegisterPages,
}

impl Bus {
    fn new() -> Bus {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let fake = Fake::default();
        let pages = RegisterPages::map(1).unwrap();
        let mut transport = Transport::new(Box::new(fake.clone()));
        transport.show_on(pages.page(0));
        Bus { memory, transport, fake, pages }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.fake.0.lock().unwrap()
    }

    /// What a driver reads, which is the same with an exit and without.
    fn read(&self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(register.into(), &mut bytes);
        let value = u32::from_le_bytes(bytes);
        assert_eq!(self.pages.page(0).unwrap().shown(register), value, "{register:#x}");
        value
    }

    fn write(&mut self, register: u32, value: u32) {
        self.transport.write(&self.memory, register.into(), &value.to_le_bytes());
    }

    fn negotiate(&mut self, features: u64) {
        self.write(mmio::VIRTIO_MMIO_STATUS, 1);
        self.write(mmio::VIRTIO_MMIO_STATUS, 3);
        for select in [0, 1] {
            self.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * select)) as u32);
        }
        self.write(mmio::VIRTIO_MMIO_STATUS, 0xb);
    }

    fn start(&mut self) {
        self.start_with(OFFERED);
    }

    fn start_with(&mut self, features: u64) {
        self.negotiate(features);
        self.write(mmio::VIRTIO_MMIO_QUEUE_NUM, 8);
        self.write(mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE);
        self.write(mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE);
        self.write(mmio::VIRTIO_MMIO_QUEUE_USED_LOW, USED);
        self.write(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
        self.write(mmio::VIRTIO_MMIO_STATUS, 0xf);
    }
}

#[test]
fn test_read_identification() {
    let bus = Bus::new();
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_QUEUE_NUM_MAX), 256);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(bus.read(0x1000 - 4), 0);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_CONFIG).to_le_bytes(), *b"conf");
    let mut bytes = [9; 8];
    bus.transport.read(CONFIG + 4, &mut bytes);
    assert_eq!(bytes, *b"ig\0\0\0\0\0\0");
    let mut byte = [9];
    bus.transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn test_start_and_notify_serves_and_interrupts_until_acknowledged() {
    let mut bus = Bus::new();
    bus.start();
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_STATUS), 0xf);
    assert_eq!(bus.told().negotiated, OFFERED);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_eq!(bus.told().served, 0);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.told().served, 1);
    assert!(bus.transport.interrupts());
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    bus.write(mmio::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert!(!bus.transport.interrupts());
}

#[test]
fn test_notify_without_interest_or_work_does_not_interrupt() {
    let mut bus = Bus::new();
    bus.start();
    bus.memory.write_obj(1_u16, GuestAddress(AVAILABLE.into())).unwrap();
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(!bus.transport.interrupts());
    bus.memory.write_obj(0_u16, GuestAddress(AVAILABLE.into())).unwrap();
    bus.told().idle = true;
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(!bus.transport.interrupts());
    assert_eq!(bus.told().served, 2);
}

#[test]
fn test_features_not_offered_or_not_modern_are_refused() {
    for features in [OFFERED | 1 << 40, OFFERED & !(1 << VIRTIO_F_VERSION_1), 0] {
        let mut bus = Bus::new();
        bus.negotiate(features);
        assert_eq!(bus.read(mmio::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0);
        assert_eq!(bus.told().negotiated, 0);
    }
}

#[test]
fn test_features_after_agreement_do_not_change() {
    let mut bus = Bus::new();
    bus.negotiate(OFFERED);
    bus.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    bus.write(mmio::VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    assert_eq!(bus.transport.driver_features, OFFERED);
}

#[test]
fn test_notify_before_driver_ok_does_nothing() {
    let mut bus = Bus::new();
    bus.negotiate(OFFERED);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.told().served, 0);
}

#[test]
fn test_broken_queue_asks_for_reset_and_serves_no_more() {
    let mut bus = Bus::new();
    bus.start();
    bus.told().answer = Some(Broken::Endless);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_STATUS), 0x4f);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_INTERRUPT_STATUS), mmio::VIRTIO_MMIO_INT_CONFIG);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.told().served, 1);
    bus.write(mmio::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_STATUS), 0);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(!bus.transport.interrupts());
    bus.told().answer = None;
    bus.start();
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.told().served, 2);
}

#[test]
fn test_queue_outside_memory_is_not_made_ready() {
    let mut bus = Bus::new();
    bus.negotiate(OFFERED);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_QUEUE_READY), 0);
    assert_ne!(bus.read(mmio::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

#[test]
fn test_other_queues_do_not_exist() {
    let mut bus = Bus::new();
    bus.negotiate(OFFERED);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
    bus.write(mmio::VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_eq!(bus.read(mmio::VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn test_event_index_interrupts_only_when_the_driver_asks() {
    let mut bus = Bus::new();
    bus.start_with(OFFERED | 1 << VIRTIO_RING_F_EVENT_IDX);
    // `used_event`, behind the 8 entries of the available ring.
    let used_event = GuestAddress(u64::from(AVAILABLE) + 4 + 2 * 8);
    bus.memory.write_obj(1_u16, used_event).unwrap();
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(!bus.transport.interrupts(), "the driver waits for the second");
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(bus.transport.interrupts());
}

#[test]
fn test_unfinished_queue_is_served_again() {
    let mut bus = Bus::new();
    bus.start();
    bus.told().again = 2;
    bus.write(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bus.told().served, 1);
    while bus.transport.go_on(&bus.memory) {}
    assert_eq!(bus.told().served, 3);
}

#[test]
fn test_configuration_write_reaches_a_started_device_only() {
    let mut bus = Bus::new();
    bus.transport.write(&bus.memory, CONFIG + 2, &[7, 8]);
    assert!(bus.told().configured.is_empty());
    bus.start();
    bus.transport.write(&bus.memory, CONFIG + 2, &[7, 8]);
    assert_eq!(bus.told().configured, [(2, vec![7, 8])]);
}

proptest! {
    #[test]
    fn test_any_accesses_are_safe(
        accesses in prop::collection::vec((0_u64..0x300, any::<u32>(), 0_usize..9), 0..200),
    ) {
        let mut bus = Bus::new();
        for (offset, value, width) in accesses {
            let bytes = u64::from(value).to_le_bytes();
            bus.transport.write(&bus.memory, offset, &bytes[..width]);
            let mut bytes = [0; 8];
            bus.transport.read(offset, &mut bytes[..width]);
            for register in (0..0x200).step_by(4) {
                bus.read(register);
            }
        }
    }
}
