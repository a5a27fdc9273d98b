//! Transfers between a file and buffers, and host memory for buffers that a direct transfer does not
//! take.

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;

use super::super::chain::{advance, gather, scatter, total};
use super::PAGE_BYTES;

/// A direct transfer with unaligned guest buffers goes through host memory in parts of this size.
pub(super) const BOUNCE_BYTES: usize = 256 << 10;

/// Host memory, aligned to a page, for guest buffers that are not.
#[derive(Debug)]
pub(super) struct Bounce {
    start: NonNull<u8>,
}

// SAFETY: the memory is this value's alone.
unsafe impl Send for Bounce {}

impl Bounce {
    const LAYOUT: Layout = match Layout::from_size_align(BOUNCE_BYTES, PAGE_BYTES as usize) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };

    /// Memory of zeroes.
    pub(super) fn new() -> Bounce {
        // SAFETY: the layout has a size.
        let start = unsafe { alloc::alloc_zeroed(Bounce::LAYOUT) };
        match NonNull::new(start) {
            Some(start) => Bounce { start },
            None => alloc::handle_alloc_error(Bounce::LAYOUT),
        }
    }

    /// The first bytes of it, at most `length`.
    pub(super) fn bytes(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(BOUNCE_BYTES);
        // SAFETY: the allocation has at least `length` initialised bytes, borrowed through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), length) }
    }

    pub(super) fn read(&mut self, fd: i32, buffers: &[libc::iovec], offset: u64) -> io::Result<()> {
        self.each(buffers, |bytes, done| {
            let mut list = [iovec_of(bytes)];
            // SAFETY: the one buffer is `bytes`.
            transfer(&mut list, offset + done as u64, |list, count, at| unsafe {
                libc::preadv(fd, list, count, at)
            })?;
            scatter(buffers, done, bytes);
            Ok(())
        })
    }

    pub(super) fn write(
        &mut self,
        fd: i32,
        buffers: &[libc::iovec],
        offset: u64,
    ) -> io::Result<()> {
        self.each(buffers, |bytes, done| {
            gather(buffers, done, bytes);
            let mut list = [iovec_of(bytes)];
            // SAFETY: the one buffer is `bytes`.
            transfer(&mut list, offset + done as u64, |list, count, at| unsafe {
                libc::pwritev(fd, list, count, at)
            })
        })
    }

    /// Calls `part` with as much of the bounce memory as each part of `buffers` needs.
    fn each(
        &mut self,
        buffers: &[libc::iovec],
        mut part: impl FnMut(&mut [u8], usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let length = total(buffers) as usize;
        let mut done = 0;
        while done < length {
            let bytes = self.bytes(length - done);
            part(bytes, done)?;
            done += bytes.len();
        }
        Ok(())
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `new`, and freed once.
        unsafe { alloc::dealloc(self.start.as_ptr(), Bounce::LAYOUT) }
    }
}

pub(super) fn iovec_of(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Repeats a vectored transfer until all buffers are used up: the kernel may move less than asked.
pub(super) fn transfer(
    buffers: &mut [libc::iovec],
    offset: u64,
    mut call: impl FnMut(*const libc::iovec, libc::c_int, i64) -> isize,
) -> io::Result<()> {
    let mut left = total(buffers);
    let mut at = offset;
    while left > 0 {
        let place = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match call(buffers.as_ptr(), buffers.len() as libc::c_int, place) {
            // The file has become shorter than it was.
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved @ 1.. => {
                left -= moved as u64;
                at += moved as u64;
                if left > 0 {
                    advance(buffers, moved as usize);
                }
            }
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}
