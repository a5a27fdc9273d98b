//! Requests in flight on an io_uring (io_uring(7)).
//!
//! The ring belongs to the device and is used under its lock by whichever thread serves it. What the
//! kernel finishes while it takes requests over is found by a look right after; only what it
//! finishes later makes the eventfd readable, for which the device thread waits.
//!
//! Guest memory must stay mapped while requests are in flight: the ring is emptied when the driver
//! resets the device, before a snapshot, and when it is dropped, which is before the memory is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use virtio_bindings::virtio_blk as blk;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::chain::{Buffers, Status, advance, total};

/// Requests in flight of one device.
const IN_FLIGHT_MAX: u32 = 128;

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Fill the writable buffers.
    Read,
    /// Write the readable buffers, and wait for the disk if `durable`.
    Write {
        /// Whether the driver does not flush (section 5.2.6.2).
        durable: bool,
    },
    /// Make durable what was written before.
    Flush,
}

/// A request that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// The queue that it came from.
    pub(super) queue: usize,
    /// The head of its chain.
    pub(super) head: u16,
    /// Bytes of guest memory that may have been written.
    pub(super) written: u32,
}

/// A request in flight, or room for one: slots and their buffers are made once and used again.
#[derive(Debug)]
struct Slot {
    buffers: Buffers,
    task: Task,
    offset: u64,
    left_bytes: u64,
    /// What is reported of a read that succeeds.
    whole_bytes: u32,
    /// Of a request in flight: its queue, its chain, and where its status goes.
    origin: Option<(usize, u16, Status)>,
}

/// See the module's text.
pub(super) struct Ring {
    ring: IoUring,
    event: EventFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    chain_max: u16,
}

