//! The block device (section 5.2): a synchronous engine over a file.
//!
//! Data moves straight between guest memory and the file, one system call a request.

use std::io;

use virtio_bindings::virtio_blk as blk;

use super::chain::{Buffers, scatter, total};
use super::disk::{BlockError, Disk, SECTOR_BYTES};
use super::{Broken, Device, Queues};
use crate::BlockConfig;

/// Descriptors in its queue.
const QUEUE_SIZE: u16 = 256;
/// Header of a request: type, reserved, sector.
const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = blk::VIRTIO_BLK_ID_BYTES as usize;
/// A whole queue less header and status: a request of 128 KiB in scattered pages is still one.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// `struct virtio_blk_config` up to and with `blk_size`.
const CONFIG_BYTES: usize = 24;
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Block {
    disk: Disk,
    read_only: bool,
    /// The driver does not flush: every write must be durable at once (section 5.2.6.2).
    write_through: bool,
    id: [u8; ID_BYTES],
    config: [u8; CONFIG_BYTES],
    buffers: Buffers,
}

/// How a request ended: with data or one of the error statuses.
enum Failure {
    Io,
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Io
    }
}

impl Block {
    /// Opens the backing file; `index` tells devices apart in the id that the guest can read.
    pub(crate) fn open(config: &BlockConfig, index: usize) -> Result<Block, BlockError> {
        let disk = Disk::open(config)?;
        let mut space = [0; CONFIG_BYTES];
        let mut set = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        set(CONFIG_CAPACITY, &(disk.bytes() / SECTOR_BYTES).to_le_bytes());
        set(CONFIG_SEG_MAX, &SEGMENTS_MAX.to_le_bytes());
        set(CONFIG_BLK_SIZE, &disk.block_bytes().to_le_bytes());
        let mut id = [0; ID_BYTES];
        for (byte, text) in id.iter_mut().zip(format!("tare-disk-{index}").bytes()) {
            *byte = text;
        }
        Ok(Block {
            disk,
            read_only: config.read_only,
            write_through: false,
            id,
            config: space,
            buffers: Buffers::new(QUEUE_SIZE),
        })
    }

    /// Serves the request in `self.buffers`; returns how many bytes of the guest's it may have
    /// written.
    fn request(&mut self) -> Result<u32, Broken> {
        let header = self.buffers.take_front::<HEADER_BYTES>()?;
        let status = self.buffers.take_last()?;
        // Less than 4 GiB: `Buffers` comes from a chain, which has no more.
        let writable = total(self.buffers.writable()) as u32;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes(sector);
        let (code, written) = match self.execute(kind, sector) {
            Ok(()) if kind == blk::VIRTIO_BLK_T_OUT || kind == blk::VIRTIO_BLK_T_FLUSH => {
                (blk::VIRTIO_BLK_S_OK, 0)
            }
            Ok(()) => (blk::VIRTIO_BLK_S_OK, writable),
            Err(Failure::Io) => (blk::VIRTIO_BLK_S_IOERR, 0),
            Err(Failure::Unsupported) => (blk::VIRTIO_BLK_S_UNSUPP, 0),
        };
        status.set(code as u8);
        Ok(written.saturating_add(1))
    }

    fn execute(&mut self, kind: u32, sector: u64) -> Result<(), Failure> {
        match kind {
            blk::VIRTIO_BLK_T_IN => {
                let offset = self.place(sector, total(self.buffers.writable()))?;
                Ok(self.disk.read(self.buffers.writable_mut(), offset)?)
            }
            blk::VIRTIO_BLK_T_OUT if self.read_only => Err(Failure::Io),
            blk::VIRTIO_BLK_T_OUT => {
                let offset = self.place(sector, total(self.buffers.readable()))?;
                self.disk.write(self.buffers.readable_mut(), offset)?;
                if self.write_through {
                    self.disk.flush()?;
                }
                Ok(())
            }
            blk::VIRTIO_BLK_T_FLUSH => Ok(self.disk.flush()?),
            blk::VIRTIO_BLK_T_GET_ID => {
                if scatter(self.buffers.writable(), 0, &self.id) {
                    Ok(())
                } else {
                    Err(Failure::Io)
                }
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// Where `bytes` from `sector` on lie in the file, if they do.
    fn place(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Failure::Io)?;
        let end = offset.checked_add(bytes).ok_or(Failure::Io)?;
        if end > self.disk.bytes() || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Failure::Io);
        }
        Ok(offset)
    }
}

impl Device for Block {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let mode = if self.read_only { blk::VIRTIO_BLK_F_RO } else { blk::VIRTIO_BLK_F_FLUSH };
        1 << blk::VIRTIO_BLK_F_SEG_MAX | 1 << blk::VIRTIO_BLK_F_BLK_SIZE | 1 << mode
    }

    fn negotiated(&mut self, features: u64) {
        self.write_through = features & 1 << blk::VIRTIO_BLK_F_FLUSH == 0;
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(index) else { return Ok(()) };
        // At most one queue's worth: a request may read from the disk into the ring itself, and
        // so keep a loop until the ring is empty alive for ever.
        for _ in 0..queue.size() {
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            let written = self.request()?;
            queue.push(memory, head, written)?;
        }
        if queue.listen(memory)? {
            queues.again(index);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
