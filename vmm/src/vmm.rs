//! A microVM from its parts.

use std::fmt;
use std::ops::Range;
use std::thread;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::clock::now_ns;
use crate::devices::{Block, Device, Devices, Vsock};
use crate::layout::{IDENTITY_MAP, TSS, VIRTIO_IRQS};
use crate::memory::GuestRam;
use crate::observer::{Edge, Observer};
use crate::reactor::{Reactor, ReactorError};
use crate::stopper::Stopper;
use crate::vcpu::Machine;
use crate::{BlockError, Config, Error, KvmError, Outcome, boot, cpu, kvm, vcpu};

/// A microVM that is ready to run.
pub struct Vmm {
    // In the order in which they must go: the vCPU and the VM before the memory they use.
    vcpu: VcpuFd,
    vm: VmFd,
    ram: GuestRam,
    devices: Devices,
    reactor: Option<Reactor>,
    observer: Box<dyn Observer>,
    stopper: Stopper,
}

impl fmt::Debug for Vmm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vmm { vcpu, vm, ram, devices, reactor, observer: _, stopper } = self;
        formatter
            .debug_struct("Vmm")
            .field("vcpu", vcpu)
            .field("vm", vm)
            .field("ram", ram)
            .field("devices", devices)
            .field("reactor", reactor)
            .field("stopper", stopper)
            .finish_non_exhaustive()
    }
}

impl Vmm {
    /// Makes the VM, its memory and devices, and loads the guest.
    ///
    /// What can be checked without KVM is checked first. The edges [`Edge::Created`] and
    /// [`Edge::Loaded`] are observed on the way.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`], [`Error::Block`], [`Error::Vsock`] and [`Error::Boot`] for a configuration or file that
    /// cannot be used, [`Error::Kvm`] for a host that cannot run guests.
    pub fn new(config: &Config, mut observer: Box<dyn Observer>) -> Result<Vmm, Error> {
        let others = usize::from(config.vsock.is_some());
        let irqs = interrupt_lines(config.blocks.len(), others)?;
        let cmdline = boot::compose(&config.cmdline, irqs)?;
        let mut virtio: Vec<Box<dyn Device>> = Vec::with_capacity(irqs.len());
        for (index, block) in config.blocks.iter().enumerate() {
            virtio.push(Box::new(Block::open(block, index)?));
        }
        if let Some(vsock) = &config.vsock {
            virtio.push(Box::new(Vsock::open(vsock)?));
        }
        let ram = GuestRam::new(config.memory_bytes)?;
        let host = kvm::open()?;
        let vm = kvm::create_vm(&host)?;
        // Memory before controllers: these register on KVM's buses, after which a change of memory
        // slots waits for a grace period (11 ms measured on Linux 6.18).
        ram.attach(&vm)?;
        add_controllers(&vm)?;
        let vcpu = cpu::create(&host, &vm)?;
        let devices = Devices::new(virtio.into_iter().zip(irqs.iter().copied()));
        let reactor = Reactor::new(&vm, &devices)?;
        observer.edge(Edge::Created, now_ns());
        let entry = boot::load(config, &cmdline, &ram)?;
        cpu::start_at(&vcpu, entry)?;
        observer.edge(Edge::Loaded, now_ns());
        Ok(Vmm { vcpu, vm, ram, devices, reactor, observer, stopper: Stopper::new() })
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

    /// Runs the guest until it ends. The calling thread becomes the vCPU; a device thread runs
    /// beside it if a device needs one. Nothing polls: while the guest is idle, both sleep in the
    /// kernel.
    ///
    /// Everything the microVM had is gone when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`] if the guest cannot be run on, [`Error::Kvm`] if KVM refuses an interrupt,
    /// [`Error::Reactor`] if the device thread cannot be started or wait.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let Vmm { vcpu, vm, ram, devices, reactor, observer, stopper } = &mut self;
        let (vm, ram, devices, stopper) = (&*vm, &*ram, &*devices, &*stopper);
        let mut machine =
            Machine { vm, ram, devices, observer: &mut **observer, stopper, fresh: true };
        let Some(reactor) = reactor else { return vcpu::run(vcpu, &mut machine) };
        thread::scope(|scope| {
            let serve = || {
                let result = reactor.run(vm, ram, devices);
                if result.is_err() {
                    stopper.stop();
                }
                result
            };
            let thread = thread::Builder::new()
                .name("tare-devices".to_owned())
                .spawn_scoped(scope, serve)
                .map_err(ReactorError::on("be started"))?;
            let outcome = vcpu::run(vcpu, &mut machine);
            reactor.end();
            match thread.join() {
                Ok(served) => served.and(outcome),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

fn interrupt_lines(count: usize, others: usize) -> Result<&'static [u32], BlockError> {
    let limit = VIRTIO_IRQS.len() - others;
    VIRTIO_IRQS.get(..count + others).ok_or(BlockError::TooMany { count, limit })
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
