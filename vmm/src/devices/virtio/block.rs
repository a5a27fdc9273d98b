//! The block device (section 5.2) over a file, with a synchronous engine and one on io_uring.
//!
//! Data moves straight between guest memory and the file, one system call a request or, on
//! io_uring, one for all that a notification brought. What the file answers at once is given back by
//! the vCPU's thread that asked for it, so that at depth 1 no thread has to wake.
//!
//! Both engines give up space and write zeroes on the calling thread: file systems do that rarely.
//!
//! In the lab's virtual time (`tare compare --host lab --on microvm,qemu --workload file`, O_DIRECT
//! in guest and host over ext4 on a RAM disk; QEMU 7.2 microvm with aio=io_uring):
//!
//! | what | synchronous | io_uring | QEMU |
//! |---|---|---|---|
//! | random read of 4 KiB, one at a time | 43.7 µs | 44.5 µs | 125 µs |
//! | random read of 4 KiB, 32 at once, each | 18.0 µs | 20.0 µs | 44.1 µs |
//! | sequential read by 128 KiB | 894 MB/s | 891 MB/s | 534 MB/s |
//! | launch → first `KVM_RUN`, in ms | 4.54 | 5.67 | |
//!
//! That disk answers at once, so the ring can only cost: hence the synchronous engine is the
//! default. Before registers were read without an exit (see the transport), the first figure was
//! 48.8 µs. What it costs a guest's start that discarding and writing zeroes are offered was 0.03 ms
//! before and cannot be seen now.

mod request;
mod ring;

use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use super::chain::{Buffers, Status, scatter, total};
use super::disk::{BlockError, Disk, SECTOR_BYTES};
use super::{Broken, Device, Queues};
use crate::{BlockConfig, BlockEngine};
use request::{Failure, Kind, Ranges, Request};
use ring::{Ended, Ring, Task};

/// The greatest number of queues that a block device can have: one for each of the most vCPUs.
pub const BLOCK_QUEUES_MAX: u16 = crate::VCPUS_MAX as u16;

/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 256;
const ID_BYTES: usize = blk::VIRTIO_BLK_ID_BYTES as usize;
/// A whole queue less header and status: a request of 128 KiB in scattered pages is still one.
/// A segment itself has no limit, so `VIRTIO_BLK_F_SIZE_MAX` is not offered.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges in one request to discard or to write zeroes.
const RANGES_MAX: u32 = 32;
/// Sectors of one range to discard: 1 GiB.
const DISCARD_SECTORS_MAX: u32 = 1 << 21;
/// Sectors of one range to fill with zeroes, which may have to be written: 16 MiB.
const ZERO_SECTORS_MAX: u32 = 1 << 15;

/// `struct virtio_blk_config` without what zoned devices and secure erasure add.
const CONFIG_BYTES: usize = 60;
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;
const CONFIG_NUM_QUEUES: usize = 34;
const CONFIG_MAX_DISCARD_SECTORS: usize = 36;
const CONFIG_MAX_DISCARD_SEG: usize = 40;
const CONFIG_DISCARD_ALIGNMENT: usize = 44;
const CONFIG_MAX_ZERO_SECTORS: usize = 48;
const CONFIG_MAX_ZERO_SEG: usize = 52;
const CONFIG_ZERO_MAY_UNMAP: usize = 56;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Block {
    disk: Disk,
    ring: Option<Ring>,
    read_only: bool,
    /// What the driver has chosen.
    features: u64,
    id: [u8; ID_BYTES],
    config: [u8; CONFIG_BYTES],
    queue_sizes: Vec<u16>,
    buffers: Buffers,
    /// Queues, by bit, that have more than the ring had room for.
    waiting: u64,
}

/// What has become of a request that was taken from a queue.
enum Progress {
    /// It is done, and so many bytes may have been written to guest memory.
    Done(u32),
    /// The ring has it.
    InFlight,
}

