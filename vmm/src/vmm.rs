//! A microVM from its parts.

use std::fmt;
use std::iter;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use kvm_ioctls::{VcpuFd, VmFd};

use crate::clock::now_ns;
use crate::confine::{Filters, Kind};
use crate::devices::{
    self, BalloonControl, ConsoleControl, Control, Devices, RegisterPages, Streams,
};
use crate::memory::GuestRam;
use crate::observer::{Edge, Observer};
use crate::prepared::interrupt_lines;
use crate::reactor::Reactor;
use crate::snapshot::{misfit, touched_regions};
use crate::stopper::Stopper;
use crate::threads::{Threads, spawn};
use crate::vcpu::Machine;
use crate::{
    Capture, Captured, Config, Error, Filled, MemoryError, Outcome, Prepared, Recording, Snapshot,
    Touched, WorkingSet, controllers, cpu, kvm, vcpu,
};

/// A microVM that is ready to run.
pub struct Vmm {
    // In the order in which they must go: the vCPU, the VM and the devices, which may have transfers
    // in flight, before the memory they use.
    vcpu: VcpuFd,
    /// The vCPUs that wait for the boot vCPU to start them.
    others: Vec<VcpuFd>,
    vm: VmFd,
    devices: Devices,
    ram: GuestRam,
    reactor: Option<Reactor>,
    observer: Box<dyn Observer>,
    stopper: Stopper,
    filters: Arc<Filters>,
    confined: bool,
    /// No vCPU has left the guest for the VMM yet.
    fresh: AtomicBool,
    /// A snapshot is behind it, taken or gone on from, and devices have not gone on yet.
    suspended: bool,
}

