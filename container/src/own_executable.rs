//! The caller's own program, out of a box's reach.
//!
//! A command of a box may be a link to `/proc/self/exe`, or a script with that as its interpreter: it
//! is then the caller's own program that runs in the box, and the box's root may write to its file on
//! the host through that path (CVE-2019-5736). Executed from a read-only mount of its own, or from a
//! sealed copy in memory, there is nothing that can be written to.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::compile::read_only;
use crate::error::Error;

const OWN: &str = "/proc/self/exe";

/// Makes this program one that a box cannot write to, by executing it again with the same arguments
/// and environment; returns if it is so already. To be called first of all, where commands of boxes
/// are not trusted. [`Program::File`](crate::Program::File) needs none of it.
///
/// # Errors
/// It cannot be executed again.
pub fn protect_own_executable() -> Result<(), Error> {
    let failed = |source| Error::Path {
        role: "program to be executed again",
        path: OWN.into(),
        source,
        remedy: "mount /proc, and leave memory for a copy of this program",
    };
    let own = File::open(OWN).map_err(failed)?;
    if is_protected(&own) {
        return Ok(());
    }
    let mount = read_only(own.try_clone().map_err(failed)?.into());
    // What lies on no mount of ours, or whoever may not mount, is copied.
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let is_mounted = File::open(path).is_ok_and(|file| is_protected(&file));
    let file = if is_mounted { mount } else { copy(own).map_err(failed)? };
    Err(failed(execute(&file)))
}

fn is_protected(file: &File) -> bool {
    // SAFETY: plain numbers; what cannot be sealed has no seals.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals >= 0 && seals & libc::F_SEAL_WRITE != 0 {
        return true;
    }
    // SAFETY: numbers, for which zero is a value.
    let mut status: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and room for the answer.
    let got = unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut status) };
    got == 0 && status.f_flag & libc::ST_RDONLY != 0
}

fn copy(mut from: File) -> io::Result<OwnedFd> {
    // SAFETY: a C string and flags.
    let fd = unsafe {
        libc::memfd_create(c"tare".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and ours alone.
    let mut to = unsafe { File::from_raw_fd(fd) };
    io::copy(&mut from, &mut to)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain numbers.
    match unsafe { libc::fcntl(to.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(to.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns only if it fails.
fn execute(file: &OwnedFd) -> io::Error {
    let strings = |words: Vec<Vec<u8>>| {
        // Neither arguments nor environment can hold a zero byte.
        words.into_iter().filter_map(|word| CString::new(word).ok()).collect::<Vec<CString>>()
    };
    let arguments = strings(std::env::args_os().map(|word| word.as_bytes().to_vec()).collect());
    let environment = strings(
        std::env::vars_os()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
            .collect(),
    );
    let pointers = |strings: &[CString]| {
        let all = strings.iter().map(|text| text.as_ptr());
        all.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (args, env) = (pointers(&arguments), pointers(&environment));
    // SAFETY: arrays of C strings that end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
