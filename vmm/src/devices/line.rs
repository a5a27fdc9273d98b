//! An interrupt line into KVM's interrupt controllers.

use kvm_ioctls::VmFd;

use crate::KvmError;

/// A line with its level. KVM hears of changes only.
///
/// `KVM_IRQ_LINE` acts at once on the calling thread. An irqfd would not: for the lines of the
/// 8259 the kernel hands it to a worker thread.
#[derive(Debug)]
pub(crate) struct Line {
    irq: u32,
    high: bool,
}

impl Line {
    /// A low line.
    pub(crate) fn new(irq: u32) -> Line {
        Line { irq, high: false }
    }

    /// Whether it is high.
    pub(crate) fn is_high(&self) -> bool {
        self.high
    }

    /// Takes the level that KVM has from a snapshot.
    pub(crate) fn restore(&mut self, high: bool) {
        self.high = high;
    }

    /// Sets the level. The 8259 takes a rising edge, the I/O APIC what the guest programmed;
    /// holding the line until the device's cause is gone satisfies both.
    pub(crate) fn set(&mut self, vm: &VmFd, high: bool) -> Result<(), KvmError> {
        if high == self.high {
            return Ok(());
        }
        self.high = high;
        vm.set_irq_line(self.irq, high).map_err(KvmError::request("KVM_IRQ_LINE"))
    }
}
