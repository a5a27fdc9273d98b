//! The console device (section 5.3): one port, the guest's `hvc0`, between descriptors of the
//! embedder's.
//!
//! Bytes move straight between guest memory and the descriptors. Neither side makes the other wait
//! for what it has no room for: input is read only while the guest has buffers, and output that
//! its descriptor does not take stays in the guest's own buffers, whose driver then waits. Both are
//! watched just as long as they are waited for.
//!
//! The guest's output is written by the vCPU that offers it, the rest is the device thread's. A
//! descriptor that fails is at its end: there is no more input, and output is lost, as on a line
//! that nobody listens to.

mod control;
mod end;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::chain::{Buffers, advance, total};
use super::{Broken, Control, Device, Queues, Virtqueue};
use crate::ConsoleConfig;
pub use control::ConsoleControl;
pub use end::ConsoleError;
use end::End;

/// The device's kind (section 5).
const ID: u32 = 3;
/// `VIRTIO_CONSOLE_F_SIZE`: the configuration space has the terminal's size.
const SIZE: u32 = 0;
/// Descriptors in each queue.
const QUEUE_SIZE: u16 = 64;
const RX: usize = 0;
const TX: usize = 1;
/// `cols` and `rows` of `struct virtio_console_config`.
const CONFIG_BYTES: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Console {
    config: [u8; CONFIG_BYTES],
    control: ConsoleControl,
    /// The source: readable when there is something to do.
    epoll: Epoll,
    input: Option<End>,
    output: Option<End>,
    /// How much of the chain that is next in the queue of output has been written.
    written: u64,
    buffers: Buffers,
}

impl Console {
    /// Takes the configuration's descriptors.
    ///
    /// # Errors
    ///
    /// One is not open, or cannot be watched.
    pub(crate) fn open(config: &ConsoleConfig) -> Result<Console, ConsoleError> {
        let epoll = Epoll::new().map_err(ConsoleError::on("make an epoll instance"))?;
        let (columns, rows) = config.size;
        let control = ConsoleControl::new(columns, rows);
        let control = control.map_err(ConsoleError::on("make an eventfd"))?;
        let wake = EpollEvent::new(EventSet::IN, 0);
        epoll
            .ctl(ControlOperation::Add, control.shared.event.as_raw_fd(), wake)
            .map_err(ConsoleError::on("watch an eventfd"))?;
        let end = |fd: Option<i32>, event| fd.map(|fd| End::take(fd, event, &epoll)).transpose();
        Ok(Console {
            config: config_of(columns, rows),
            control,
            input: end(config.input, EventSet::IN)?,
            output: end(config.output, EventSet::OUT)?,
            written: 0,
            buffers: Buffers::new(QUEUE_SIZE),
            epoll,
        })
    }

    /// Gives the guest its input, a chain for each reading.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let read = match (&self.input, queues.get(RX)) {
            (Some(input), Some(queue)) => receive(input, queue, memory, &mut self.buffers)?,
            _ => Read::NoRoom,
        };
        if let Some(input) = &mut self.input {
            input.wait(&self.epoll, read == Read::Waits);
        }
        match read {
            Read::Ended => self.input = None,
            Read::More => self.wake(),
            Read::Waits | Read::NoRoom => {}
        }
        Ok(())
    }

    /// Writes the guest's output as far as it is taken.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(TX) else { return Ok(()) };
        let mut blocked = false;
        for _ in 0..queue.size() {
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            if !self.write() {
                queue.unpop();
                blocked = true;
                break;
            }
            self.written = 0;
            queue.push(memory, head, 0)?;
        }
        if let Some(output) = &mut self.output {
            output.wait(&self.epoll, blocked);
        }
        if !blocked && queue.listen(memory)? {
            self.wake();
        }
        Ok(())
    }

    /// Has the device thread come again.
    fn wake(&self) {
        // It fails only if 2^64 - 2 are unread: then it is awake.
        let _ = self.control.shared.event.write(1);
    }

    /// Writes what is left of the chain in `buffers`; false if not all was taken.
    fn write(&mut self) -> bool {
        // What was written may be more than what the driver has left there since.
        let skip = usize::try_from(self.written).unwrap_or(usize::MAX);
        advance(self.buffers.readable_mut(), skip);
        while total(self.buffers.readable()) > 0 {
            let Some(output) = &self.output else { return true };
            // SAFETY: the buffers are guest memory, which the caller borrows.
            match unsafe { output.write(self.buffers.readable()) } {
                Ok(taken) => {
                    advance(self.buffers.readable_mut(), taken);
                    self.written += taken as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    if let Some(mut output) = self.output.take() {
                        output.wait(&self.epoll, false);
                    }
                }
            }
        }
        true
    }

    /// Takes the terminal's size over; true if it is another one.
    fn follow(&mut self) -> bool {
        let shared = &self.control.shared;
        let mut size = shared.lock();
        size.live = true;
        let _ = shared.event.read();
        let config = config_of(size.columns, size.rows);
        let changed = self.config != config;
        self.config = config;
        changed
    }
}

