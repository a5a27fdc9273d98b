//! What a directory holds.

use core::ffi::CStr;

use super::c_path;
use crate::Errno;

/// Calls `visit` with each entry's name and type (a `DT_` constant), but for `.` and `..`.
pub(crate) fn entries(path: &str, mut visit: impl FnMut(&CStr, u8)) -> Result<(), Errno> {
    let path = c_path(path)?;
    // SAFETY: the path is NUL-terminated.
    let directory = unsafe { libc::opendir(path.as_ptr()) };
    if directory.is_null() {
        return Err(Errno::last());
    }
    loop {
        // SAFETY: `directory` is open and used by nobody else.
        let entry = unsafe { libc::readdir(directory) };
        if entry.is_null() {
            break;
        }
        // SAFETY: the entry is valid until the next call, and its name is NUL-terminated.
        let (name, kind) = unsafe { (CStr::from_ptr((*entry).d_name.as_ptr()), (*entry).d_type) };
        if name != c"." && name != c".." {
            visit(name, kind);
        }
    }
    // SAFETY: `directory` is open and not used again.
    unsafe { libc::closedir(directory) };
    Ok(())
}
