//! Kernel modules that a distribution's kernel needs to see its devices.

use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;

use tare_workload::{Context, Errno, Error};

/// A longer list is read no further, and its last line names no file.
const LIST_MAX_BYTES: usize = 16 << 10;

/// Inserts the modules that the file `list` names, one path a line, in this order. One that is
/// there already is no error.
pub(crate) fn insert(list: &str) -> Result<(), Error> {
    let names = read(list).on("read", list)?;
    for path in names.split(|&byte| byte == b'\n').filter(|path| !path.is_empty()) {
        let shown = || String::from_utf8_lossy(path).into_owned();
        match insert_one(path) {
            Ok(()) | Err(Errno(libc::EEXIST)) => {}
            Err(errno) => return Err(errno).on("finit_module", shown()),
        }
    }
    Ok(())
}

fn insert_one(path: &[u8]) -> Result<(), Errno> {
    let file = Descriptor::open(path)?;
    // SAFETY: the descriptor is open, and the parameters are a C string: none.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.0, c"".as_ptr(), 0) };
    if result == -1 { Err(Errno::last()) } else { Ok(()) }
}

fn read(path: &str) -> Result<Vec<u8>, Errno> {
    let file = Descriptor::open(path.as_bytes())?;
    let mut bytes = alloc::vec![0; LIST_MAX_BYTES];
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        // SAFETY: `rest` is valid for writing of its length.
        match unsafe { libc::read(file.0, rest.as_mut_ptr().cast(), rest.len()) } {
            0 => break,
            -1 => return Err(Errno::last()),
            count => done += count.unsigned_abs(),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// A file open for reading.
struct Descriptor(i32);

impl Descriptor {
    fn open(path: &[u8]) -> Result<Descriptor, Errno> {
        let name = CString::new(path).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: the path is a C string.
        match unsafe { libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) } {
            -1 => Err(Errno::last()),
            fd => Ok(Descriptor(fd)),
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.0) };
    }
}