impl Block {
    /// Opens the backing file; `index` tells devices apart in the id that the guest can read.
    pub(crate) fn open(config: &BlockConfig, index: usize) -> Result<Block, BlockError> {
        let queues = config.queues;
        if !(1..=BLOCK_QUEUES_MAX).contains(&queues) {
            let (path, limit) = (config.path.clone(), BLOCK_QUEUES_MAX);
            return Err(BlockError::Queues { path, queues, limit });
        }
        let disk = Disk::open(config)?;
        let ring = match config.engine {
            BlockEngine::Sync => None,
            BlockEngine::IoUring => Some(
                Ring::new(QUEUE_SIZE)
                    .map_err(|error| BlockError::Ring { path: config.path.clone(), error })?,
            ),
        };
        let mut id = [0; ID_BYTES];
        for (byte, text) in id.iter_mut().zip(format!("tare-disk-{index}").bytes()) {
            *byte = text;
        }
        Ok(Block {
            config: configuration(&disk, queues),
            disk,
            ring,
            read_only: config.read_only,
            features: 0,
            id,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            buffers: Buffers::new(QUEUE_SIZE),
            waiting: 0,
        })
    }

    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Takes what a queue has, at most one queue's worth: a request may read from the disk into the
    /// ring itself, and so keep a loop until the ring is empty alive for ever.
    fn take(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(index) else { return Ok(()) };
        for _ in 0..queue.size() {
            if self.ring.as_ref().is_some_and(Ring::is_full) {
                self.waiting |= 1 << index;
                return Ok(());
            }
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            if let Progress::Done(written) = self.begin(index, head)? {
                queue.push(memory, head, written)?;
            }
        }
        if queue.listen(memory)? {
            match self.ring {
                Some(_) => self.waiting |= 1 << index,
                None => queues.again(index),
            }
        }
        Ok(())
    }

    /// Begins the request in `self.buffers`.
    fn begin(&mut self, queue: usize, head: u16) -> Result<Progress, Broken> {
        let request = Request::parse(&mut self.buffers)?;
        let status = self.buffers.take_last()?;
        // Less than 4 GiB: `Buffers` comes from a chain, which has no more.
        let writable = total(self.buffers.writable()) as u32;
        if let Some(progress) = self.hand_over(&request, queue, head, status) {
            return Ok(progress);
        }
        let result = self.execute(&request);
        let written = match (&result, request.kind) {
            (Ok(()), Kind::Read | Kind::Id) => writable,
            _ => 0,
        };
        status.set(Failure::code(result));
        Ok(Progress::Done(written.saturating_add(1)))
    }

    /// Gives a request to the ring, if there is one and the request is for it.
    fn hand_over(
        &mut self,
        request: &Request,
        queue: usize,
        head: u16,
        status: Status,
    ) -> Option<Progress> {
        let ring = self.ring.as_mut()?;
        let durable = self.features & 1 << blk::VIRTIO_BLK_F_FLUSH == 0;
        let (task, bytes) = match request.kind {
            Kind::Read => (Task::Read, total(self.buffers.writable())),
            Kind::Write if !self.read_only => {
                (Task::Write { durable }, total(self.buffers.readable()))
            }
            Kind::Flush => (Task::Flush, 0),
            _ => return None,
        };
        let offset = match task {
            Task::Flush => 0,
            // One without data, in the wrong place or for the bounce memory goes the other way.
            _ if bytes == 0 || !self.disk.takes(&self.buffers) => return None,
            _ => place(&self.disk, request.sector, bytes).ok()?,
        };
        ring.begin(self.disk.file(), task, offset, &mut self.buffers, (queue, head, status));
        Some(Progress::InFlight)
    }

    fn execute(&mut self, request: &Request) -> Result<(), Failure> {
        let sector = request.sector;
        let write_through = !self.has(blk::VIRTIO_BLK_F_FLUSH);
        match request.kind {
            Kind::Read => {
                let offset = place(&self.disk, sector, total(self.buffers.writable()))?;
                return Ok(self.disk.read(self.buffers.writable_mut(), offset)?);
            }
            Kind::Id => {
                let fits = scatter(self.buffers.writable(), 0, &self.id);
                return if fits { Ok(()) } else { Err(Failure::Io) };
            }
            Kind::Flush => return Ok(self.disk.flush()?),
            Kind::Discard if !self.has(blk::VIRTIO_BLK_F_DISCARD) => {
                return Err(Failure::Unsupported);
            }
            Kind::WriteZeroes if !self.has(blk::VIRTIO_BLK_F_WRITE_ZEROES) => {
                return Err(Failure::Unsupported);
            }
            Kind::Unknown => return Err(Failure::Unsupported),
            Kind::Write | Kind::Discard | Kind::WriteZeroes if self.read_only => {
                return Err(Failure::Io);
            }
            Kind::Write => {
                let offset = place(&self.disk, sector, total(self.buffers.readable()))?;
                self.disk.write(self.buffers.readable_mut(), offset)?;
            }
            Kind::Discard => {
                let ranges = Ranges::read(&self.buffers, RANGES_MAX)?;
                for range in ranges.checked(&self.disk, DISCARD_SECTORS_MAX, false)? {
                    self.disk.discard(range.offset, range.bytes)?;
                }
            }
            Kind::WriteZeroes => {
                let ranges = Ranges::read(&self.buffers, RANGES_MAX)?;
                for range in ranges.checked(&self.disk, ZERO_SECTORS_MAX, true)? {
                    self.disk.write_zeroes(range.offset, range.bytes, range.unmap)?;
                }
            }
        }
        if write_through {
            self.disk.flush()?;
        }
        Ok(())
    }

