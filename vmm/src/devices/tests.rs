use kvm_bindings::{KVM_IRQCHIP_PIC_MASTER, kvm_irqchip};
use virtio_bindings::virtio_mmio as mmio;

use super::virtio::{Broken, Queues};
use super::*;
use crate::Pages;
use crate::kvm;

const IRQ: u32 = 5;

/// A device that breaks, and says so by an interrupt, when its configuration is written to.
#[derive(Debug)]
struct Fragile;

impl Device for Fragile {
    fn id(&self) -> u32 {
        42
    }

    fn queues(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn negotiated(&mut self, _: u64) {}

    fn config(&self) -> &[u8] {
        &[0]
    }

    fn configured(&mut self, _: usize, _: &[u8], _: &mut Queues<'_>) -> Result<(), Broken> {
        Err(Broken::Endless)
    }

    fn notified(&mut self, _: usize, _: &mut Queues<'_>) -> Result<(), Broken> {
        Ok(())
    }
}

/// Whether the 8259 has seen an edge of the line since it was last asked.
fn take_edge(vm: &VmFd) -> bool {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_PIC_MASTER, ..Default::default() };
    vm.get_irqchip(&mut chip).unwrap();
    // SAFETY: KVM fills this member for the chip that was asked for, and it is plain numbers.
    let pic = unsafe { &mut chip.chip.pic };
    let seen = pic.irr & 1 << IRQ != 0;
    pic.irr = 0;
    vm.set_irqchip(&chip).unwrap();
    seen
}

#[test]
fn test_acknowledgement_that_leaves_a_cause_makes_another_edge() {
    if !kvm::available("test_acknowledgement_that_leaves_a_cause") {
        return;
    }
    let vm = kvm::create_vm(&kvm::open().unwrap()).unwrap();
    vm.create_irq_chip().unwrap();
    let ram = GuestRam::new(16 << 20, Pages::Small, false).unwrap();
    let device = Box::new(Fragile) as Box<dyn Device>;
    let devices = Devices::new(&Config::default(), [(device, IRQ)].into_iter(), None);
    let write = |register: u32, value: u32| {
        let (address, data) = (VIRTIO_MMIO + u64::from(register), value.to_le_bytes());
        devices.mmio_write(&vm, &ram, address, &data, || false).unwrap();
    };
    for (register, value) in [
        (mmio::VIRTIO_MMIO_STATUS, 3),
        (mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
        (mmio::VIRTIO_MMIO_DRIVER_FEATURES, 1),
        (mmio::VIRTIO_MMIO_STATUS, 0xb),
        (mmio::VIRTIO_MMIO_STATUS, 0xf),
    ] {
        write(register, value);
    }
    assert!(!take_edge(&vm));
    write(mmio::VIRTIO_MMIO_CONFIG, 1);
    assert!(take_edge(&vm));
    // The driver had read another cause, before this one came.
    write(mmio::VIRTIO_MMIO_INTERRUPT_ACK, mmio::VIRTIO_MMIO_INT_VRING);
    assert!(take_edge(&vm));
    write(mmio::VIRTIO_MMIO_INTERRUPT_ACK, mmio::VIRTIO_MMIO_INT_CONFIG);
    assert!(!take_edge(&vm));
}
