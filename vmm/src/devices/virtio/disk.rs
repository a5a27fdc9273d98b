//! The file behind a block device.

mod bounce;
mod space;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use thiserror::Error;

use super::chain::Buffers;
use crate::{BlockConfig, BlockEngine};
use bounce::{Bounce, transfer};

/// The unit of a block device's addresses (section 5.2.4).
pub(super) const SECTOR_BYTES: u64 = 512;
/// Alignment for direct transfers where the kernel does not tell it: a page suits every device.
const PAGE_BYTES: u32 = 4096;

/// Why a file cannot be a block device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// It could not be opened.
    #[error("cannot open the block file {} {mode}: {error}; {remedy}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// "for reading" or "for reading and writing", and whether directly.
        mode: &'static str,
        /// The kernel's answer.
        #[source]
        error: io::Error,
        /// What helps.
        remedy: &'static str,
    },
    /// It is neither a regular file nor a block device.
    #[error("the block file {} is neither a regular file nor a block device: name one of these", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Its size is not a whole number of blocks.
    #[error("the block file {} has {bytes} bytes, which is not a positive multiple of {unit}: resize it (`truncate -s %{unit}` rounds up)", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size of a block: 512, or more where direct transfers ask for it.
        unit: u64,
    },
    /// It cannot have so many queues.
    #[error("the block file {} cannot have {queues} queues: ask for 1 to {limit}", path.display())]
    Queues {
        /// The file.
        path: PathBuf,
        /// How many were asked for.
        queues: u16,
        /// How many are possible.
        limit: u16,
    },
    /// There is no io_uring for it.
    #[error("cannot make an io_uring for the block file {}: {error}; use the synchronous engine, or let the host use io_uring (sysctl kernel.io_uring_disabled=0)", path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// There are more block devices than interrupt lines.
    #[error(
        "{count} block devices were asked for, but there are interrupt lines for {limit}: leave some out"
    )]
    TooMany {
        /// How many were asked for.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
}

/// An open backing file.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    bytes: u64,
    direct: Option<Direct>,
}

/// What transfers that bypass the page cache must obey.
#[derive(Debug)]
struct Direct {
    address_alignment: usize,
    length_alignment: usize,
    bounce: Option<Bounce>,
}

impl Disk {
    /// Opens and checks the file.
    pub(super) fn open(config: &BlockConfig) -> Result<Disk, BlockError> {
        let path = || config.path.clone();
        let failed = |error: io::Error| BlockError::Open {
            path: path(),
            mode: match (config.read_only, config.direct) {
                (true, false) => "for reading",
                (true, true) => "for direct reading",
                (false, false) => "for reading and writing",
                (false, true) => "for direct reading and writing",
            },
            remedy: match error.raw_os_error() {
                Some(libc::EINVAL) if config.direct => {
                    "its file system may know no direct transfers: ask for buffered ones, or move it"
                }
                Some(libc::EACCES | libc::EPERM | libc::EROFS) if !config.read_only => {
                    "give write permission, or make the device read-only"
                }
                _ => "check the path and its permissions",
            },
            error,
        };
        // O_NONBLOCK: opening a FIFO must fail the check below, not wait for its other end.
        let flags = libc::O_NONBLOCK | if config.direct { libc::O_DIRECT } else { 0 };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!config.read_only)
            .custom_flags(flags)
            .open(&config.path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BlockError::Kind { path: path() });
        }
        if config.engine == BlockEngine::IoUring {
            wait_in_ring(&file).map_err(failed)?;
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let direct = config.direct.then(|| Direct::of(&file));
        let disk = Disk { file, bytes, direct };
        let unit = u64::from(disk.block_bytes());
        if bytes == 0 || !bytes.is_multiple_of(unit) {
            return Err(BlockError::Size { path: path(), bytes, unit });
        }
        Ok(disk)
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The smallest transfer.
    pub(super) fn block_bytes(&self) -> u32 {
        let sector = SECTOR_BYTES as u32;
        self.direct.as_ref().map_or(sector, |direct| sector.max(direct.length_alignment as u32))
    }

    /// The least space that the file can give up: of a file system's blocks, as far as it is known.
    pub(super) fn extent_bytes(&self) -> u32 {
        PAGE_BYTES.max(self.block_bytes())
    }

    /// The file's descriptor.
    pub(super) fn file(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether the file takes transfers with these buffers as they are.
    pub(super) fn takes(&self, buffers: &Buffers) -> bool {
        self.direct.as_ref().is_none_or(|direct| {
            [buffers.readable(), buffers.writable()]
                .into_iter()
                .flatten()
                .all(|buffer| direct.takes(buffer))
        })
    }

    /// Fills guest buffers from the file. They are used up.
    pub(super) fn read(&mut self, buffers: &mut [libc::iovec], offset: u64) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        if let Some(bounce) = self.bounce_for(buffers) {
            return bounce.read(fd, buffers, offset);
        }
        // SAFETY: the buffers lie in guest memory, which is mapped and writable.
        transfer(buffers, offset, |list, count, at| unsafe { libc::preadv(fd, list, count, at) })
    }

    /// Writes guest buffers to the file. They are used up.
    pub(super) fn write(&mut self, buffers: &mut [libc::iovec], offset: u64) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        if let Some(bounce) = self.bounce_for(buffers) {
            return bounce.write(fd, buffers, offset);
        }
        // SAFETY: the buffers lie in guest memory, which is mapped.
        transfer(buffers, offset, |list, count, at| unsafe { libc::pwritev(fd, list, count, at) })
    }

    /// Makes what has been written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn bounce_for(&mut self, buffers: &[libc::iovec]) -> Option<&mut Bounce> {
        let direct = self.direct.as_mut()?;
        if buffers.iter().all(|buffer| direct.takes(buffer)) {
            return None;
        }
        Some(direct.bounce.get_or_insert_with(Bounce::new))
    }
}

impl Direct {
    /// Asks the kernel (statx with `STATX_DIOALIGN`, Linux 6.1); older ones get a page for
    /// addresses and a sector for lengths.
    fn of(file: &File) -> Direct {
        let mut direct = Direct {
            address_alignment: PAGE_BYTES as usize,
            length_alignment: SECTOR_BYTES as usize,
            bounce: None,
        };
        let mut stat = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: `stat` is valid for writing, the path is an empty string, and all-zero bytes are
        // a value of the struct should the call fail.
        let (result, stat) = unsafe {
            let flags = libc::AT_EMPTY_PATH;
            let mask = libc::STATX_DIOALIGN;
            let result =
                libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr());
            (result, stat.assume_init())
        };
        let told = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
        if told && stat.stx_dio_mem_align > 0 && stat.stx_dio_offset_align > 0 {
            direct.address_alignment = stat.stx_dio_mem_align as usize;
            direct.length_alignment = stat.stx_dio_offset_align as usize;
        }
        direct
    }

    fn takes(&self, buffer: &libc::iovec) -> bool {
        (buffer.iov_base as usize).is_multiple_of(self.address_alignment)
            && buffer.iov_len.is_multiple_of(self.length_alignment)
    }
}

/// Takes back the `O_NONBLOCK` of opening: with it io_uring does not wait for a file but fails.
fn wait_in_ring(file: &File) -> io::Result<()> {
    // SAFETY: both calls touch no memory.
    let result = unsafe {
        match libc::fcntl(file.as_raw_fd(), libc::F_GETFL) {
            -1 => -1,
            flags => libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK),
        }
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