impl Ring {
    /// A ring for chains of at most `chain_max` descriptors.
    ///
    /// # Errors
    ///
    /// The kernel has no io_uring, or does not let this process use it.
    pub(super) fn new(chain_max: u16) -> io::Result<Ring> {
        let ring = IoUring::new(IN_FLIGHT_MAX)?;
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Ring { ring, event, slots: Vec::new(), free: Vec::new(), chain_max })
    }

    /// What is readable when something has ended.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// The event has been noticed.
    pub(super) fn heard(&self) {
        // It is not readable if another thread was faster.
        let _ = self.event.read();
    }

    /// Makes the event readable.
    pub(super) fn wake(&self) {
        // It fails only if 2^64 - 2 calls are unread.
        let _ = self.event.write(1);
    }

    /// Whether there is room for no further request.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == IN_FLIGHT_MAX as usize
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes a request over, with its buffers, for the next [`submit`](Ring::submit). There must be
    /// room.
    pub(super) fn begin(
        &mut self,
        file: i32,
        task: Task,
        offset: u64,
        buffers: &mut Buffers,
        origin: (usize, u16, Status),
    ) {
        let index = self.free.pop().unwrap_or_else(|| {
            let buffers = Buffers::new(self.chain_max);
            let task = Task::Flush;
            let slot =
                Slot { buffers, task, offset: 0, left_bytes: 0, whole_bytes: 0, origin: None };
            self.slots.push(slot);
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        std::mem::swap(&mut slot.buffers, buffers);
        slot.task = task;
        slot.offset = offset;
        slot.left_bytes = match task {
            Task::Read => total(slot.buffers.writable()),
            Task::Write { .. } => total(slot.buffers.readable()),
            Task::Flush => 0,
        };
        slot.whole_bytes = if task == Task::Read { slot.left_bytes as u32 } else { 0 };
        slot.origin = Some(origin);
        self.queue(file, index, Flags::empty());
    }

    /// Hands over to the kernel what has begun. What it finishes meanwhile wakes nobody.
    pub(super) fn submit(&mut self) {
        if self.ring.submission().is_empty() {
            return;
        }
        self.ring.completion().disable_eventfd();
        let submitted = retried(|| self.ring.submit());
        // The kernel looks at this after it has told of an end, and both sides have a full barrier
        // in between: an end that is not announced is seen by the caller, who looks next.
        self.ring.completion().enable_eventfd();
        if submitted.is_err() || !self.ring.submission().is_empty() {
            // The kernel is short of memory: the device thread tries again.
            self.wake();
        }
    }

    /// The next request that has ended; its status is set. One that ended before its end goes on.
    pub(super) fn next_ended(&mut self, file: i32) -> Option<Ended> {
        loop {
            let Some(completion) = self.ring.completion().next() else {
                if self.ring.submission().is_empty() {
                    return None;
                }
                // Some go on, perhaps to an end at once.
                self.submit();
                if self.ring.completion().is_empty() {
                    return None;
                }
                continue;
            };
            let index = completion.user_data() as usize;
            if let Some(ended) = self.ended(file, index, completion.result()) {
                return Some(ended);
            }
        }
    }

    /// As `next_ended`, but waits for it; `None` if nothing is in flight.
    pub(super) fn wait_ended(&mut self, file: i32) -> Option<Ended> {
        loop {
            if let Some(ended) = self.next_ended(file) {
                return Some(ended);
            }
            if self.is_idle() {
                self.heard();
                return None;
            }
            // An error is the kernel's want of memory, which ends.
            let _ = retried(|| self.ring.submit_and_wait(1));
        }
    }

    /// Waits until the kernel uses no memory of the guest's any more. Nobody is told of what ends.
    pub(super) fn abandon(&mut self, file: i32) {
        while self.wait_ended(file).is_some() {}
    }

    /// What the result of a slot's request means.
    fn ended(&mut self, file: i32, index: usize, result: i32) -> Option<Ended> {
        let slot = self.slots.get_mut(index)?;
        let status = match (u64::try_from(result), slot.task) {
            (Ok(_), Task::Flush) => blk::VIRTIO_BLK_S_OK,
            // The file has become shorter than it was.
            (Ok(0), _) => blk::VIRTIO_BLK_S_IOERR,
            (Ok(moved), _) if moved >= slot.left_bytes => blk::VIRTIO_BLK_S_OK,
            (Ok(moved), task) => {
                slot.left_bytes -= moved;
                slot.offset += moved;
                let buffers = match task {
                    Task::Read => slot.buffers.writable_mut(),
                    _ => slot.buffers.readable_mut(),
                };
                advance(buffers, moved as usize);
                self.queue(file, index, Flags::empty());
                return None;
            }
            (Err(_), _) => match -result {
                // Interrupted, or begun by a thread that is gone: once more, on a thread of the
                // kernel's that can wait.
                libc::EINTR | libc::EAGAIN | libc::ECANCELED => {
                    self.queue(file, index, Flags::ASYNC);
                    return None;
                }
                _ => blk::VIRTIO_BLK_S_IOERR,
            },
        };
        let (queue, head, code) = slot.origin.take()?;
        self.free.push(index);
        let is_ok = status == blk::VIRTIO_BLK_S_OK;
        code.set(status as u8);
        let data = if is_ok { self.slots[index].whole_bytes } else { 0 };
        Some(Ended { queue, head, written: data.saturating_add(1) })
    }

    /// Puts a slot's request into the submission queue.
    fn queue(&mut self, file: i32, index: usize, flags: Flags) {
        let slot = &self.slots[index];
        let file = types::Fd(file);
        let list = |buffers: &[libc::iovec]| (buffers.as_ptr(), buffers.len() as u32);
        let entry: Entry = match slot.task {
            Task::Read => {
                let (list, count) = list(slot.buffers.writable());
                opcode::Readv::new(file, list, count).offset(slot.offset).build()
            }
            Task::Write { durable } => {
                let (list, count) = list(slot.buffers.readable());
                let durable = if durable { libc::RWF_DSYNC } else { 0 };
                let write = opcode::Writev::new(file, list, count).offset(slot.offset);
                write.rw_flags(durable).build()
            }
            Task::Flush => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        // A flush waits for all that was handed over before it.
        let drain = if slot.task == Task::Flush { Flags::IO_DRAIN } else { Flags::empty() };
        let entry = entry.flags(flags | drain).user_data(index as u64);
        // SAFETY: the buffers lie in guest memory, which stays mapped until the request has ended,
        // and the list of them stays in its slot as it is until then. There is room, for a slot has
        // at most one entry.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        debug_assert!(pushed.is_ok(), "as many entries as slots");
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.slots.len() - self.free.len();
        formatter.debug_struct("Ring").field("in_flight", &in_flight).finish_non_exhaustive()
    }
}

/// Repeats a call that a signal interrupted.
fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
