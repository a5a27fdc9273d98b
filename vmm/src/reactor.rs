//! The device thread: it sleeps until a device's descriptor or an ioeventfd is ready, and lets the
//! device work.
//!
//! A microVM without such devices has no such thread. It never wakes without work, but to end.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};

use kvm_ioctls::{IoEventAddress, VmFd};
use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::KvmError;
use crate::devices::{Devices, Source};
use crate::memory::GuestRam;

/// How many sources are taken from one wait.
const BATCH: usize = 16;
/// The token of the descriptor that ends the thread.
const END: u64 = u64::MAX;

/// The device thread cannot do its work.
#[derive(Debug, Error)]
#[error(
    "the device thread cannot {action}: {error}; see the limits on descriptors and threads (`ulimit -a`)"
)]
pub struct ReactorError {
    action: &'static str,
    #[source]
    error: io::Error,
}

impl ReactorError {
    pub(crate) fn on<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> ReactorError {
        move |error| ReactorError { action, error: error.into() }
    }
}

/// What the device thread waits for.
#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: Epoll,
    sources: Vec<(Source, Option<EventFd>)>,
    end: EventFd,
}

impl Reactor {
    /// Watches what `devices` have; `None` if that is nothing.
    pub(crate) fn new(vm: &VmFd, devices: &Devices) -> Result<Option<Reactor>, crate::Error> {
        let sources = devices.sources();
        if sources.is_empty() {
            return Ok(None);
        }
        let epoll = Epoll::new().map_err(ReactorError::on("make its epoll instance"))?;
        let end = event()?;
        watch(&epoll, end.as_raw_fd(), END)?;
        let mut watched = Vec::with_capacity(sources.len());
        for (token, source) in (0_u64..).zip(sources) {
            let notification = match source {
                Source::Host { fd, .. } => {
                    watch(&epoll, fd, token)?;
                    None
                }
                Source::Elsewhere { queue, address, fd, .. } => {
                    // SAFETY: the device keeps it open; it is not closed here.
                    let event = ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd) });
                    vm.register_ioevent(&event, &IoEventAddress::Mmio(address), queue as u32)
                        .map_err(KvmError::request("KVM_IOEVENTFD"))?;
                    None
                }
                Source::Driver { queue, address, .. } => {
                    let notification = event()?;
                    let address = IoEventAddress::Mmio(address);
                    vm.register_ioevent(&notification, &address, queue as u32)
                        .map_err(KvmError::request("KVM_IOEVENTFD"))?;
                    watch(&epoll, notification.as_raw_fd(), token)?;
                    Some(notification)
                }
            };
            watched.push((source, notification));
        }
        Ok(Some(Reactor { epoll, sources: watched, end }))
    }

    /// Serves devices until [`end`](Reactor::end).
    pub(crate) fn run(
        &self,
        vm: &VmFd,
        ram: &GuestRam,
        devices: &Devices,
    ) -> Result<(), crate::Error> {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ReactorError::on("wait")(error).into()),
            };
            for event in events.iter().take(count) {
                if event.data() == END {
                    // Read, so that the microVM can run again.
                    let _ = self.end.read();
                    return Ok(());
                }
                let token = usize::try_from(event.data()).unwrap_or(usize::MAX);
                let Some((source, notification)) = self.sources.get(token) else { continue };
                if let Some(notification) = notification {
                    let _ = notification.read();
                }
                let unfinished = devices.serve(vm, ram, source)?;
                if let (true, Some(notification)) = (unfinished, notification) {
                    // The others first.
                    notification.write(1).map_err(ReactorError::on("wake itself"))?;
                }
            }
        }
    }

    /// Makes the thread return from [`run`](Reactor::run), now or when it gets there.
    pub(crate) fn end(&self) {
        // It fails only if 2^64 - 2 calls are unread.
        let _ = self.end.write(1);
    }
}

fn event() -> Result<EventFd, ReactorError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ReactorError::on("make an eventfd"))
}

fn watch(epoll: &Epoll, fd: i32, token: u64) -> Result<(), ReactorError> {
    let event = EpollEvent::new(EventSet::IN, token);
    epoll
        .ctl(ControlOperation::Add, fd, event)
        .map_err(ReactorError::on("watch a device's descriptor"))
}
