//! A microVM from its parts.

use std::fmt;
use std::ops::Range;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::clock::now_ns;
use crate::devices::{Block, Devices};
use crate::layout::{IDENTITY_MAP, TSS};
use crate::memory::GuestRam;
use crate::observer::{Edge, Observer};
use crate::prepared::interrupt_lines;
use crate::stopper::Stopper;
use crate::vcpu::Machine;
use crate::{Config, Error, KvmError, Outcome, Prepared, cpu, kvm, vcpu};

/// A microVM that is ready to run.
pub struct Vmm {
    // In the order in which they must go: the vCPU and the VM before the memory they use.
    vcpu: VcpuFd,
    /// The vCPUs that wait for the boot vCPU to start them.
    others: Vec<VcpuFd>,
    vm: VmFd,
    ram: GuestRam,
    devices: Devices,
    observer: Box<dyn Observer>,
    stopper: Stopper,
}

impl fmt::Debug for Vmm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vmm { vcpu, others, vm, ram, devices, observer: _, stopper } = self;
        formatter
            .debug_struct("Vmm")
            .field("vcpu", vcpu)
            .field("others", others)
            .field("vm", vm)
            .field("ram", ram)
            .field("devices", devices)
            .field("stopper", stopper)
            .finish_non_exhaustive()
    }
}

impl Vmm {
    /// [`Prepared::new`] and [`launch`](Vmm::launch) in one.
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn new(config: &Config, observer: Box<dyn Observer>) -> Result<Vmm, Error> {
        Vmm::launch(&Prepared::new(config)?, observer)
    }

    /// Makes the VM, its memory and devices, and loads the guest. The edges [`Edge::Created`] and
    /// [`Edge::Loaded`] are observed on the way.
    ///
    /// # Errors
    ///
    /// [`Error::Block`] for a backing file that cannot be used, [`Error::Memory`] and
    /// [`Error::Kvm`] for a host that cannot run one more guest.
    pub fn launch(prepared: &Prepared, mut observer: Box<dyn Observer>) -> Result<Vmm, Error> {
        let Prepared { config, image, identity } = prepared;
        let irqs = interrupt_lines(config.blocks.len())?;
        let mut blocks = Vec::with_capacity(irqs.len());
        for (index, block) in config.blocks.iter().enumerate() {
            blocks.push(Block::open(block, index)?);
        }
        let ram = GuestRam::new(config.memory_bytes, config.pages, config.prefault)?;
        let host = kvm::open()?;
        let vm = kvm::create_vm(&host)?;
        // Memory before controllers: these register on KVM's buses, after which a change of memory
        // slots waits for a grace period (11 ms measured on Linux 6.18).
        ram.attach(&vm)?;
        add_controllers(&vm)?;
        let vcpu = cpu::create(&vm, 0, identity)?;
        let mut others = Vec::with_capacity(usize::from(config.vcpus) - 1);
        for index in 1..config.vcpus {
            others.push(cpu::create(&vm, index, identity)?);
        }
        let devices = Devices::new(blocks.into_iter().zip(irqs.iter().copied()));
        observer.edge(Edge::Created, now_ns());
        ram.fill(image)?;
        cpu::start_at(&vcpu, image.entry())?;
        observer.edge(Edge::Loaded, now_ns());
        Ok(Vmm { vcpu, others, vm, ram, devices, observer, stopper: Stopper::new() })
    }

    /// Something to end [`run`](Vmm::run) with from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Where guest RAM lies in this process: what /proc/PID/smaps shows there belongs to the
    /// guest, all else to the VMM. See also [`GUEST_RAM_NAME`](crate::GUEST_RAM_NAME).
    pub fn guest_memory(&self) -> Range<usize> {
        self.ram.host_range()
    }

    /// Runs the guest until it ends. The calling thread becomes the vCPU; nothing else runs, and
    /// nothing polls: while the guest is idle, the thread sleeps in the kernel.
    ///
    /// Everything the microVM had is gone when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`] if the guest cannot be run on, [`Error::Kvm`] if KVM refuses an interrupt.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let mut machine = Machine {
            vm: &self.vm,
            ram: &self.ram,
            devices: &mut self.devices,
            observer: &mut *self.observer,
            stopper: &self.stopper,
            fresh: true,
        };
        vcpu::run(&mut self.vcpu, &mut machine)
    }
}

/// The 8259 pair, I/O APIC and local APIC, and the 8254 timer, all in the kernel. The speaker port
/// is the timer's too (`KVM_PIT_SPEAKER_DUMMY`): Linux calibrates by it.
fn add_controllers(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_identity_map_address(IDENTITY_MAP)
        .map_err(KvmError::request("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(TSS as usize).map_err(KvmError::request("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(KvmError::request("KVM_CREATE_IRQCHIP"))?;
    let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(timer).map_err(KvmError::request("KVM_CREATE_PIT2"))
}
