//! The loop between the guest and its devices.

use std::io;
use std::ops::Add;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use thiserror::Error;

use crate::clock::now_ns;
use crate::devices::{Devices, PortWrite};
use crate::exits::{End, ExitCounts, Outcome, Times};
use crate::memory::GuestRam;
use crate::observer::{Edge, Observer};
use crate::stopper::Stopper;
use crate::{Error, KvmError};

/// The guest stopped in a way that no guest should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// The processor would not enter the guest.
    #[error(
        "the processor refused to enter the guest at rip {rip:#x} (hardware reason {reason:#x}): the kernel or its boot state is invalid for this host; see `dmesg | grep kvm`"
    )]
    FailEntry {
        /// `hardware_entry_failure_reason`.
        reason: u64,
        /// The instruction pointer.
        rip: u64,
    },
    /// KVM could not go on.
    #[error(
        "KVM gave up on the guest at rip {rip:#x} (internal error, suberror {suberror}, data {data:x?}): the guest ran an instruction that this host's KVM cannot emulate, or KVM has a defect; see `dmesg | grep kvm`"
    )]
    Internal {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What KVM added.
        data: Vec<u64>,
        /// The instruction pointer.
        rip: u64,
    },
    /// `KVM_RUN` failed.
    #[error(
        "KVM_RUN failed at rip {rip:#x}: {error}; see `dmesg | grep kvm`, and whether the host has run out of memory"
    )]
    Run {
        /// The kernel's answer.
        #[source]
        error: io::Error,
        /// The instruction pointer.
        rip: u64,
    },
    /// An exit that a guest of this machine cannot cause.
    #[error(
        "the guest left by an exit that this machine does not know ({exit}) at rip {rip:#x}: report it with the kernel that caused it"
    )]
    Unexpected {
        /// The exit.
        exit: String,
        /// The instruction pointer.
        rip: u64,
    },
    /// The vCPU's thread cannot be made to listen to a stopper.
    #[error("cannot listen to the signal that stops the guest: {0}; leave SIGRTMIN to the VMM")]
    Signal(#[source] io::Error),
}

