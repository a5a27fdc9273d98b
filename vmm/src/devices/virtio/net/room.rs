//! Chains that the driver has made available for packets to come.
//!
//! They are taken before a packet is there, for how long it will be only reading tells: as many as
//! the longest packet needs, where the driver has as many. What a packet leaves of them serves the
//! next one, so each chain is looked at once.

use std::collections::VecDeque;

use vm_memory::GuestMemoryMmap;

use super::super::chain::{Buffers, scatter, total};
use super::super::{Broken, Virtqueue};
use super::{HEADER_BUFFERS, HEADER_BYTES, PACKET_BYTES, PARTS_MAX, QUEUE_SIZE};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Room {
    buffers: Buffers,
    chains: VecDeque<Chain>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u16,
    /// How many buffers it has, and how much they take.
    parts: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn new() -> Room {
        Room {
            buffers: Buffers::new(QUEUE_SIZE),
            chains: VecDeque::with_capacity(QUEUE_SIZE.into()),
            bytes: 0,
        }
    }

    /// Takes chains until any packet fits, or there are no more, or too many buffers to read into;
    /// `mergeable` is whether a packet may be in several. Returns how much fits now.
    ///
    /// # Errors
    ///
    /// The driver broke the queue, or a chain has no room for a header.
    pub(super) fn fill(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
        mergeable: bool,
    ) -> Result<usize, Broken> {
        let chains_max = if mergeable { QUEUE_SIZE.into() } else { 1 };
        let has_enough = |room: &Room| {
            room.bytes >= PACKET_BYTES
                || room.chains.len() >= chains_max
                || room.buffers.writable().len() >= PARTS_MAX
        };
        if has_enough(self) {
            return Ok(self.bytes);
        }
        let mut available = queue.available(memory)?;
        while !has_enough(self) {
            let from = self.buffers.writable().len();
            let Some(head) = available.pop(&mut self.buffers)? else { break };
            let parts = &self.buffers.writable()[from..];
            let chain = Chain { head, parts: parts.len(), bytes: total(parts) as usize };
            if chain.bytes < HEADER_BYTES {
                return Err(Broken::Frame);
            }
            self.bytes += chain.bytes;
            self.chains.push_back(chain);
        }
        Ok(self.bytes)
    }

    /// The buffers, of all chains.
    pub(super) fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Gives the chains back that a packet of `length` bytes fills, with their number in the
    /// packet's header (section 5.1.6.4).
    ///
    /// # Errors
    ///
    /// The used ring cannot be written.
    pub(super) fn give(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
        length: usize,
    ) -> Result<(), Broken> {
        let (mut left, mut count, mut parts) = (length, 0, 0);
        for chain in &self.chains {
            count += 1;
            parts += chain.parts;
            self.bytes -= chain.bytes;
            left = left.saturating_sub(chain.bytes);
            if left == 0 {
                break;
            }
        }
        // At most QUEUE_SIZE.
        let number = (count as u16).to_le_bytes();
        scatter(self.buffers.writable(), HEADER_BUFFERS, &number);
        self.buffers.drop_writable(parts);
        if count == self.chains.len() {
            // With those that the device may read, which nobody has asked for.
            self.buffers.clear();
        }
        let mut left = length;
        queue.push_all(
            memory,
            self.chains.drain(..count).map(|chain| {
                let written = left.min(chain.bytes);
                left -= written;
                (chain.head, written as u32)
            }),
        )
    }

    /// Leaves all chains in the queue, to be taken again.
    pub(super) fn put_back(&mut self, queue: &mut Virtqueue) {
        for _ in &self.chains {
            queue.unpop();
        }
        self.forget();
    }

    /// Forgets all chains: the queue is another.
    pub(super) fn forget(&mut self) {
        self.buffers.clear();
        self.chains.clear();
        self.bytes = 0;
    }
}
