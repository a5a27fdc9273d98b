//! The machine's devices, and which of them an exit concerns.
//!
//! A device is a state machine without KVM: it answers reads, takes writes, and says whether its
//! interrupt line is high. `Devices` routes exits to them and passes changes of a line on.

mod i8042;
mod line;
mod serial;
mod virtio;

use kvm_ioctls::VmFd;

pub(crate) use line::Line;
pub use virtio::BlockError;
pub(crate) use virtio::{Block, Transport};

use crate::KvmError;
use crate::layout::{SERIAL_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_STRIDE};
use crate::memory::GuestRam;
use i8042::I8042;
use serial::Serial;

/// What a port write means beyond the device it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortWrite {
    /// Nothing.
    Done,
    /// The guest asked for a reset.
    Reset,
}

/// Every device that the VMM itself answers for.
#[derive(Debug)]
pub(crate) struct Devices {
    serial: Serial,
    serial_line: Line,
    virtio: Vec<(Transport<Block>, Line)>,
}

impl Devices {
    /// COM1, the keyboard controller, and `blocks` with an interrupt line each.
    pub(crate) fn new(blocks: impl Iterator<Item = (Block, u32)>) -> Devices {
        Devices {
            serial: Serial::default(),
            serial_line: Line::new(SERIAL_IRQ),
            virtio: blocks.map(|(block, irq)| (Transport::new(block), Line::new(irq))).collect(),
        }
    }

    /// Whether a write to `port` now is serial output. The caller stamps it before all else.
    pub(crate) fn is_output(&self, port: u16) -> bool {
        port == serial::DATA && self.serial.transmits()
    }

    /// An `out` or one exit's part of `rep outs`. Wide accesses to byte-wide ports do nothing but
    /// at the serial port, where every byte is output.
    pub(crate) fn port_write(
        &mut self,
        vm: &VmFd,
        port: u16,
        data: &[u8],
    ) -> Result<PortWrite, KvmError> {
        match port {
            serial::DATA..=serial::LAST => {
                if self.is_output(port) {
                    self.serial.transmitted();
                } else if let &[value] = data {
                    self.serial.write(port - serial::DATA, value);
                }
                self.serial_line.set(vm, self.serial.interrupts())?;
                Ok(PortWrite::Done)
            }
            i8042::COMMAND if I8042::is_reset(data) => Ok(PortWrite::Reset),
            _ => Ok(PortWrite::Done),
        }
    }

    /// An `in`; ports that nobody has read as all ones, as on a PC's bus.
    pub(crate) fn port_read(
        &mut self,
        vm: &VmFd,
        port: u16,
        data: &mut [u8],
    ) -> Result<(), KvmError> {
        data.fill(0xff);
        match (port, data) {
            (serial::DATA..=serial::LAST, [value]) => {
                *value = self.serial.read(port - serial::DATA);
                self.serial_line.set(vm, self.serial.interrupts())
            }
            (i8042::COMMAND, [value]) => {
                *value = I8042::STATUS;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A read of memory that is no RAM.
    pub(crate) fn mmio_read(&mut self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((offset, (transport, _))) => transport.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write to memory that is no RAM.
    pub(crate) fn mmio_write(
        &mut self,
        vm: &VmFd,
        ram: &GuestRam,
        address: u64,
        data: &[u8],
    ) -> Result<(), KvmError> {
        match self.virtio_at(address) {
            Some((offset, (transport, line))) => {
                transport.write(ram.memory(), offset, data);
                line.set(vm, transport.interrupts())
            }
            None => Ok(()),
        }
    }

    fn virtio_at(&mut self, address: u64) -> Option<(u64, &mut (Transport<Block>, Line))> {
        let from = address.checked_sub(VIRTIO_MMIO)?;
        let index = usize::try_from(from / VIRTIO_MMIO_STRIDE).ok()?;
        Some((from % VIRTIO_MMIO_STRIDE, self.virtio.get_mut(index)?))
    }
}
