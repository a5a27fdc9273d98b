//! Chains of the guest's that are filled together: packets of one connection.

use vm_memory::GuestMemoryMmap;

use super::super::chain::{Buffers, advance, cut, total};
use super::super::{Broken, Virtqueue};
use super::header::{HEADER_BYTES, Header};
use super::{DATA_BYTES, PARTS_MAX};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Batch {
    chains: Vec<Chain>,
    /// The buffers behind the headers.
    room: Vec<libc::iovec>,
}

// SAFETY: the addresses belong to no thread. They are used only between `collect` and the end of
// the same request, while the guest memory they point into is borrowed by the caller.
unsafe impl Send for Batch {}

#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u16,
    /// Its first buffer among all.
    first: usize,
    /// What it takes behind a header.
    bytes: usize,
}

impl Batch {
    /// Takes chains until there is room for `wanted` bytes of data, one at least; false if the
    /// driver has none.
    pub(super) fn collect(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
        wanted: usize,
    ) -> Result<bool, Broken> {
        self.chains.clear();
        self.room.clear();
        buffers.clear();
        let mut left = wanted;
        while (self.chains.is_empty() || left > 0) && self.room.len() < PARTS_MAX {
            let first = buffers.writable().len();
            let mut popped = queue.pop_more(memory, buffers)?;
            if popped.is_none() && self.chains.is_empty() && queue.listen(memory)? {
                popped = queue.pop_more(memory, buffers)?;
            }
            let Some(head) = popped else { break };
            let chain = buffers.writable().get(first..).unwrap_or_default();
            let bytes = total(chain) as usize;
            if bytes <= HEADER_BYTES {
                if !self.chains.is_empty() {
                    queue.unpop();
                    break;
                }
                // Too small for any data.
                queue.push(memory, head, 0)?;
                buffers.clear();
                continue;
            }
            let bytes = (bytes - HEADER_BYTES).min(DATA_BYTES).min(left);
            let from = self.room.len();
            self.room.extend(chain);
            advance(&mut self.room[from..], HEADER_BYTES);
            cut(&mut self.room[from..], bytes);
            left = left.saturating_sub(bytes);
            self.chains.push(Chain { head, first, bytes });
        }
        Ok(!self.chains.is_empty())
    }

    /// Where data goes.
    pub(super) fn room(&self) -> &[libc::iovec] {
        &self.room
    }

    /// Gives the chains back that a packet fills, each with a header, and leaves the others for the
    /// next time.
    pub(super) fn put(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
        buffers: &Buffers,
        header: Option<Header>,
    ) -> Result<(), Broken> {
        let mut used = 0;
        if let Some(header) = header {
            let mut left = header.length as usize;
            while let (Some(chain), true) = (self.chains.get(used), used == 0 || left > 0) {
                let length = left.min(chain.bytes);
                left -= length;
                let part = Header { length: length as u32, ..header };
                part.put(&buffers.writable()[chain.first..]);
                used += 1;
            }
        }
        for _ in used..self.chains.len() {
            queue.unpop();
        }
        let mut left = header.map_or(0, |header| header.length as usize);
        for chain in &self.chains[..used] {
            let length = left.min(chain.bytes);
            left -= length;
            queue.push(memory, chain.head, (HEADER_BYTES + length) as u32)?;
        }
        Ok(())
    }
}
