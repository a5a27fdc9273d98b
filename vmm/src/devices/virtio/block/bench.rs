//! What the tests of the block device share: a device, its queues in guest memory, and the file.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::Virtqueue;
use super::*;

pub(super) const MEMORY_BYTES: usize = 4 << 20;
pub(super) const DISK_BYTES: u64 = 64 << 10;
pub(super) const TABLE: u64 = 0x1000;
pub(super) const AVAILABLE: u64 = 0x4000;
pub(super) const USED: u64 = 0x5000;
pub(super) const HEADER: u64 = 0x8000;
pub(super) const STATUS: u64 = 0x8100;
pub(super) const DATA: u64 = 0x1_0000;
/// The rings of a further queue lie this much behind those of the one before.
pub(super) const STRIDE: u64 = 0x10_0000;
pub(super) const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(super) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub(super) const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// See the module's text.
pub(super) struct Bench {
    pub(super) memory: GuestMemoryMmap,
    pub(super) queues: Vec<Virtqueue>,
    pub(super) block: Block,
    pub(super) file: tempfile::NamedTempFile,
    available: Vec<u16>,
    /// Whether `notify` waits as a snapshot does, without the device thread's part.
    pub(super) settles: bool,
}

/// Runs a test on each engine.
pub(super) fn each_engine(read_only: bool, test: impl Fn(Bench)) {
    for engine in [BlockEngine::Sync, BlockEngine::IoUring] {
        test(Bench::with(|config| (config.engine, config.read_only) = (engine, read_only)));
    }
}

impl Bench {
    /// Sector N of the disk is full of N.
    pub(super) fn with(change: impl FnOnce(&mut BlockConfig)) -> Bench {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let bytes: Vec<u8> = (0..DISK_BYTES).map(|index| (index / 512) as u8).collect();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let mut config = BlockConfig::new(file.path());
        change(&mut config);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let queue = |index: u16| {
            let base = u64::from(index) * STRIDE;
            let mut queue = Virtqueue::new(QUEUE_SIZE);
            queue.set_table(Some((base + TABLE) as u32), None);
            queue.set_available_ring(Some((base + AVAILABLE) as u32), None);
            queue.set_used_ring(Some((base + USED) as u32), None);
            queue.set_ready(&memory, true).unwrap();
            queue
        };
        let queues: Vec<_> = (0..config.queues).map(queue).collect();
        let mut block = Block::open(&config, 3).unwrap();
        block.negotiated(block.features());
        let available = vec![0; queues.len()];
        Bench { memory, queues, block, file, available, settles: false }
    }

    pub(super) fn header(&self, kind: u32, sector: u64) {
        self.header_at(HEADER, kind, sector);
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
    }

    pub(super) fn header_at(&self, at: u64, kind: u32, sector: u64) {
        self.memory.write_obj(kind, GuestAddress(at)).unwrap();
        self.memory.write_obj(sector, GuestAddress(at + 8)).unwrap();
    }

    pub(super) fn describe(&self, index: u64, descriptor: (u64, u32, u16, u16)) {
        self.describe_at(TABLE + 16 * index, descriptor);
    }

    pub(super) fn describe_at(
        &self,
        at: u64,
        (address, length, flags, next): (u64, u32, u16, u16),
    ) {
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes the chain that starts at descriptor `head` available without a word to the device.
    pub(super) fn add(&mut self, queue: usize, head: u16) {
        let ring = AVAILABLE + queue as u64 * STRIDE;
        let slot = ring + 4 + 2 * u64::from(self.available[queue] % QUEUE_SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.memory.write_obj(self.available[queue], GuestAddress(ring + 2)).unwrap();
    }

    /// Makes a chain available and serves the queue until it is done.
    pub(super) fn offer(&mut self, head: u16) -> Result<bool, Broken> {
        self.add(0, head);
        self.notify()
    }

    /// Header, `buffers`, status, linked one by one.
    pub(super) fn request(&mut self, buffers: &[(u64, u32, u16)]) -> Result<(u8, u32), Broken> {
        self.describe(0, (HEADER, 16, NEXT, 1));
        for (index, &(address, length, flags)) in (1_u16..).zip(buffers) {
            self.describe(index.into(), (address, length, flags | NEXT, index + 1));
        }
        self.describe(buffers.len() as u64 + 1, (STATUS, 1, WRITE, 0));
        let used = self.used(0);
        assert!(self.offer(0)?);
        assert_eq!(self.used(0), used.wrapping_add(1));
        let length = USED + 4 + 8 * u64::from(used % QUEUE_SIZE) + 4;
        Ok((
            self.memory.read_obj(GuestAddress(STATUS)).unwrap(),
            self.memory.read_obj(GuestAddress(length)).unwrap(),
        ))
    }

    /// How many chains have been given back.
    pub(super) fn used(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(USED + queue as u64 * STRIDE + 2)).unwrap()
    }

    /// Tells the device that queue 0 has something and serves it until nothing is in flight; true
    /// if the driver is to be interrupted.
    pub(super) fn notify(&mut self) -> Result<bool, Broken> {
        self.tell(0)?;
        if self.settles {
            self.settle()?;
        }
        while self.block.ring.as_ref().is_some_and(|ring| !ring.is_idle()) {
            assert!(self.hears(5000), "a request ends and nobody is told");
            self.host_ready()?;
        }
        Ok(self.queues[0].wants_interrupt(&self.memory))
    }

    /// Tells the device that a queue has something.
    pub(super) fn tell(&mut self, queue: usize) -> Result<(), Broken> {
        self.block.notified(queue, &mut Queues::new(&self.memory, &mut self.queues))
    }

    /// The device thread's part.
    pub(super) fn host_ready(&mut self) -> Result<(), Broken> {
        self.block.host_ready(&mut Queues::new(&self.memory, &mut self.queues))
    }

    /// A snapshot's part.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        self.block.settle(&mut Queues::new(&self.memory, &mut self.queues))
    }

    /// Whether the device thread is called for within so many milliseconds.
    pub(super) fn hears(&self, timeout_ms: i32) -> bool {
        let Some(source) = self.block.source() else { return false };
        let mut poll = libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the one descriptor is valid for reading and writing.
        unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
    }

    pub(super) fn data(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn disk(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }
}
