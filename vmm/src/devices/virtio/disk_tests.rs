use std::path::Path;

use super::bounce::{BOUNCE_BYTES, iovec_of};
use super::*;

fn file_of(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn config(path: &Path) -> BlockConfig {
    BlockConfig::new(path)
}

#[test]
fn test_open_odd_or_empty_file_returns_size_error() {
    for bytes in [0, 1, 511, 513, 1023] {
        let error = Disk::open(&config(file_of(bytes).path())).unwrap_err();
        assert!(matches!(error, BlockError::Size { bytes: b, unit: 512, .. } if b == bytes));
        assert!(error.to_string().contains("truncate"), "{error}");
    }
    assert_eq!(Disk::open(&config(file_of(1024).path())).unwrap().bytes(), 1024);
}

#[test]
fn test_open_missing_file_returns_open_error() {
    let error = Disk::open(&config(Path::new("/nonexistent/disk.img"))).unwrap_err();
    assert!(error.to_string().contains("cannot open the block file /nonexistent"), "{error}");
}

#[test]
fn test_open_directory_fifo_or_device_returns_kind_error() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let path = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    for path in [fifo.as_path(), Path::new("/dev/null")] {
        let error = Disk::open(&config(path)).unwrap_err();
        assert!(matches!(error, BlockError::Kind { .. }), "{error}");
    }
    let read_only = BlockConfig { read_only: true, ..config(directory.path()) };
    let error = Disk::open(&read_only).unwrap_err();
    assert!(matches!(error, BlockError::Kind { .. }), "{error}");
}

#[test]
fn test_read_beyond_a_file_that_shrank_returns_error() {
    let file = file_of(4096);
    let mut disk = Disk::open(&config(file.path())).unwrap();
    file.as_file().set_len(1024).unwrap();
    let mut bytes = [1_u8; 1024];
    let error = disk.read(&mut [iovec_of(&mut bytes)], 512).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn test_direct_unaligned_buffers_go_through_bounce_memory() {
    // A file system without direct transfers (an old tmpfs) cannot show anything here.
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let length = BOUNCE_BYTES + 8192;
    file.as_file().set_len(2 * length as u64).unwrap();
    let direct = BlockConfig { direct: true, ..config(file.path()) };
    let mut disk = match Disk::open(&direct) {
        Ok(disk) => disk,
        Err(error) => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{error}");
            // Past the capture of the test runner: what is skipped must be seen.
            let name = "test_direct_unaligned_buffers_go_through_bounce_memory";
            let line = format_args!("SKIPPED {name}: {error}\n");
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
            return;
        }
    };
    let mut bytes: Vec<u8> = (0..=length).map(|index| (index % 251) as u8).collect();
    let want = bytes[1..].to_vec();
    let (head, tail) = bytes[1..].split_at_mut(1000);
    disk.write(&mut [iovec_of(head), iovec_of(tail)], 4096).unwrap();
    assert!(disk.direct.as_ref().is_some_and(|direct| direct.bounce.is_some()));
    let mut back = vec![0; length + 3];
    disk.read(&mut [iovec_of(&mut back[3..])], 4096).unwrap();
    assert!(back[3..] == want);
    disk.flush().unwrap();
}
