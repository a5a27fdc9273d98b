//! Placing the initramfs.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::BootError;
use super::image::Draft;
use crate::layout::INITRAMFS_LIMIT;

const WHAT: &str = "initramfs";
const PAGE_BYTES: u64 = 4096;

/// Where the initramfs lies in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Puts the initramfs on the first page behind the kernel, below the end of low RAM and the
/// protocol's limit.
pub(super) fn load(path: &Path, kernel_end: u64, draft: &mut Draft) -> Result<Placed, BootError> {
    let (file, bytes) = open(path, WHAT)?;
    let path = path.to_owned();
    if bytes == 0 {
        return Err(BootError::InitramfsEmpty { path });
    }
    let limit = draft.limit().min(INITRAMFS_LIMIT);
    let floor = kernel_end.next_multiple_of(PAGE_BYTES);
    let room = limit.saturating_sub(floor);
    if bytes > room {
        return Err(BootError::InitramfsTooLarge { path, size: bytes, room });
    }
    draft.copy(floor, &file, 0, bytes).map_err(|error| BootError::File {
        action: "read",
        what: WHAT,
        path,
        error,
    })?;
    Ok(Placed { start: floor, bytes })
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
    fn test_load_places_on_the_page_behind_the_kernel() {
        let mut draft = Draft::new(32 << 20).unwrap();
        let placed = load(file_of(5000).path(), (2 << 20) + 1, &mut draft).unwrap();
        assert_eq!(placed, Placed { start: (2 << 20) + 4096, bytes: 5000 });
    }

    #[test]
    fn test_load_more_than_memory_returns_sizes() {
        let mut draft = Draft::new(32 << 20).unwrap();
        for bytes in [(30 << 20) + 1, 33 << 20, 1 << 40] {
            let error = load(file_of(bytes).path(), 2 << 20, &mut draft).unwrap_err();
            let right = matches!(error, BootError::InitramfsTooLarge { size, room, .. }
                if size == bytes && room == 30 << 20);
            assert!(right, "{error}");
        }
        assert!(load(file_of(30 << 20).path(), 2 << 20, &mut draft).is_ok());
    }

    #[test]
    fn test_load_empty_missing_directory_or_fifo_returns_error() {
        let mut draft = Draft::new(32 << 20).unwrap();
        let error = load(file_of(0).path(), 0, &mut draft).unwrap_err();
        assert!(matches!(error, BootError::InitramfsEmpty { .. }), "{error}");
        let error = load(Path::new("/nonexistent/initramfs"), 0, &mut draft).unwrap_err();
        assert!(error.to_string().contains("cannot open the initramfs /nonexistent"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [directory.path(), &fifo] {
            let error = load(path, 0, &mut draft).unwrap_err();
            assert!(matches!(error, BootError::NotAFile { .. }), "{error}");
        }
    }
}