/// All that running needs, shared by the vCPUs.
pub(crate) struct Machine<'a> {
    vm: &'a VmFd,
    ram: &'a GuestRam,
    devices: &'a Devices,
    observer: Mutex<&'a mut dyn Observer>,
    stopper: &'a Stopper,
    /// No vCPU has left for the VMM yet.
    fresh: &'a AtomicBool,
    /// How the guest ended, by the first vCPU that knew.
    end: Mutex<Option<End>>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(
        vm: &'a VmFd,
        ram: &'a GuestRam,
        devices: &'a Devices,
        observer: &'a mut dyn Observer,
        stopper: &'a Stopper,
        fresh: &'a AtomicBool,
    ) -> Machine<'a> {
        let (observer, end) = (Mutex::new(observer), Mutex::new(None));
        Machine { vm, ram, devices, observer, stopper, fresh, end }
    }

    /// Ends every vCPU if this part of the machine has failed.
    pub(crate) fn ending<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.stop();
        }
        result
    }

    /// Ends every vCPU, unless the guest is only paused.
    pub(crate) fn leave(&self) {
        if *lock(&self.end) != Some(End::Paused) {
            self.stop();
        }
    }

    /// Ends every vCPU.
    fn stop(&self) {
        self.stopper.stop();
    }

    /// What there is to report when all have ended.
    pub(crate) fn outcome(&self, account: Account) -> Result<Outcome, Error> {
        let end = lock(&self.end).unwrap_or(End::Stopped);
        Ok(Outcome { end, exits: account.exits, times: account.times })
    }

    fn ended(&self, end: End, at_ns: u64) {
        let mut slot = lock(&self.end);
        // Another vCPU may end the guest while this one has only paused.
        if matches!(*slot, None | Some(End::Paused)) && *slot != Some(end) {
            *slot = Some(end);
            if end != End::Paused {
                lock(&self.observer).edge(Edge::End, at_ns);
            }
        }
        drop(slot);
        if !matches!(end, End::Stopped | End::Paused) {
            self.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of an observer ends the run anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a vCPU did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    exits: ExitCounts,
    times: Times,
}

impl Add for Account {
    type Output = Account;

    fn add(self, other: Account) -> Account {
        Account { exits: self.exits + other.exits, times: self.times + other.times }
    }
}

/// What one exit means for the loop.
enum Next {
    Enter,
    End(End),
    /// Decoded with the exit's data still borrowed; the registers are read after that.
    Wrong(Wrong),
}

enum Wrong {
    FailEntry(u64),
    Internal,
    Run(io::Error),
    Unexpected(String),
}

/// Runs a vCPU on the calling thread until the guest ends. The boot vCPU's entry is an edge; the
/// others wait in the kernel until it starts them.
pub(crate) fn run(vcpu: &mut VcpuFd, machine: &Machine<'_>, boots: bool) -> Result<Account, Error> {
    let Account { mut exits, mut times } = Account::default();
    // From here on a stop cannot be missed.
    let running = machine.stopper.enter(vcpu).map_err(VcpuError::Signal)?;
    let mut entered_ns = now_ns();
    if boots && machine.fresh.load(Ordering::Relaxed) {
        lock(&machine.observer).edge(Edge::Enter, entered_ns);
    }
    let end = loop {
        let exit = vcpu.run();
        let left_ns = now_ns();
        times.guest_ns += left_ns - entered_ns;
        let next = handle(exit, left_ns, machine, &mut exits)?;
        entered_ns = now_ns();
        times.vmm_ns += entered_ns - left_ns;
        match next {
            Next::Enter => {}
            Next::End(end) => break end,
            Next::Wrong(wrong) => return Err(explain(vcpu, wrong).into()),
        }
    };
    machine.ended(end, entered_ns);
    drop(running);
    Ok(Account { exits, times })
}

/// Handles an exit that came at `at_ns`.
fn handle(
    exit: Result<VcpuExit<'_>, kvm_ioctls::Error>,
    at_ns: u64,
    machine: &Machine<'_>,
    exits: &mut ExitCounts,
) -> Result<Next, KvmError> {
    let Machine { vm, ram, devices, observer, stopper, fresh, end: _ } = machine;
    if exit.is_ok() && fresh.load(Ordering::Relaxed) && fresh.swap(false, Ordering::Relaxed) {
        lock(observer).edge(Edge::FirstExit, at_ns);
    }
    match exit {
        Ok(VcpuExit::IoOut(port, data)) => {
            if devices.is_output(port) {
                exits.serial += 1;
                lock(observer).serial(at_ns, data);
            } else {
                exits.port_out += 1;
            }
            Ok(match devices.port_write(vm, port, data)? {
                PortWrite::Reset => Next::End(End::Reset),
                PortWrite::Done => Next::Enter,
                PortWrite::Parked => {
                    lock(observer).parked(at_ns);
                    Next::Enter
                }
            })
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            exits.port_in += 1;
            devices.port_read(vm, port, data)?;
            Ok(Next::Enter)
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            exits.mmio_write += 1;
            devices.mmio_write(vm, ram, address, data, || stopper.is_stopped())?;
            Ok(Next::Enter)
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            exits.mmio_read += 1;
            devices.mmio_read(address, data);
            Ok(Next::Enter)
        }
        // EAGAIN: the vCPU was woken before it was started.
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            exits.interrupted += 1;
            // KVM has completed the I/O of the exit before, and only then looked at the request.
            Ok(stopper.asked().map_or(Next::Enter, Next::End))
        }
        other => {
            exits.other += 1;
            Ok(match other {
                Ok(VcpuExit::Shutdown) => Next::End(End::TripleFault),
                Ok(VcpuExit::Hlt) => Next::End(End::Halted),
                Ok(VcpuExit::FailEntry(reason, _)) => Next::Wrong(Wrong::FailEntry(reason)),
                Ok(VcpuExit::InternalError) => Next::Wrong(Wrong::Internal),
                Ok(exit) => Next::Wrong(Wrong::Unexpected(format!("{exit:?}"))),
                Err(error) => Next::Wrong(Wrong::Run(error.into())),
            })
        }
    }
}

/// Adds where the guest was. Registers that cannot be read any more are given as 0.
fn explain(vcpu: &mut VcpuFd, wrong: Wrong) -> VcpuError {
    let rip = vcpu.get_regs().map_or(0, |registers| registers.rip);
    match wrong {
        Wrong::FailEntry(reason) => VcpuError::FailEntry { reason, rip },
        Wrong::Internal => internal(vcpu.get_kvm_run(), rip),
        Wrong::Run(error) => VcpuError::Run { error, rip },
        Wrong::Unexpected(exit) => VcpuError::Unexpected { exit, rip },
    }
}

fn internal(run: &kvm_run, rip: u64) -> VcpuError {
    // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member; all of
    // its bytes are plain numbers anyway.
    let details = unsafe { run.__bindgen_anon_1.internal };
    let count = (details.ndata as usize).min(details.data.len());
    VcpuError::Internal { suberror: details.suberror, data: details.data[..count].to_vec(), rip }
}
