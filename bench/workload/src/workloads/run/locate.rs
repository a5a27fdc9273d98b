//! Finding a program the way a shell does.

use alloc::ffi::CString;
use alloc::string::String;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use crate::sys::{c_path, check};
use crate::{Context, Errno, Error};

/// Where programs are looked for if the box does not say: a guest kernel gives its init no PATH.
pub(super) const DEFAULT_PATH: &CStr =
    c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The value of `PATH` in this process's environment.
pub(super) fn search_path() -> Option<&'static CStr> {
    // SAFETY: the name is NUL-terminated. Nothing here changes the environment, so the value stays.
    let value = unsafe { libc::getenv(c"PATH".as_ptr()) };
    // SAFETY: a value that is not NULL is NUL-terminated.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// The path of `program`: itself if it has a slash, else the first executable file of that name in
/// a directory of PATH.
pub(super) fn locate(program: &str) -> Result<CString, Error> {
    if program.contains('/') {
        let path = c_path(program).on("path", program)?;
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(errno) => Err(error(program, errno)),
        };
    }
    let default = DEFAULT_PATH.to_str().unwrap_or_default().trim_start_matches("PATH=");
    let directories = search_path().map_or(Ok(default), CStr::to_str).unwrap_or(default);
    let mut best = Errno(libc::ENOENT);
    for directory in directories.split(':').filter(|_| !program.is_empty()) {
        let directory = if directory.is_empty() { "." } else { directory };
        let path = c_path(&alloc::format!("{directory}/{program}")).on("path", program)?;
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(errno) => best = errno,
        }
    }
    if best == Errno(libc::ENOENT) {
        let why = alloc::format!("no directory of PATH has it ({directories})");
        return Err(Error::CommandNotFound { program: program.into(), why });
    }
    Err(error(program, best))
}

/// The error of a program that the kernel refuses with `errno`.
pub(super) fn error(program: &str, errno: Errno) -> Error {
    let program = String::from(program);
    let why = alloc::format!("{errno}");
    match errno {
        Errno(libc::ENOENT | libc::ENOTDIR) => Error::CommandNotFound { program, why },
        _ => Error::CommandNotExecutable { program, why },
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let mut found = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated and `found` valid for writing.
    check(unsafe { libc::stat(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: stat succeeded and so filled it in.
    let mode = unsafe { found.assume_init() }.st_mode;
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno(libc::EISDIR));
    }
    // SAFETY: `path` is NUL-terminated.
    check(unsafe { libc::access(path.as_ptr(), libc::X_OK) }).map(drop)
}
