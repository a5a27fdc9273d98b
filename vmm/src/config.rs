//! What the embedder asks for.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::CpuProfile;

/// A microVM to be made: vCPUs, RAM, a kernel and its block devices.
///
/// ```
/// use tare_vmm::{BlockConfig, Config};
///
/// let config = Config {
///     kernel: "/boot/vmlinux".into(),
///     initramfs: Some("/boot/initramfs.cpio".into()),
///     cmdline: "quiet panic=-1 noapic -- hold_ms=0".to_owned(),
///     memory_bytes: 256 << 20,
///     blocks: vec![BlockConfig::new("/tmp/disk.img")],
///     ..Config::default()
/// };
/// assert_eq!(config.blocks.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The guest kernel: an x86-64 ELF (`vmlinux`), or a bzImage (`vmlinuz`), of which the ELF
    /// inside is unpacked when the microVM is prepared and loaded at its physical addresses.
    pub kernel: PathBuf,
    /// How the kernel is entered.
    pub protocol: BootProtocol,
    /// The initial RAM file system, handed to the kernel as it is.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line. The VMM adds a `virtio_mmio.device=` word for each virtio device,
    /// before a ` -- ` that parts the kernel's words from init's; but see [`acpi`](Config::acpi).
    pub cmdline: String,
    /// How many vCPUs: from 1 to [`VCPUS_MAX`](crate::VCPUS_MAX), each a core of one thread in one
    /// package. More than one are described to the guest by an MP table, or by ACPI.
    pub vcpus: u8,
    /// Whether ACPI tables tell the guest of processors, COM1 and virtio devices, in place of the
    /// command line and the MP table. Distributions' kernels need them; a kernel that does not is
    /// faster without. The command line must not have `noapic` then.
    pub acpi: bool,
    /// Whether it has an 8254 timer and the speaker's port beside it. Linux on KVM needs none with one
    /// vCPU, whose local APIC has a timer and whose clock KVM tells, and without interrupts through
    /// the I/O APIC; the host is spared a kernel thread, and most of the time that the end of a
    /// microVM takes. A guest that goes on from a snapshot has what it had.
    pub timer: bool,
    /// What the vCPUs say of themselves.
    pub cpu_profile: CpuProfile,
    /// Guest RAM in bytes: from [`MEMORY_MIN_BYTES`](crate::MEMORY_MIN_BYTES) to
    /// [`MEMORY_MAX_BYTES`](crate::MEMORY_MAX_BYTES), a multiple of 4 KiB. A guest whose kernel lies
    /// above 2 MiB is not told of the second MiB, which costs the host nothing then.
    pub memory_bytes: u64,
    /// What guest RAM is made of.
    pub pages: Pages,
    /// Whether all of guest RAM is allocated by the launch, so that the guest never waits for a page
    /// and cannot fail for want of one.
    pub prefault: bool,
    /// Block devices in the order in which the guest names them (`vda`, `vdb` …).
    pub blocks: Vec<BlockConfig>,
    /// Stream sockets between the guest and Unix sockets of the host.
    pub vsock: Option<VsockConfig>,
    /// Whether the guest has a source of the host's random bytes.
    pub rng: bool,
    /// Network devices in the order in which the guest names them (`eth0`, `eth1` …).
    pub nets: Vec<NetConfig>,
    /// A balloon, by which the host has memory back from the guest.
    pub balloon: Option<BalloonConfig>,
    /// A console, the guest's `hvc0`.
    pub console: Option<ConsoleConfig>,
}

impl Default for Config {
    /// One vCPU, 128 MiB of RAM, no devices, and no kernel: the one field that has no sensible
    /// default.
    fn default() -> Config {
        Config {
            kernel: PathBuf::new(),
            protocol: BootProtocol::default(),
            initramfs: None,
            cmdline: String::new(),
            vcpus: 1,
            acpi: false,
            timer: true,
            cpu_profile: CpuProfile::default(),
            memory_bytes: 128 << 20,
            pages: Pages::default(),
            prefault: false,
            blocks: Vec::new(),
            vsock: None,
            rng: false,
            nets: Vec::new(),
            balloon: None,
            console: None,
        }
    }
}