/// What came of reading.
#[derive(PartialEq, Eq)]
enum Read {
    /// All was read that there is.
    Waits,
    /// The guest has no buffer left.
    NoRoom,
    /// A queue's worth was read.
    More,
    /// No more will come.
    Ended,
}

fn receive(
    input: &End,
    queue: &mut Virtqueue,
    memory: &GuestMemoryMmap,
    buffers: &mut Buffers,
) -> Result<Read, Broken> {
    for _ in 0..queue.size() {
        let mut popped = queue.pop(memory, buffers)?;
        if popped.is_none() && queue.listen(memory)? {
            popped = queue.pop(memory, buffers)?;
        }
        let Some(head) = popped else { return Ok(Read::NoRoom) };
        if buffers.writable().is_empty() {
            // Reading nothing would look like the end.
            queue.push(memory, head, 0)?;
            continue;
        }
        // SAFETY: the buffers are guest memory, which is borrowed.
        match unsafe { input.read(buffers.writable()) } {
            Ok(0) => {
                queue.unpop();
                return Ok(Read::Ended);
            }
            // At most 2 GiB are read at once (read(2)).
            Ok(length) => queue.push(memory, head, length as u32)?,
            Err(error) => {
                queue.unpop();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(Read::Waits),
                    _ => return Ok(Read::Ended),
                }
            }
        }
    }
    // Whatever is watched says so again by itself.
    Ok(if input.is_file { Read::More } else { Read::Waits })
}

fn config_of(columns: u16, rows: u16) -> [u8; CONFIG_BYTES] {
    let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
    [a, b, c, d]
}

impl Device for Console {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        1 << SIZE
    }

    fn negotiated(&mut self, features: u64) {
        self.written = 0;
        for end in [&mut self.input, &mut self.output].into_iter().flatten() {
            end.wait(&self.epoll, false);
        }
        if features == 0 {
            let shared = &self.control.shared;
            shared.lock().live = false;
            let _ = shared.event.read();
        }
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match index {
            RX => self.receive(queues),
            TX => self.transmit(queues),
            _ => Ok(()),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the epoll instance is open as long as `self`, which the descriptor borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) })
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        queues.config_changed |= self.follow();
        self.transmit(queues)?;
        self.receive(queues)
    }

    /// What is in the guest's buffers is still to be written; the terminal is the embedder's.
    fn state(&self) -> Vec<u8> {
        self.written.to_le_bytes().to_vec()
    }

    fn set_state(&mut self, state: &[u8]) -> bool {
        let Ok(written) = state.try_into() else { return false };
        self.written = u64::from_le_bytes(written);
        true
    }

    fn control(&self) -> Option<Control> {
        Some(Control::Console(self.control.clone()))
    }
}

#[cfg(test)]
mod tests;
