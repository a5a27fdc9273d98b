//! What the embedder asks for.

use std::path::PathBuf;

/// A microVM to be made: one vCPU, RAM, a kernel and its block devices.
///
/// ```
/// use tare_vmm::{BlockConfig, Config};
///
/// let config = Config {
///     kernel: "/boot/vmlinux".into(),
///     initramfs: Some("/boot/initramfs.cpio".into()),
///     cmdline: "quiet panic=-1 noapic -- hold_ms=0".to_owned(),
///     memory_bytes: 256 << 20,
///     blocks: vec![BlockConfig { path: "/tmp/disk.img".into(), read_only: true, direct: false }],
///     ..Config::default()
/// };
/// assert_eq!(config.blocks.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The guest kernel: an uncompressed x86-64 ELF (`vmlinux`).
    pub kernel: PathBuf,
    /// The initial RAM file system, handed to the kernel as it is.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line. The VMM adds a `virtio_mmio.device=` word for each virtio device,
    /// before a ` -- ` that parts the kernel's words from init's.
    pub cmdline: String,
    /// Guest RAM in bytes: from [`MEMORY_MIN_BYTES`](crate::MEMORY_MIN_BYTES) to
    /// [`MEMORY_MAX_BYTES`](crate::MEMORY_MAX_BYTES), a multiple of 4 KiB.
    pub memory_bytes: u64,
    /// Block devices in the order in which the guest names them (`vda`, `vdb` …).
    pub blocks: Vec<BlockConfig>,
    /// Stream sockets between the guest and Unix sockets of the host.
    pub vsock: Option<VsockConfig>,
}

impl Default for Config {
    /// 128 MiB of RAM, no devices, and no kernel: the one field that has no sensible default.
    fn default() -> Config {
        Config {
            kernel: PathBuf::new(),
            initramfs: None,
            cmdline: String::new(),
            memory_bytes: 128 << 20,
            blocks: Vec::new(),
            vsock: None,
        }
    }
}

/// A block device backed by a file or by a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockConfig {
    /// The backing file; its size must be a multiple of 512 bytes.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether to bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
}

/// A virtio socket device.
///
/// A guest that connects to port P of the host (CID 2) reaches the Unix socket `PATH_P`. A program
/// of the host that connects to `PATH` and sends `CONNECT P\n` reaches the guest's port P and is
/// answered `OK HOSTPORT\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address: from 3 to 4294967294.
    pub guest_cid: u32,
    /// The Unix socket that the VMM listens on; it is removed when the microVM is gone. At most 96
    /// bytes.
    pub path: PathBuf,
}