/// What guest RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pages {
    /// Transparent huge pages where the host has them: its own setting may be `madvise` or `always`.
    #[default]
    Thp,
    /// Pages of 4 KiB, whatever the host's setting.
    Small,
    /// Pages of 2 MiB from the host's pool (hugetlbfs, Documentation/admin-guide/mm/hugetlbpage.rst),
    /// reserved as a whole by the launch. Memory must be a multiple of 2 MiB.
    Huge2M,
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BootProtocol {
    /// Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst): every x86-64 Linux has it,
    /// and it spares the guest the way from 32-bit mode, so it is the default.
    #[default]
    Linux64,
    /// The x86/HVM direct boot ABI of Xen (docs/misc/pvh.pandoc): 32-bit protected mode. The kernel
    /// must have the ELF note that names this entry (Linux: `CONFIG_PVH=y`).
    Pvh,
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
    /// How transfers are made.
    pub engine: BlockEngine,
    /// How many queues it has: from 1 to [`BLOCK_QUEUES_MAX`](crate::BLOCK_QUEUES_MAX). A guest of
    /// several vCPUs uses one for each as far as they go.
    pub queues: u16,
}

impl BlockConfig {
    /// A device of one queue that the guest may write to, through the host's page cache.
    pub fn new(path: impl Into<PathBuf>) -> BlockConfig {
        BlockConfig {
            path: path.into(),
            read_only: false,
            direct: false,
            engine: BlockEngine::default(),
            queues: 1,
        }
    }
}

/// How a block device moves data between its file and guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockEngine {
    /// One request after the other, each by one system call of the notifying vCPU's thread, which
    /// waits for it: least work where the file answers at once (the host's page cache, memory).
    #[default]
    Sync,
    /// Up to 128 requests at once by an io_uring: the vCPU's thread hands them over, and the device
    /// thread hears of those that take their time. The guest goes on meanwhile.
    IoUring,
}

/// A virtio socket device.
///
/// With a path: a guest that connects to port P of the host (CID 2) reaches the Unix socket `PATH_P`.
/// A program of the host that connects to `PATH` and sends `CONNECT P\n` reaches the guest's port P
/// and is answered `OK HOSTPORT\n`.
///
/// With or without one: a guest reaches the sockets that
/// [`Vmm::launch_with`](crate::Vmm::launch_with) was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address: from 3 to 4294967294.
    pub guest_cid: u32,
    /// The Unix socket that the VMM listens on; it is removed when the microVM is gone. At most 96
    /// bytes.
    pub path: Option<PathBuf>,
}

/// A network device: an Ethernet port joined to a tap device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// The tap device.
    pub tap: TapSource,
    /// Who moves the packets.
    pub backend: NetBackend,
    /// The guest's address: no group's, and not all zeros.
    pub mac: [u8; 6],
}

/// Who moves a network device's packets between the guest's memory and the tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetBackend {
    /// The VMM, with a system call for each packet.
    #[default]
    User,
    /// A thread of the host's kernel, by `/dev/vhost-net` (module `vhost_net`), which the launch must
    /// be allowed to open; see [`has_vhost_net`](crate::has_vhost_net).
    Vhost,
}

/// A balloon device. What it does while the guest runs is asked through
/// [`Vmm::balloon`](crate::Vmm::balloon).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonConfig {
    /// How much memory the guest is to give up as soon as its driver is there, in whole pages of
    /// 4 KiB. A guest that goes on from a snapshot keeps the target that it had.
    pub target_bytes: u64,
    /// Whether a guest that runs out of memory may take some of it back by itself.
    pub deflate_on_oom: bool,
    /// Whether the guest tells of memory that it has no use for, which is then the host's until the
    /// guest touches it.
    pub free_page_reporting: bool,
}

/// A console device: one port. The descriptors stay the embedder's and must stay open until the
/// launch is done; they do not block from then on, through whichever descriptor they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsoleConfig {
    /// What the guest reads: a pipe, socket, terminal or file. Without one it waits for ever.
    pub input: Option<RawFd>,
    /// What the guest's output is written to. Without one it is lost. A program that does not ignore
    /// `SIGPIPE` is ended when a pipe's reader is gone.
    pub output: Option<RawFd>,
    /// Columns and rows of the terminal; see [`ConsoleControl::resize`](crate::ConsoleControl::resize).
    pub size: (u16, u16),
}

/// Where a tap device comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// The launch opens the tap of that name.
    Name(String),
    /// An open tap ([`open_tap`](crate::open_tap)), which stays the embedder's and must stay open
    /// until the launch is done. Two microVMs that run at once need one each.
    Fd(RawFd),
}