    /// Has the kernel begin what the ring was given, and gives back what is done.
    fn turn(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        ring.submit();
        let result = give_back(ring, self.disk.file(), queues);
        self.remember();
        result
    }

    /// Where nothing is in flight that would call for it, has the device thread go on with what
    /// waits.
    fn remember(&mut self) {
        if let Some(ring) = &self.ring
            && self.waiting != 0
            && ring.is_idle()
        {
            ring.wake();
        }
    }
}

/// Gives back all that has ended since the last look.
fn give_back(ring: &mut Ring, file: i32, queues: &mut Queues<'_>) -> Result<(), Broken> {
    let memory = queues.memory;
    while let Some(Ended { queue, head, written }) = ring.next_ended(file) {
        if let Some(queue) = queues.get(queue) {
            queue.push(memory, head, written)?;
        }
    }
    Ok(())
}

/// Where `bytes` from `sector` on lie in the file, if they do.
fn place(disk: &Disk, sector: u64, bytes: u64) -> Result<u64, Failure> {
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Failure::Io)?;
    let end = offset.checked_add(bytes).ok_or(Failure::Io)?;
    if end > disk.bytes() || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(Failure::Io);
    }
    Ok(offset)
}

fn configuration(disk: &Disk, queues: u16) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let mut set = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    let alignment = disk.extent_bytes() / SECTOR_BYTES as u32;
    set(CONFIG_CAPACITY, &(disk.bytes() / SECTOR_BYTES).to_le_bytes());
    set(CONFIG_SEG_MAX, &SEGMENTS_MAX.to_le_bytes());
    set(CONFIG_BLK_SIZE, &disk.block_bytes().to_le_bytes());
    set(CONFIG_NUM_QUEUES, &queues.to_le_bytes());
    set(CONFIG_MAX_DISCARD_SECTORS, &DISCARD_SECTORS_MAX.to_le_bytes());
    set(CONFIG_MAX_DISCARD_SEG, &RANGES_MAX.to_le_bytes());
    set(CONFIG_DISCARD_ALIGNMENT, &alignment.to_le_bytes());
    set(CONFIG_MAX_ZERO_SECTORS, &ZERO_SECTORS_MAX.to_le_bytes());
    set(CONFIG_MAX_ZERO_SEG, &RANGES_MAX.to_le_bytes());
    set(CONFIG_ZERO_MAY_UNMAP, &[1]);
    space
}

impl Device for Block {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn queues(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let writable =
            [blk::VIRTIO_BLK_F_FLUSH, blk::VIRTIO_BLK_F_DISCARD, blk::VIRTIO_BLK_F_WRITE_ZEROES];
        let mode: &[u32] = if self.read_only { &[blk::VIRTIO_BLK_F_RO] } else { &writable };
        let queues: &[u32] = if self.queue_sizes.len() > 1 { &[blk::VIRTIO_BLK_F_MQ] } else { &[] };
        // A table of its own for each request makes room in the queue for more of them, which is
        // worth what it costs the driver (at depth 32, 0.9 µs of 18 in the lab) only if they can be
        // in flight together.
        let tables: &[u32] = if self.ring.is_some() { &[VIRTIO_RING_F_INDIRECT_DESC] } else { &[] };
        let always = [blk::VIRTIO_BLK_F_SEG_MAX, blk::VIRTIO_BLK_F_BLK_SIZE];
        always
            .iter()
            .chain(mode)
            .chain(queues)
            .chain(tables)
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
        if features == 0
            && let Some(ring) = &mut self.ring
        {
            // The driver may use the memory for something else from here on.
            ring.abandon(self.disk.file());
            self.waiting = 0;
        }
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.take(index, queues)?;
        self.turn(queues)
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(Ring::event)
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        ring.heard();
        give_back(ring, self.disk.file(), queues)?;
        let mut waiting = std::mem::take(&mut self.waiting);
        while waiting != 0 {
            let index = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            self.take(index, queues)?;
        }
        self.turn(queues)
    }

    fn settle(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut result = Ok(());
        while let Some(Ended { queue, head, written }) = ring.wait_ended(self.disk.file()) {
            if let (Some(queue), Ok(())) = (queues.get(queue), result) {
                result = queue.push(memory, head, written);
            }
        }
        self.remember();
        result
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Guest memory goes next.
        if let Some(ring) = &mut self.ring {
            ring.abandon(self.disk.file());
        }
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
