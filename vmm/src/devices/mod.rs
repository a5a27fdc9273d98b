//! The machine's devices, and which of them an exit concerns.
//!
//! A device is a state machine without KVM: it answers reads, takes writes, and says whether its
//! interrupt line is high. `Devices` routes exits to them and passes changes of a line on.

#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod i8042;
mod line;
mod renewal;
mod saved;
mod serial;
mod virtio;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzing::Ports;
pub(crate) use i8042::{COMMAND as RESET_PORT, PULSE_RESET as RESET_VALUE};
pub(crate) use line::Line;
pub use renewal::MESSAGE_MAX_BYTES;
pub(crate) use saved::Saved;
pub(crate) use serial::DATA as SERIAL_PORT;
pub use virtio::{
    BLOCK_QUEUES_MAX, BalloonControl, BalloonState, BalloonStatistics, BlockError, ConsoleControl,
    ConsoleError, NetError, Streams, VsockError, has_vhost_net, open_tap,
};
pub(crate) use virtio::{
    Balloon, Block, Console, Control, Device, Net, Notify, RegisterPages, Rng, SavedTransport,
    Transport, VHOST_REQUESTS, VhostNet, Vsock,
};

use crate::layout::{SERIAL_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_STRIDE};
use crate::memory::GuestRam;
use crate::reactor::ReactorError;
use crate::{Config, Error, KvmError, NetBackend};
use i8042::I8042;
use renewal::Renewal;
use serial::Serial;

/// What a port write means beyond the device it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortWrite {
    /// Nothing.
    Done,
    /// The guest asked for a reset.
    Reset,
    /// The guest is where it can go on anew.
    Parked,
}

/// Every device that the VMM itself answers for. Each has a lock of its own: several vCPUs and the
/// device thread reach them.
#[derive(Debug)]
pub(crate) struct Devices {
    serial: Mutex<(Serial, Line)>,
    renewal: Mutex<Renewal>,
    virtio: Vec<Mutex<(Transport, Line)>>,
    /// Declared last, so that no device refers to a page when they go.
    _pages: Option<RegisterPages>,
}

impl Devices {
    /// COM1, the keyboard controller, the renewal port, and `virtio` with an interrupt line each,
    /// whose registers the guest reads on `pages`.
    pub(crate) fn new(
        config: &Config,
        virtio: impl Iterator<Item = (Box<dyn Device>, u32)>,
        pages: Option<RegisterPages>,
    ) -> Devices {
        let transport = |index, device| {
            let mut transport = Transport::new(device);
            transport.show_on(pages.as_ref().and_then(|pages| pages.page(index)));
            transport
        };
        Devices {
            serial: Mutex::new((Serial::default(), Line::new(SERIAL_IRQ))),
            renewal: Mutex::new(renewal(config)),
            virtio: virtio
                .enumerate()
                .map(|(index, (device, irq))| {
                    Mutex::new((transport(index, device), Line::new(irq)))
                })
                .collect(),
            _pages: pages,
        }
    }

    /// Devices in the state of a snapshot. KVM has the levels of their lines already.
    ///
    /// # Errors
    ///
    /// The number of a device that cannot be in its state.
    pub(crate) fn restored(
        config: &Config,
        virtio: impl Iterator<Item = (Box<dyn Device>, u32)>,
        pages: Option<RegisterPages>,
        saved: &Saved,
        ram: &GuestRam,
    ) -> Result<Devices, usize> {
        let line = |irq, level| {
            let mut line = Line::new(irq);
            line.restore(level);
            line
        };
        let virtio = virtio.zip(&saved.virtio).enumerate();
        let virtio = virtio.map(|(index, ((device, irq), (saved, level)))| {
            let transport = Transport::restored(device, saved, ram.memory());
            let mut transport = transport.ok_or(index)?;
            transport.show_on(pages.as_ref().and_then(|pages| pages.page(index)));
            Ok::<_, usize>(Mutex::new((transport, line(irq, *level))))
        });
        let virtio = virtio.collect::<Result<Vec<_>, usize>>()?;
        let (serial, level) = saved.serial;
        Ok(Devices {
            serial: Mutex::new((Serial::restored(serial), line(SERIAL_IRQ, level))),
            renewal: Mutex::new(renewal(config)),
            virtio,
            _pages: pages,
        })
    }

    /// Has a message for the guest follow its renewal record.
    pub(crate) fn tell(&self, message: Vec<u8>) {
        lock(&self.renewal).tell(message);
    }