impl fmt::Debug for Vmm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vmm {
            vcpu,
            others,
            vm,
            ram,
            devices,
            reactor,
            observer: _,
            stopper,
            filters: _,
            confined,
            fresh,
            suspended,
        } = self;
        formatter
            .debug_struct("Vmm")
            .field("vcpu", vcpu)
            .field("others", others)
            .field("vm", vm)
            .field("ram", ram)
            .field("devices", devices)
            .field("reactor", reactor)
            .field("stopper", stopper)
            .field("confined", confined)
            .field("fresh", fresh)
            .field("suspended", suspended)
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
    /// [`Error::Block`] and [`Error::Vsock`] for a device that cannot be made, [`Error::Memory`]
    /// and [`Error::Kvm`] for a host that cannot run one more guest.
    pub fn launch(prepared: &Prepared, observer: Box<dyn Observer>) -> Result<Vmm, Error> {
        Vmm::launch_with(prepared, Streams::new(), observer)
    }

    /// [`launch`](Vmm::launch), with sockets for the guest's vsock: its first connection to a port
    /// of the host that is named here reaches the socket of that port. Without a vsock device they
    /// are closed.
    ///
    /// # Errors
    ///
    /// Those of [`launch`](Vmm::launch).
    pub fn launch_with(
        prepared: &Prepared,
        streams: Streams,
        observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        Vmm::boot(prepared, None, streams, observer)
    }

    /// [`launch_with`](Vmm::launch_with), in memory that `prepared` has filled: what is left to the
    /// launch is to map it. It is this guest's alone, and goes with it.
    ///
    /// # Errors
    ///
    /// Those of [`launch`](Vmm::launch), and [`MemoryError::Foreign`].
    pub fn launch_in(
        prepared: &Prepared,
        filled: Filled,
        streams: Streams,
        observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        if !filled.is_of(prepared) {
            return Err(MemoryError::Foreign.into());
        }
        Vmm::boot(prepared, Some(filled), streams, observer)
    }

    fn boot(
        prepared: &Prepared,
        filled: Option<Filled>,
        streams: Streams,
        mut observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        let Prepared { config, image, identity, .. } = prepared;
        let Config { memory_bytes, pages: size, prefault, .. } = *config;
        let virtio = devices::open(config, streams)?;
        let irqs = interrupt_lines(virtio.len())?;
        let ram = match &filled {
            None => GuestRam::new(memory_bytes, size, prefault)?,
            Some(filled) => {
                GuestRam::filled(memory_bytes, size, prefault, filled.file(), filled.runs())?
            }
        };
        let host = kvm::reopen()?;
        let vm = kvm::create_vm(&host)?;
        // Memory before controllers: these register on KVM's buses, after which a change of memory
        // slots waits for a grace period (11 ms measured on Linux 6.18).
        ram.attach(&vm)?;
        let pages = RegisterPages::attach(&vm, virtio.len())?;
        controllers::add(&vm, config.timer)?;
        let vcpu = cpu::create(&vm, 0, identity)?;
        let mut others = Vec::with_capacity(usize::from(config.vcpus) - 1);
        for index in 1..config.vcpus {
            others.push(cpu::create(&vm, index, identity)?);
        }
        let virtio = virtio.into_iter().zip(irqs.iter().copied());
        let devices = Devices::new(config, virtio, pages);
        let reactor = Reactor::new(&vm, &devices)?;
        observer.edge(Edge::Created, now_ns());
        if filled.is_none() {
            ram.fill(image, size)?;
        }
        cpu::start_at(&vcpu, image.entry())?;
        observer.edge(Edge::Loaded, now_ns());
        Ok(Vmm {
            vcpu,
            others,
            vm,
            ram,
            devices,
            reactor,
            observer,
            stopper: Stopper::new(),
            filters: Arc::clone(&prepared.filters),
            confined: false,
            fresh: AtomicBool::new(true),
            suspended: false,
        })
    }

    /// Makes a guest that goes on where `snapshot` was taken, of the configuration that it was
    /// opened with. [`Edge::Created`] and [`Edge::Loaded`] are observed on the way.
    ///
    /// To the guest no time has passed. What it must renew — its random numbers, its wall clock, its
    /// address — it finds at the renewal port (0xE00): see [`Observer::parked`].
    ///
    /// # Errors
    ///
    /// As of [`launch`](Vmm::launch), and [`Error::Snapshot`] for a device that cannot be in the
    /// state that the snapshot has.
    pub fn restore(
        prepared: &Prepared,
        snapshot: &Snapshot,
        observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        Vmm::restore_with(prepared, snapshot, Streams::new(), observer)
    }

    /// [`restore`](Vmm::restore), with sockets for the guest's vsock, as of
    /// [`launch_with`](Vmm::launch_with).
    ///
    /// # Errors
    ///
    /// Those of [`restore`](Vmm::restore).
    pub fn restore_with(
        prepared: &Prepared,
        snapshot: &Snapshot,
        streams: Streams,
        observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        let vmm = Vmm::resurrect(prepared, snapshot, snapshot.map()?, streams, observer)?;
        if let Some(set) = snapshot.working_set() {
            set.fetch(&vmm.ram, snapshot.is_held());
        }
        Ok(vmm)
    }

    /// As [`restore`](Vmm::restore), slowly, to find out which pages the guest touches. Pause it
    /// when it has done what its successors are to do fast, and have the result by
    /// [`recorded`](Vmm::recorded).
    ///
    /// # Errors
    ///
    /// As of `restore`, and [`SnapshotError::Record`](crate::SnapshotError::Record).
    pub fn record(
        prepared: &Prepared,
        snapshot: &Snapshot,
        observer: Box<dyn Observer>,
    ) -> Result<(Vmm, Recording), Error> {
        let (ram, recording) = Recording::new(snapshot)?;
        let vmm = Vmm::resurrect(prepared, snapshot, ram, Streams::new(), observer)?;
        Ok((vmm, recording))
    }

    /// What a guest of [`record`](Vmm::record) has touched. It is of no other use after that.
    ///
    /// # Errors
    ///
    /// [`Error::Snapshot`] where the snapshot cannot be read.
    pub fn recorded(self, recording: Recording) -> Result<WorkingSet, Error> {
        Ok(recording.finish(&self.ram)?)
    }

    fn resurrect(
        prepared: &Prepared,
        snapshot: &Snapshot,
        ram: GuestRam,
        streams: Streams,
        mut observer: Box<dyn Observer>,
    ) -> Result<Vmm, Error> {
        let Prepared { config, identity, .. } = prepared;
        let virtio = devices::open(config, streams)?;
        let irqs = interrupt_lines(virtio.len())?;
        let host = kvm::reopen()?;
        let vm = kvm::create_vm(&host)?;
        ram.attach(&vm)?;
        let pages = RegisterPages::attach(&vm, virtio.len())?;
        controllers::add(&vm, snapshot.controllers.has_timer())?;
        let vcpu = cpu::create(&vm, 0, identity)?;
        let mut others = Vec::with_capacity(usize::from(config.vcpus) - 1);
        for index in 1..config.vcpus {
            others.push(cpu::create(&vm, index, identity)?);
        }
        let virtio = virtio.into_iter().zip(irqs.iter().copied());
        let devices = Devices::restored(config, virtio, pages, &snapshot.devices, &ram);
        let devices = devices.map_err(misfit)?;
        let reactor = Reactor::new(&vm, &devices)?;
        observer.edge(Edge::Created, now_ns());
        snapshot.controllers.give(&vm)?;
        for (vcpu, saved) in iter::once(&vcpu).chain(&others).zip(&snapshot.vcpus) {
            saved.give(vcpu, identity.is_emulated())?;
        }
        snapshot.controllers.give_clock(&vm)?;
        observer.edge(Edge::Loaded, now_ns());
        Ok(Vmm {
            vcpu,
            others,
            vm,
            ram,
            devices,
            reactor,
            observer,
            stopper: Stopper::new(),
            filters: Arc::clone(&prepared.filters),
            confined: false,
            fresh: AtomicBool::new(true),
            suspended: true,
        })
    }

    /// Takes a snapshot of a guest that is paused ([`End::Paused`](crate::End::Paused)) or has not
    /// run yet. It can be run on. `prepared` is what it was launched or restored with.
    ///
    /// Nothing is written to its disks that the guest has not written, and what a disk's file has
    /// in the host's cache stays there. A thread that is [confined](Vmm::confine) may not do
    /// this: run the guest on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Kvm`] where KVM does not give the state, [`Error::Snapshot`] where it cannot be
    /// written.
    pub fn snapshot(&mut self, prepared: &Prepared, capture: &Capture) -> Result<Captured, Error> {
        let Vmm { vcpu, others, vm, ram, devices, suspended, .. } = self;
        *suspended = true;
        let devices = devices.save(vm, ram)?;
        let msrs = prepared.identity.msrs();
        let vcpus = iter::once(&*vcpu).chain(&*others);
        let vcpus: Vec<_> =
            vcpus.map(|vcpu| cpu::Saved::of(vm, vcpu, msrs)).collect::<Result<_, _>>()?;
        let controllers = controllers::Saved::of(vm)?;
        capture.write(prepared, &vcpus, &controllers, &devices, ram)
    }

    /// Has a message for the guest follow the record that it reads at the renewal port (0xE00): who
    /// it is now and what it is to do, in whatever form the two have agreed on. At most
    /// [`MESSAGE_MAX_BYTES`](crate::MESSAGE_MAX_BYTES) of it are taken.
    pub fn tell(&mut self, message: Vec<u8>) {
        self.devices.tell(message);
    }

    /// Something to end [`run`](Vmm::run) with from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// The host's side of the balloon, if the configuration has one.
    pub fn balloon(&self) -> Option<BalloonControl> {
        self.devices.controls().find_map(|control| match control {
            Control::Balloon(balloon) => Some(balloon),
            Control::Console(_) => None,
        })
    }

    /// The host's side of the console, if the configuration has one.
    pub fn console(&self) -> Option<ConsoleControl> {
        self.devices.controls().find_map(|control| match control {
            Control::Console(console) => Some(console),
            Control::Balloon(_) => None,
        })
    }

    /// Which large pages of its RAM a guest has come to by now, to have them filled for those that will
    /// do as it did. It asks /proc, so the calling thread must not be [confined](Vmm::confine).
    ///
    /// # Errors
    ///
    /// [`Error::Snapshot`] where the host does not say.
    pub fn touched(&self) -> Result<Touched, Error> {
        Ok(Touched { regions: touched_regions(&self.ram)? })
    }

    /// Where guest RAM lies in this process: what /proc/PID/smaps shows there belongs to the
    /// guest, all else to the VMM. See also [`GUEST_RAM_NAME`](crate::GUEST_RAM_NAME).
    pub fn guest_memory(&self) -> Range<usize> {
        self.ram.host_range()
    }

    /// Has [`run`](Vmm::run) put every thread that it uses under a seccomp filter, the calling one
    /// included, which stays under it for good: for a process that is there to run this microVM.
    ///
    /// A filtered thread can serve the guest and nothing else. A system call beyond that ends the
    /// process by `SIGSYS`. So does one of the [`Observer`]'s: it may read, write and use the clock
    /// and memory.
    pub fn confine(&mut self) {
        self.confined = true;
    }

    /// Runs the guest until it ends. The calling thread becomes the boot vCPU; the others have a
    /// thread each, and so have devices to which the host speaks first. Nothing polls: while the
    /// guest is idle, all sleep in the kernel.
    ///
    /// After [`End::Paused`](crate::End::Paused) it may be called again, from any thread, and the
    /// guest goes on where it was.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`] if the guest cannot be run on, [`Error::Kvm`] if KVM refuses an interrupt,
    /// [`Error::Reactor`] if a thread cannot be started or the device thread cannot wait,
    /// [`Error::Confine`] if seccomp filters are asked for and the kernel has none.
    pub fn run(&mut self) -> Result<Outcome, Error> {
        let Vmm {
            vcpu,
            others,
            vm,
            ram,
            devices,
            reactor,
            observer,
            stopper,
            filters,
            confined,
            fresh,
            suspended,
        } = self;
        let (vm, ram, devices, confined) = (&*vm, &*ram, &*devices, *confined);
        let filters = &**filters;
        let reactor = reactor.as_ref();
        if mem::take(suspended) {
            devices.resume(vm, ram)?;
        }
        let machine = Machine::new(vm, ram, devices, &mut **observer, stopper, fresh);
        let run = |vcpu: &mut VcpuFd, boots| {
            if confined {
                filters.apply(Kind::Vcpu)?;
            }
            vcpu::run(vcpu, &machine, boots)
        };
        let serve = |reactor: &Reactor| {
            if confined {
                filters.apply(Kind::Device)?;
            }
            reactor.run(vm, ram, devices)
        };
        let result = thread::scope(|scope| {
            let mut threads = Threads::default();
            let started = others.iter_mut().zip(1..).try_for_each(|(vcpu, index)| {
                let machine = &machine;
                let body = move || machine.ending(run(vcpu, false));
                threads.vcpus.push(spawn(scope, format!("tare-vcpu-{index}"), body)?);
                Ok(())
            });
            let started = started.and_then(|()| match reactor {
                None => Ok(()),
                Some(reactor) => {
                    let machine = &machine;
                    let body = move || machine.ending(serve(reactor));
                    threads.device = Some(spawn(scope, "tare-devices".to_owned(), body)?);
                    Ok(())
                }
            });
            let own = machine.ending(started.and_then(|()| run(vcpu, true)));
            machine.leave();
            if let Some(reactor) = reactor {
                reactor.end();
            }
            threads.join(own)
        });
        stopper.paused();
        machine.outcome(result?)
    }
}
