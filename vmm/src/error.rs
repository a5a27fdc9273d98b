//! Everything that can keep a microVM from being made or run.

use thiserror::Error;

use crate::{
    BlockError, BootError, ConfineError, ConsoleError, CpuError, KvmError, MemoryError, NetError,
    ReactorError, SnapshotError, VcpuError, VsockError,
};

/// An error of the VMM. Each message says what failed, on what, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// KVM cannot be used, or refused a request.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initramfs or command line cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A block device cannot be made.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The vCPUs cannot be as asked.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The vsock device cannot be made.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A snapshot cannot be taken or restored.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A network device cannot be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A console cannot be made.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The guest stopped in a way that no guest should.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The thread that serves devices cannot.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// A thread cannot be confined.
    #[error(transparent)]
    Confine(#[from] ConfineError),
}