    /// Has every device finish what it has begun, and takes their state.
    pub(crate) fn save(&self, vm: &VmFd, ram: &GuestRam) -> Result<Saved, KvmError> {
        let mut virtio = Vec::with_capacity(self.virtio.len());
        for slot in &self.virtio {
            let (transport, line) = &mut *lock(slot);
            transport.settle(ram.memory());
            line.set(vm, transport.interrupts())?;
            virtio.push((transport.save(), line.is_high()));
        }
        let (serial, line) = &*lock(&self.serial);
        Ok(Saved { serial: (serial.save(), line.is_high()), virtio })
    }

    /// Serves what drivers had asked for when the snapshot was taken.
    pub(crate) fn resume(&self, vm: &VmFd, ram: &GuestRam) -> Result<(), KvmError> {
        for slot in &self.virtio {
            let (transport, line) = &mut *lock(slot);
            transport.resume(ram.memory());
            line.set(vm, transport.interrupts())?;
        }
        Ok(())
    }

    /// Whether a write to `port` now is serial output. The caller stamps it before all else.
    pub(crate) fn is_output(&self, port: u16) -> bool {
        port == serial::DATA && lock(&self.serial).0.transmits()
    }

    /// An `out` or one exit's part of `rep outs`. Wide accesses to byte-wide ports do nothing but
    /// at the serial port, where every byte is output.
    pub(crate) fn port_write(
        &self,
        vm: &VmFd,
        port: u16,
        data: &[u8],
    ) -> Result<PortWrite, KvmError> {
        match port {
            serial::DATA..=serial::LAST => {
                let (serial, line) = &mut *lock(&self.serial);
                if port == serial::DATA && serial.transmits() {
                    serial.transmitted();
                } else if let &[value] = data {
                    serial.write(port - serial::DATA, value);
                }
                line.set(vm, serial.interrupts())?;
                Ok(PortWrite::Done)
            }
            renewal::PORT => {
                lock(&self.renewal).rewind();
                Ok(PortWrite::Parked)
            }
            i8042::COMMAND if I8042::is_reset(data) => Ok(PortWrite::Reset),
            _ => Ok(PortWrite::Done),
        }
    }

