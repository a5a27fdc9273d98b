//! Placing the initramfs.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::BootError;
use crate::layout::INITRAMFS_LIMIT;
use crate::memory::GuestRam;

const WHAT: &str = "initramfs";
const PAGE_BYTES: u64 = 4096;

/// Where the initramfs lies in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Reads the initramfs to the highest page below the end of low RAM and below the protocol's
/// limit, above the kernel's end.
pub(super) fn load(path: &Path, kernel_end: u64, ram: &GuestRam) -> Result<Placed, BootError> {
    let (file, bytes) = open(path, WHAT)?;
    let path = path.to_owned();
    if bytes == 0 {
        return Err(BootError::InitramfsEmpty { path });
    }
    let limit = ram.low_end().min(INITRAMFS_LIMIT);
    let floor = kernel_end.next_multiple_of(PAGE_BYTES);
    let start = limit.saturating_sub(bytes) & !(PAGE_BYTES - 1);
    if bytes > limit || start < floor {
        let room = limit.saturating_sub(floor);
        return Err(BootError::InitramfsTooLarge { path, size: bytes, room });
    }
    ram.read_file(start, &file, 0, bytes).map_err(|error| BootError::File {
        action: "read",
        what: WHAT,
        path,
        error,
    })?;
    Ok(Placed { start, bytes })
}

/// Opens a regular file and tells its size. `O_NONBLOCK`: a FIFO must be refused, not waited for.
pub(super) fn open(path: &Path, what: &'static str) -> Result<(File, u64), BootError> {
    let failed = |error| BootError::File { action: "open", what, path: path.to_owned(), error };
    let file =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(BootError::NotAFile { what, path: path.to_owned() });
    }
    Ok((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn test_load_places_at_top_of_ram() {
        let ram = GuestRam::new(32 << 20).unwrap();
        let placed = load(file_of(5000).path(), 2 << 20, &ram).unwrap();
        assert_eq!(placed, Placed { start: (32 << 20) - 8192, bytes: 5000 });
    }

    #[test]
    fn test_load_more_than_memory_returns_sizes() {
        let ram = GuestRam::new(32 << 20).unwrap();
        for bytes in [(30 << 20) + 1, 33 << 20, 1 << 40] {
            let error = load(file_of(bytes).path(), 2 << 20, &ram).unwrap_err();
            let right = matches!(error, BootError::InitramfsTooLarge { size, room, .. }
                if size == bytes && room == 30 << 20);
            assert!(right, "{error}");
        }
        assert!(load(file_of(30 << 20).path(), 2 << 20, &ram).is_ok());
    }

    #[test]
    fn test_load_empty_missing_directory_or_fifo_returns_error() {
        let ram = GuestRam::new(32 << 20).unwrap();
        let error = load(file_of(0).path(), 0, &ram).unwrap_err();
        assert!(matches!(error, BootError::InitramfsEmpty { .. }), "{error}");
        let error = load(Path::new("/nonexistent/initramfs"), 0, &ram).unwrap_err();
        assert!(error.to_string().contains("cannot open the initramfs /nonexistent"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [directory.path(), &fifo] {
            let error = load(path, 0, &ram).unwrap_err();
            assert!(matches!(error, BootError::NotAFile { .. }), "{error}");
        }
    }
}
