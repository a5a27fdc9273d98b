//! Interrupt controllers, timer and clock of a VM, which are the kernel's.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use crate::KvmError;
use crate::layout::{IDENTITY_MAP, TSS};
use crate::snapshot::{FormatError, Kind, Sections, Writer};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// The 8259 pair, I/O APIC and local APIC, and, if wanted, the 8254 timer, all in the kernel. The
/// speaker port is the timer's too (`KVM_PIT_SPEAKER_DUMMY`): Linux calibrates by it.
pub(crate) fn add(vm: &VmFd, timer: bool) -> Result<(), KvmError> {
    vm.set_identity_map_address(IDENTITY_MAP)
        .map_err(KvmError::request("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(TSS as usize).map_err(KvmError::request("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(KvmError::request("KVM_CREATE_IRQCHIP"))?;
    if !timer {
        return Ok(());
    }
    let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(timer).map_err(KvmError::request("KVM_CREATE_PIT2"))
}

/// Their state.
pub(crate) struct Saved {
    chips: [kvm_irqchip; 3],
    timer: Option<kvm_pit_state2>,
    clock: kvm_clock_data,
}

impl Saved {
    /// Reads them, the timer if there is one; no vCPU may be running.
    pub(crate) fn of(vm: &VmFd) -> Result<Saved, KvmError> {
        let mut chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(KvmError::request("KVM_GET_IRQCHIP"))?;
        }
        let timer = match vm.get_pit2() {
            Err(error) if error.errno() == libc::ENXIO => None,
            timer => Some(timer.map_err(KvmError::request("KVM_GET_PIT2"))?),
        };
        let clock = vm.get_clock().map_err(KvmError::request("KVM_GET_CLOCK"))?;
        Ok(Saved { chips, timer, clock })
    }

    /// Adds them to a snapshot.
    pub(crate) fn write(&self, writer: &mut Writer) {
        for (index, chip) in self.chips.iter().enumerate() {
            writer.section(Kind::Controller, index, chip);
        }
        if let Some(timer) = &self.timer {
            writer.section(Kind::Timer, 0, timer);
        }
        writer.section(Kind::Clock, 0, &self.clock);
    }

    /// Takes them from a snapshot.
    pub(crate) fn read(sections: &Sections) -> Result<Saved, FormatError> {
        let chip = |index| sections.value::<kvm_irqchip>(Kind::Controller, index);
        let mut chips = [chip(0)?, chip(1)?, chip(2)?];
        for (chip, id) in chips.iter_mut().zip(CHIPS) {
            chip.chip_id = id;
        }
        let timer = sections.has(Kind::Timer).then(|| sections.value(Kind::Timer, 0));
        Ok(Saved { chips, timer: timer.transpose()?, clock: sections.value(Kind::Clock, 0)? })
    }

    /// Whether there is a timer among them.
    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Gives controllers and timer to a fresh VM, which has the same.
    pub(crate) fn give(&self, vm: &VmFd) -> Result<(), KvmError> {
        for chip in &self.chips {
            vm.set_irqchip(chip).map_err(KvmError::request("KVM_SET_IRQCHIP"))?;
        }
        let timer = self.timer.as_ref().map_or(Ok(()), |timer| vm.set_pit2(timer));
        timer.map_err(KvmError::request("KVM_SET_PIT2"))
    }

    /// Sets the guest's clock to where it was, once its vCPUs have their time-stamp counters: to
    /// the guest no time has passed.
    pub(crate) fn give_clock(&self, vm: &VmFd) -> Result<(), KvmError> {
        let clock = kvm_clock_data { clock: self.clock.clock, ..Default::default() };
        vm.set_clock(&clock).map_err(KvmError::request("KVM_SET_CLOCK"))
    }
}
