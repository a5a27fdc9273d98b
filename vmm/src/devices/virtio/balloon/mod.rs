//! The balloon device (section 5.5): memory that the guest gives up, because the host asks for it
//! or because the guest has no use for it.
//!
//! The host sets a target ([`BalloonControl`]); the driver takes pages from its own kernel until
//! that many are in the balloon, and says which. They are given back to the host at once. A page
//! that the driver takes out of the balloon again is zero, and costs the host memory only when it
//! is touched. Of free pages that the driver reports the same is true.
//!
//! Page numbers are a hostile guest's words: one that is no memory is left aside, and one that the
//! guest still uses is its own loss.
//!
//! Statistics are asked for by using the one buffer that the driver has made available, whereupon
//! it fills and offers it anew (section 5.5.6.3). Until somebody asks, the buffer stays in its
//! queue, so there is nothing to keep in a snapshot but the target and what the driver said.

mod control;
mod discard;

use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::chain::{Buffers, advance, gather, total};
use super::{Broken, Control, Device, Queues};
use crate::BalloonConfig;
pub use control::{BalloonControl, BalloonState, BalloonStatistics};
use discard::Backing;

/// Feature bits (section 5.5.3).
const STATS_VQ: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
const PAGE_REPORTING: u32 = 5;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 128;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
/// Whatever the host's and the guest's pages are (section 5.5.6).
const PAGE_BYTES: u64 = 4096;
/// Page numbers that are looked at together. Linux sends so many in one request.
const BATCH: usize = 256;
/// More page numbers than this in one request are left aside: to take less than the guest offers is
/// no breach, and a request is served while a vCPU waits.
const NUMBERS_MAX: u64 = 64 << 10;
/// `struct virtio_balloon_stat`: a tag of two bytes and a value of eight.
const STATISTIC_BYTES: usize = 10;
const STATISTICS_MAX: usize = 64;
/// `struct virtio_balloon_config`: the target and what the driver has reached.
const CONFIG_BYTES: usize = 8;
const CONFIG_ACTUAL: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Balloon {
    features: u64,
    control: BalloonControl,
    config: [u8; CONFIG_BYTES],
    /// The driver tells statistics.
    has_statistics: bool,
    /// Where free pages are reported, if they are: the queue behind those that the driver has chosen.
    reporting: Option<usize>,
    /// The driver was asked for statistics.
    asked: bool,
    buffers: Buffers,
}

impl Balloon {
    /// As configured.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub(crate) fn new(config: &BalloonConfig) -> std::io::Result<Balloon> {
        let mut features = 1 << STATS_VQ;
        if config.deflate_on_oom {
            features |= 1 << DEFLATE_ON_OOM;
        }
        if config.free_page_reporting {
            features |= 1 << PAGE_REPORTING;
        }
        Ok(Balloon {
            features,
            control: BalloonControl::new(config.target_bytes)?,
            config: [0; CONFIG_BYTES],
            has_statistics: false,
            reporting: None,
            asked: false,
            buffers: Buffers::new(QUEUE_SIZE),
        })
    }

    /// Takes pages that are now in the balloon.
    fn inflate(&mut self, memory: &GuestMemoryMmap) {
        let backing = Backing::of(memory);
        let mut given = 0;
        let mut numbers = [0; BATCH];
        let mut left = total(self.buffers.readable()).min(NUMBERS_MAX * 4) as usize / 4;
        while left > 0 {
            let batch = &mut numbers[..left.min(BATCH)];
            let mut bytes = [0; BATCH * 4];
            let bytes = &mut bytes[..batch.len() * 4];
            gather(self.buffers.readable(), 0, bytes);
            advance(self.buffers.readable_mut(), bytes.len());
            left -= batch.len();
            for (number, bytes) in batch.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *number = u32::from_le_bytes(*bytes);
            }
            // Neighbours are given back together, in whichever order they come.
            batch.sort_unstable();
            for run in batch.chunk_by(|before, after| after - before <= 1) {
                given += give_back(memory, backing, run);
            }
        }
        self.control.shared.tell(|inside| inside.inflated_bytes += given);
    }

    /// Takes ranges that are free.
    fn take_free(&mut self, memory: &GuestMemoryMmap) {
        let backing = Backing::of(memory);
        let free = self.buffers.writable().iter();
        // SAFETY: the ranges are guest memory, which is borrowed, and the driver has said that it
        // does not need what they contain.
        let given: u64 = free.map(|range| unsafe { backing.give_back(*range) }).sum();
        self.control.shared.tell(|inside| inside.reported_bytes += given);
    }

    /// Asks for statistics, or hears them. The buffer stays available either way.
    fn statistics(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(STATISTICS) else { return Ok(()) };
        let wanted = std::mem::take(&mut self.control.shared.lock().statistics_wanted);
        if self.asked {
            if queue.pop(memory, &mut self.buffers)?.is_some() {
                queue.unpop();
                self.asked = false;
                self.hear();
            }
        } else if wanted {
            self.asked = true;
            if let Some(head) = queue.pop(memory, &mut self.buffers)? {
                queue.push(memory, head, 0)?;
            }
        }
        queue.listen(memory).map(drop)
    }

    fn hear(&mut self) {
        let mut bytes = [0; STATISTICS_MAX * STATISTIC_BYTES];
        let length = total(self.buffers.readable()).min(bytes.len() as u64) as usize;
        gather(self.buffers.readable(), 0, &mut bytes[..length]);
        let mut statistics = BalloonStatistics::default();
        for statistic in bytes[..length].as_chunks::<STATISTIC_BYTES>().0 {
            let [tag_low, tag_high, value @ ..] = *statistic;
            statistics.set(u16::from_le_bytes([tag_low, tag_high]), u64::from_le_bytes(value));
        }
        self.control.shared.tell(|inside| inside.learn(statistics));
    }

    /// Serves every chain of a queue by `work`.
    fn drain(
        &mut self,
        index: usize,
        queues: &mut Queues<'_>,
        mut work: impl FnMut(&mut Balloon, &GuestMemoryMmap),
    ) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(index) else { return Ok(()) };
        for _ in 0..queue.size() {
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            work(self, memory);
            queue.push(memory, head, 0)?;
        }
        if queue.listen(memory)? {
            queues.again(index);
        }
        Ok(())
    }

    /// Takes the host's wishes over; true if the driver is to look at the target.
    fn follow(&mut self) -> bool {
        let shared = &self.control.shared;
        let mut inside = shared.lock();
        inside.live = true;
        let _ = shared.event.read();
        let target = inside.target_pages.to_le_bytes();
        let changed = self.config[..CONFIG_ACTUAL] != target;
        self.config[..CONFIG_ACTUAL].copy_from_slice(&target);
        changed
    }

    fn set_actual(&mut self, bytes: [u8; 4]) {
        self.config[CONFIG_ACTUAL..].copy_from_slice(&bytes);
        let pages = u32::from_le_bytes(bytes);
        self.control.shared.tell(|inside| inside.actual_pages = pages);
    }
}

