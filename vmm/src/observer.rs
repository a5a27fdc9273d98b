//! How the embedder sees the microVM's life.

/// A point in the life of a microVM, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// The KVM virtual machine, its RAM, interrupt controllers and devices exist.
    Created,
    /// The kernel and the initramfs are in RAM and the vCPU is ready to run.
    Loaded,
    /// Just before the first `KVM_RUN`.
    Enter,
    /// The first exit that reached the VMM: the guest's code runs.
    FirstExit,
    /// The exit that ended the guest.
    End,
}

/// Receives edges and the serial port's output.
///
/// Called on the thread that makes and runs the VMM, while the guest stands still: an
/// implementation that blocks stops the guest's only vCPU.
pub trait Observer: Send {
    /// The microVM passed `edge` at `at_ns` (nanoseconds of `CLOCK_MONOTONIC`).
    fn edge(&mut self, edge: Edge, at_ns: u64);

    /// The guest wrote `bytes` to COM1's data register, in one exit.
    ///
    /// `at_ns` was taken right after the exit, before the VMM did anything with it. One exit may
    /// carry many bytes where KVM passes string I/O on whole, or a single one where it does not
    /// (Linux's instruction emulator exits for each element of `rep outs`).
    fn serial(&mut self, at_ns: u64, bytes: &[u8]);

    /// The guest wrote to the renewal port (0xE00): it is where it can go on anew. An embedder that
    /// wants a snapshot calls [`Stopper::pause`](crate::Stopper::pause) here.
    fn parked(&mut self, _at_ns: u64) {}
}