    /// An `in`; ports that nobody has read as all ones, as on a PC's bus.
    pub(crate) fn port_read(&self, vm: &VmFd, port: u16, data: &mut [u8]) -> Result<(), KvmError> {
        data.fill(0xff);
        match (port, data) {
            (serial::DATA..=serial::LAST, [value]) => {
                let (serial, line) = &mut *lock(&self.serial);
                *value = serial.read(port - serial::DATA);
                line.set(vm, serial.interrupts())
            }
            (renewal::PORT, data) => {
                lock(&self.renewal).read(data);
                Ok(())
            }
            (i8042::COMMAND, [value]) => {
                *value = I8042::STATUS;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A read of memory that is no RAM.
    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((offset, device)) => lock(device).0.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A write to memory that is no RAM. `interrupted` says whether the vCPU is wanted elsewhere,
    /// so that a driver which adds requests for ever cannot hold it.
    pub(crate) fn mmio_write(
        &self,
        vm: &VmFd,
        ram: &GuestRam,
        address: u64,
        data: &[u8],
        interrupted: impl Fn() -> bool,
    ) -> Result<(), KvmError> {
        let Some((offset, device)) = self.virtio_at(address) else { return Ok(()) };
        let (transport, line) = &mut *lock(device);
        transport.write(ram.memory(), offset, data);
        if offset == INTERRUPT_ACK {
            // What came since the driver read why it was interrupted has made no edge, and a
            // controller that takes edges would never tell of it: make one.
            line.set(vm, false)?;
        }
        line.set(vm, transport.interrupts())?;
        while !interrupted() && transport.go_on(ram.memory()) {
            line.set(vm, transport.interrupts())?;
        }
        Ok(())
    }

    /// What the embedder's threads have of the devices.
    pub(crate) fn controls(&self) -> impl Iterator<Item = Control> {
        self.virtio.iter().filter_map(|slot| lock(slot).0.control())
    }

    /// The sources that the device thread has to watch.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for (device, slot) in self.virtio.iter().enumerate() {
            let transport = &lock(slot).0;
            let host = transport.source().map(|fd| fd.as_raw_fd());
            sources.extend(host.map(|fd| Source::Host { device, fd }));
            let address = VIRTIO_MMIO + VIRTIO_MMIO_STRIDE * device as u64 + NOTIFY;
            let queues = 0..transport.queue_count();
            let is_threads = transport.notify() == Notify::Thread;
            sources.extend(queues.filter_map(|queue| match transport.kick(queue) {
                Some(fd) => Some(Source::Elsewhere { device, queue, address, fd }),
                None => is_threads.then_some(Source::Driver { device, queue, address }),
            }));
        }
        sources
    }

    /// What the device thread does when a source is ready. True if there is more to do.
    pub(crate) fn serve(
        &self,
        vm: &VmFd,
        ram: &GuestRam,
        source: &Source,
    ) -> Result<bool, KvmError> {
        let (Source::Host { device, .. }
        | Source::Driver { device, .. }
        | Source::Elsewhere { device, .. }) = *source;
        let Some(slot) = self.virtio.get(device) else { return Ok(false) };
        if matches!(source, Source::Host { .. }) && lock(slot).0.gathers() {
            // Not under the lock, which a vCPU may want.
            std::thread::yield_now();
        }
        let (transport, line) = &mut *lock(slot);
        match *source {
            Source::Host { .. } => transport.host_ready(ram.memory()),
            Source::Driver { queue, .. } | Source::Elsewhere { queue, .. } => {
                transport.notified(ram.memory(), queue);
            }
        }
        line.set(vm, transport.interrupts())?;
        Ok(transport.is_unfinished())
    }

    fn virtio_at(&self, address: u64) -> Option<(u64, &Mutex<(Transport, Line)>)> {
        let from = address.checked_sub(VIRTIO_MMIO)?;
        let index = usize::try_from(from / VIRTIO_MMIO_STRIDE).ok()?;
        Some((from % VIRTIO_MMIO_STRIDE, self.virtio.get(index)?))
    }
}

fn renewal(config: &Config) -> Renewal {
    Renewal::new(config.vsock.as_ref().map_or(0, |vsock| vsock.guest_cid))
}

/// How many virtio devices a configuration asks for.
pub(crate) fn count(config: &Config) -> usize {
    config.blocks.len()
        + usize::from(config.vsock.is_some())
        + usize::from(config.rng)
        + config.nets.len()
        + usize::from(config.balloon.is_some())
        + usize::from(config.console.is_some())
}

/// Makes the virtio devices of a configuration, in the order of their addresses.
///
/// # Errors
///
/// A device's own: its file or socket cannot be used.
pub(crate) fn open(config: &Config, streams: Streams) -> Result<Vec<Box<dyn Device>>, Error> {
    let mut devices: Vec<Box<dyn Device>> = Vec::with_capacity(count(config));
    for (index, block) in config.blocks.iter().enumerate() {
        devices.push(Box::new(Block::open(block, index)?));
    }
    if let Some(vsock) = &config.vsock {
        devices.push(Box::new(Vsock::open(vsock, streams)?));
    }
    if config.rng {
        devices.push(Box::new(Rng::new()));
    }
    for net in &config.nets {
        devices.push(match net.backend {
            NetBackend::User => Box::new(Net::open(net)?),
            NetBackend::Vhost => Box::new(VhostNet::open(net)?),
        });
    }
    if let Some(balloon) = &config.balloon {
        let made = Balloon::new(balloon);
        devices.push(Box::new(made.map_err(ReactorError::on("make a balloon's eventfd"))?));
    }
    if let Some(console) = &config.console {
        devices.push(Box::new(Console::open(console)?));
    }
    Ok(devices)
}

/// `QueueNotify` among a device's registers (section 4.2.2).
const NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// `InterruptACK`, likewise.
const INTERRUPT_ACK: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_INTERRUPT_ACK as u64;

/// Something that calls for the device thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A device's own descriptor.
    Host {
        /// Which device.
        device: usize,
        /// The descriptor, open as long as the device.
        fd: RawFd,
    },
    /// A driver's notification, for which an ioeventfd stands.
    Driver {
        /// Which device.
        device: usize,
        /// Which of its queues.
        queue: usize,
        /// The register that the driver writes the queue's number to.
        address: u64,
    },
    /// A driver's notification that goes past the device thread, to whoever serves the queue.
    Elsewhere {
        /// Which device.
        device: usize,
        /// Which of its queues.
        queue: usize,
        /// As of `Driver`.
        address: u64,
        /// The device's eventfd, open as long as the device.
        fd: RawFd,
    },
}

/// A device that a panic left behind is no worse than one whose driver broke it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
