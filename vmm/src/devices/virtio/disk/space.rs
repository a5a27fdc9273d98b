//! Space that the guest gives up, and zeroes that need not be written (fallocate(2)).

use std::io;
use std::os::fd::AsRawFd;

use super::Disk;
use super::bounce::{Bounce, iovec_of, transfer};

impl Disk {
    /// Gives space up. Where the file system cannot, nothing is done: the guest asks for no more
    /// than a favour (section 5.2.6.2).
    pub(in super::super) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.punch(offset, bytes).map(drop)
    }

    /// Makes a part read as zeroes, and gives its space up if that is allowed and possible.
    pub(in super::super) fn write_zeroes(
        &self,
        offset: u64,
        bytes: u64,
        unmap: bool,
    ) -> io::Result<()> {
        let done = unmap && self.punch(offset, bytes)?
            || self.allocate(libc::FALLOC_FL_ZERO_RANGE, offset, bytes)?;
        if done { Ok(()) } else { self.fill_with_zeroes(offset, bytes) }
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.allocate(libc::FALLOC_FL_PUNCH_HOLE, offset, bytes)
    }

    /// False if the file system knows no such thing.
    fn allocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<bool> {
        if bytes == 0 {
            return Ok(true);
        }
        let beyond = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = i64::try_from(offset).map_err(beyond)?;
        let bytes = i64::try_from(bytes).map_err(beyond)?;
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: the call touches no memory.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, bytes) } == 0 {
                return Ok(true);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
                _ => return Err(error),
            }
        }
    }

    pub(in super::super) fn fill_with_zeroes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut memory = Bounce::new();
        let mut done = 0;
        while done < bytes {
            let part = memory.bytes(usize::try_from(bytes - done).unwrap_or(usize::MAX));
            let mut list = [iovec_of(part)];
            let fd = self.file.as_raw_fd();
            // SAFETY: the one buffer is `part`.
            transfer(&mut list, offset + done, |list, count, at| unsafe {
                libc::pwritev(fd, list, count, at)
            })?;
            done += part.len() as u64;
        }
        Ok(())
    }
}
