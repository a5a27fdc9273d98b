//! Open files.

use alloc::ffi::CString;
use core::ffi::CStr;

use super::{check, check_size, retry};
use crate::Errno;

/// A descriptor that is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct File(libc::c_int);

/// A path for the kernel; one with a NUL names nothing.
pub(crate) fn c_path(path: &str) -> Result<CString, Errno> {
    CString::new(path).map_err(|_| Errno(libc::EINVAL))
}

impl File {
    /// Opens `path`; new files are readable and writable by their owner.
    pub(crate) fn open(path: &str, flags: libc::c_int) -> Result<File, Errno> {
        let path = c_path(path)?;
        let flags = flags | libc::O_CLOEXEC;
        retry(|| {
            // SAFETY: `path` is NUL-terminated and outlives the call.
            check(unsafe { libc::open(path.as_ptr(), flags, 0o600) })
        })
        .map(File)
    }

    /// Opens a name in a directory that is open.
    pub(crate) fn open_at(
        directory: &File,
        name: &CStr,
        flags: libc::c_int,
    ) -> Result<File, Errno> {
        let flags = flags | libc::O_CLOEXEC;
        retry(|| {
            // SAFETY: `name` is NUL-terminated.
            check(unsafe { libc::openat(directory.0, name.as_ptr(), flags) })
        })
        .map(File)
    }

    /// Takes over a descriptor that a system call just returned.
    pub(crate) fn from_raw(fd: libc::c_int) -> File {
        File(fd)
    }

    /// Leaves the descriptor open, for somebody else.
    pub(crate) fn into_raw(self) -> libc::c_int {
        core::mem::ManuallyDrop::new(self).0
    }

    /// Another descriptor of the same open file, none of the standard ones.
    pub(crate) fn duplicate(&self) -> Result<File, Errno> {
        // SAFETY: touches no memory.
        check(unsafe { libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, 3) }).map(File)
    }

    /// Has reads and writes that would wait fail instead (`EAGAIN`).
    pub(crate) fn set_nonblocking(&self) -> Result<(), Errno> {
        set_nonblocking(self.0)
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> libc::c_int {
        self.0
    }

    /// One `read`; 0 at the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the buffer is valid for writing of its length.
        check_size(unsafe { libc::read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) })
    }

    /// One `write`.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        // SAFETY: the bytes are valid for reading of their length.
        check_size(unsafe { libc::write(self.0, bytes.as_ptr().cast(), bytes.len()) })
    }

    /// One `pread`.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let offset = signed(offset)?;
        // SAFETY: the buffer is valid for writing of its length.
        check_size(unsafe { libc::pread(self.0, buffer.as_mut_ptr().cast(), buffer.len(), offset) })
    }

    /// One `pwrite`.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let offset = signed(offset)?;
        // SAFETY: the bytes are valid for reading of their length.
        check_size(unsafe { libc::pwrite(self.0, bytes.as_ptr().cast(), bytes.len(), offset) })
    }

    /// Waits until data and size are on the device.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        // SAFETY: touches no memory.
        check(unsafe { libc::fsync(self.0) }).map(drop)
    }

    /// Turns `O_DIRECT` on: transfers bypass this kernel's page cache.
    pub(crate) fn set_direct(&self) -> Result<(), Errno> {
        // SAFETY: touches no memory.
        let flags = check(unsafe { libc::fcntl(self.0, libc::F_GETFL) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(self.0, libc::F_SETFL, flags | libc::O_DIRECT) }).map(drop)
    }

    /// Drops the clean pages of the whole file from this kernel's page cache.
    pub(crate) fn drop_cache(&self) -> Result<(), Errno> {
        // SAFETY: touches no memory.
        match unsafe { libc::posix_fadvise(self.0, 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            errno => Err(Errno(errno)),
        }
    }
}

/// As [`File::set_nonblocking`], for a descriptor that is not this crate's to close.
pub(crate) fn set_nonblocking(fd: libc::c_int) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor. An error cannot be acted upon.
        unsafe { libc::close(self.0) };
    }
}

fn signed(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))
}
