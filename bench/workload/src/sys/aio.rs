//! Linux's native asynchronous I/O (io_submit(2)): several transfers of one thread at once.

use core::ffi::c_long;
use core::ptr;

use super::{File, retry};
use crate::Errno;

/// `IOCB_CMD_PREAD` (include/uapi/linux/aio_abi.h).
const PREAD: u16 = 0;

/// `struct iocb` (include/uapi/linux/aio_abi.h), as a little-endian machine has it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`: what became of a request.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Completion {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

impl Request {
    /// A read at `offset`; `tag` comes back with its completion.
    pub(crate) fn read(file: &File, buffer: *mut [u8], offset: u64, tag: usize) -> Request {
        Request {
            data: tag as u64,
            key: 0,
            rw_flags: 0,
            opcode: PREAD,
            priority: 0,
            // Never negative.
            fd: file.fd() as u32,
            buffer: buffer.cast::<u8>() as u64,
            bytes: buffer.len() as u64,
            // The caller's files are smaller than 2^40 bytes.
            offset: offset as i64,
            reserved: 0,
            flags: 0,
            event_fd: 0,
        }
    }
}

impl Completion {
    /// The tag of its request.
    pub(crate) fn tag(&self) -> usize {
        self.data as usize
    }

    /// Bytes moved.
    pub(crate) fn moved(&self) -> Result<usize, Errno> {
        usize::try_from(self.result).map_err(|_| Errno(self.result.unsigned_abs() as i32))
    }
}

/// A context for requests in flight. Its end waits for all of them.
#[derive(Debug)]
pub(crate) struct Aio(usize);

impl Aio {
    /// For at most `depth` requests at once.
    pub(crate) fn new(depth: usize) -> Result<Aio, Errno> {
        let mut context = 0_usize;
        // SAFETY: the context is valid for writing, and zero as the call wants it.
        check(unsafe { libc::syscall(libc::SYS_io_setup, depth as c_long, &raw mut context) })?;
        Ok(Aio(context))
    }

    /// Hands requests to the kernel; how many it took, which may be fewer.
    ///
    /// # Safety
    ///
    /// Each buffer must be valid for writing, and used by nothing else, until its completion is
    /// seen or the context is dropped.
    pub(crate) unsafe fn submit(&self, requests: &[*mut Request]) -> Result<usize, Errno> {
        let (count, list) = (requests.len() as c_long, requests.as_ptr());
        // SAFETY: the list and the requests in it are valid for the call; of the buffers, the
        // caller says so.
        check(unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list) })
    }

    /// Waits until something is complete; returns all that is, as far as there is room.
    pub(crate) fn wait<'a>(
        &self,
        completions: &'a mut [Completion],
    ) -> Result<&'a [Completion], Errno> {
        let (room, list) = (completions.len() as c_long, completions.as_mut_ptr());
        let forever = ptr::null::<libc::timespec>();
        let count = retry(|| {
            // SAFETY: the list is valid for writing of `room` completions.
            check(unsafe {
                libc::syscall(libc::SYS_io_getevents, self.0, 1 as c_long, room, list, forever)
            })
        })?;
        Ok(&completions[..count])
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: this value owns the context. The call waits for what is in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn check(result: c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}
