//! Accounting of vCPU exits.

use std::ops::Add;

/// How the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The guest pulsed the reset line of the keyboard controller (0xFE to port 0x64), the way in
    /// which Linux reboots a PC.
    Reset,
    /// A triple fault, Linux's last resort to reboot.
    TripleFault,
    /// The vCPU halted and nothing can wake it. Only a VM without interrupt controllers ends so.
    Halted,
    /// The embedder called [`Stopper::stop`](crate::Stopper::stop).
    Stopped,
    /// The embedder called [`Stopper::pause`](crate::Stopper::pause): every vCPU stands between two
    /// instructions, no thread of the VMM is left, and [`Vmm::run`](crate::Vmm::run) goes on.
    Paused,
}

/// What [`Vmm::run`](crate::Vmm::run) reports once the guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How often the vCPU left the guest for the VMM, by reason. Exits that the host's kernel
    /// handles by itself are not seen here.
    pub exits: ExitCounts,
    /// Where the vCPU's time went.
    pub times: Times,
}

/// How long the vCPU's thread was where, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// In `KVM_RUN`: in the guest, in what the host's kernel does for it, and asleep while the
    /// guest is idle.
    pub guest_ns: u64,
    /// In the VMM: from an exit that reached it to the next `KVM_RUN`.
    pub vmm_ns: u64,
}

/// Number of vCPU exits by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Writes to COM1's data register.
    pub serial: u64,
    /// Other port reads.
    pub port_in: u64,
    /// Other port writes.
    pub port_out: u64,
    /// Reads of device registers in memory.
    pub mmio_read: u64,
    /// Writes of device registers in memory.
    pub mmio_write: u64,
    /// `KVM_RUN` returned for a signal.
    pub interrupted: u64,
    /// Anything else: the exit that ended the guest, if it was none of the above.
    pub other: u64,
}

impl Add for ExitCounts {
    type Output = ExitCounts;

    fn add(self, other: ExitCounts) -> ExitCounts {
        ExitCounts {
            serial: self.serial + other.serial,
            port_in: self.port_in + other.port_in,
            port_out: self.port_out + other.port_out,
            mmio_read: self.mmio_read + other.mmio_read,
            mmio_write: self.mmio_write + other.mmio_write,
            interrupted: self.interrupted + other.interrupted,
            other: self.other + other.other,
        }
    }
}

impl Add for Times {
    type Output = Times;

    fn add(self, other: Times) -> Times {
        Times { guest_ns: self.guest_ns + other.guest_ns, vmm_ns: self.vmm_ns + other.vmm_ns }
    }
}

impl ExitCounts {
    /// Each reason's name with its count, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("serial", self.serial),
            ("port_in", self.port_in),
            ("port_out", self.port_out),
            ("mmio_read", self.mmio_read),
            ("mmio_write", self.mmio_write),
            ("interrupted", self.interrupted),
            ("other", self.other),
        ]
        .into_iter()
    }

    /// All exits together.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCounts;

    #[test]
    fn test_exit_counts_total_is_sum_of_named_counts() {
        let counts =
            ExitCounts { serial: 1, port_in: 2, port_out: 3, other: 4, ..Default::default() };
        assert_eq!(counts.total(), 10);
        assert!(counts.iter().any(|named| named == ("port_out", 3)));
    }
}
