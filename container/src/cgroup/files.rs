//! Small files of the cgroup file system, by descriptor of their directory.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub(crate) fn open_at(directory: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string; the result is checked.
    let fd = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes all of `value` in one call, as control files want it.
pub(crate) fn write_at(directory: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    File::from(open_at(directory, name, libc::O_WRONLY)?).write_all(value)
}

/// Reads a control file.
pub(crate) fn read_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<String> {
    let mut text = String::new();
    File::from(open_at(directory, name, libc::O_RDONLY)?).read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn make_directory_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a C string.
    if unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), 0o755) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(crate) fn remove_directory_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a C string.
    if unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number in a file that holds one; `None` for `max` or anything else.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number after `key` in a file of lines `key number`.
pub(crate) fn keyed_number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(key)?.strip_prefix(' ')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_keyed_number_takes_whole_key_only() {
        let text = "oom 3\noom_kill 7\nbad x\n";
        assert_eq!(keyed_number(text, "oom_kill"), Some(7));
        assert_eq!(keyed_number(text, "oom"), Some(3));
        assert_eq!(keyed_number(text, "bad"), None);
        assert_eq!(keyed_number(text, "none"), None);
        assert_eq!(number("max\n"), None);
    }
}