/// Gives back the pages of ascending numbers, none far from the next; how many bytes that was.
fn give_back(memory: &GuestMemoryMmap, backing: Backing, numbers: &[u32]) -> u64 {
    let (Some(&first), Some(&last)) = (numbers.first(), numbers.last()) else { return 0 };
    let start = GuestAddress(u64::from(first) * PAGE_BYTES);
    let length = (u64::from(last - first) + 1) * PAGE_BYTES;
    match memory.get_slice(start, length as usize) {
        Ok(slice) => {
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            // SAFETY: the slice is guest memory, which is borrowed, and the driver has given up
            // what it contains.
            unsafe { backing.give_back(libc::iovec { iov_base, iov_len: slice.len() }) }
        }
        // Some of it is none of the guest's memory.
        Err(_) if numbers.len() > 1 => {
            numbers.iter().map(|&number| give_back(memory, backing, &[number])).sum()
        }
        Err(_) => 0,
    }
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 4]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn negotiated(&mut self, features: u64) {
        // A queue that the driver does without has no number (Linux, virtio_balloon.c).
        self.has_statistics = features & 1 << STATS_VQ != 0;
        let reporting = if self.has_statistics { STATISTICS + 1 } else { STATISTICS };
        self.reporting = (features & 1 << PAGE_REPORTING != 0).then_some(reporting);
        self.asked = false;
        if features == 0 {
            // The pages are the guest's again (section 5.5.6).
            self.set_actual([0; 4]);
            let shared = &self.control.shared;
            let mut inside = shared.lock();
            inside.live = false;
            let _ = shared.event.read();
        }
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn configured(
        &mut self,
        offset: usize,
        data: &[u8],
        _queues: &mut Queues<'_>,
    ) -> Result<(), Broken> {
        // All else is not the driver's to write.
        if let (CONFIG_ACTUAL, Ok(bytes)) = (offset, data.try_into()) {
            self.set_actual(bytes);
        }
        Ok(())
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match index {
            INFLATE => self.drain(index, queues, Balloon::inflate),
            // A page comes back when it is touched.
            DEFLATE => self.drain(index, queues, |_, _| {}),
            _ if Some(index) == self.reporting => self.drain(index, queues, Balloon::take_free),
            STATISTICS if self.has_statistics => self.statistics(queues),
            _ => Ok(()),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is open as long as `self`, which is borrowed.
        Some(unsafe { BorrowedFd::borrow_raw(self.control.shared.event.as_raw_fd()) })
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        queues.config_changed |= self.follow();
        if self.has_statistics { self.statistics(queues) } else { Ok(()) }
    }

    fn state(&self) -> Vec<u8> {
        self.config.to_vec()
    }

    fn set_state(&mut self, state: &[u8]) -> bool {
        let Ok(config) = <[u8; CONFIG_BYTES]>::try_from(state) else { return false };
        self.config = config;
        let [target, actual] =
            [0, CONFIG_ACTUAL].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| config[at + i])));
        self.control.shared.tell(|inside| {
            inside.target_pages = target;
            inside.actual_pages = actual;
        });
        true
    }

    fn control(&self) -> Option<Control> {
        Some(Control::Balloon(self.control.clone()))
    }
}

#[cfg(test)]
mod tests;
