//! Descriptors that the program is given.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Given;
use super::mount::read_only;
use crate::error::{Error, Stage};
use crate::script::{Arg, Script};
use crate::spec::{Descriptor, Spec, Stream};

/// The largest number that the program is given.
pub(super) fn highest(spec: &Spec) -> i32 {
    spec.descriptors.iter().map(|d| d.number).max().unwrap_or(2)
}

/// A duplicate above `highest`, so that giving the program its numbers overwrites no source.
pub(crate) fn above(fd: impl AsFd, highest: i32) -> Result<OwnedFd, Error> {
    let fd = fd.as_fd();
    // SAFETY: plain numbers.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, highest + 1) };
    if new < 0 {
        return Err(Error::last("duplicate a descriptor for the container"));
    }
    // SAFETY: `new` is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Marks everything close-on-exec, then puts each source where the program expects it.
pub(super) fn pass(
    script: &mut Script,
    stdio: [Stream; 3],
    descriptors: Vec<Descriptor>,
    given: &Given,
    highest: i32,
) -> Result<Vec<OwnedFd>, Error> {
    let mut kept = Vec::new();
    script.call(
        Stage::Descriptor,
        "3 and above: close at exec",
        libc::SYS_close_range,
        &[3usize.into(), u32::MAX.into(), libc::CLOSE_RANGE_CLOEXEC.into()],
    );
    let mut null: Option<i32> = None;
    let all =
        stdio.into_iter().zip(0..).chain(descriptors.into_iter().map(|d| (d.source, d.number)));
    for (stream, number) in all {
        let target = format!("{number}");
        let stream = match given.terminal.filter(|_| number < 3) {
            Some(end) => {
                let arguments = [end.into(), number.into(), 0usize.into()];
                script.call(Stage::Descriptor, target, libc::SYS_dup3, &arguments);
                continue;
            }
            None => stream,
        };
        let source: Arg = match stream {
            Stream::Inherit => {
                script
                    .call(
                        Stage::Descriptor,
                        target,
                        libc::SYS_fcntl,
                        &[number.into(), libc::F_SETFD.into(), 0usize.into()],
                    )
                    // A caller without standard input has none to pass on.
                    .tolerate(if number < 3 { &[libc::EBADF] } else { &[] });
                continue;
            }
            Stream::Slot(index) => match given.slots.get(index) {
                Some(reg) => (*reg).into(),
                None => continue,
            },
            Stream::Null => match null {
                Some(fd) => fd.into(),
                None => {
                    let fd = keep(&mut kept, OwnedFd::from(open_null()?).as_fd(), highest)?;
                    null = Some(fd);
                    fd.into()
                }
            },
            Stream::File(file) => keep(&mut kept, file.as_fd(), highest)?.into(),
        };
        script.call(
            Stage::Descriptor,
            target,
            libc::SYS_dup3,
            &[source, number.into(), 0usize.into()],
        );
    }
    Ok(kept)
}

fn keep(kept: &mut Vec<OwnedFd>, fd: BorrowedFd<'_>, highest: i32) -> Result<i32, Error> {
    let fd = above(fd, highest)?;
    let number = fd.as_raw_fd();
    kept.push(fd);
    Ok(number)
}

/// The null device, by a mount that is read-only, if this process may make one: writing to a device
/// is no change of the file system, but with an ordinary descriptor of the host's `/dev/null` the
/// box could `fchmod` it.
pub(super) fn open_null() -> Result<File, Error> {
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let null = open("/dev/null").map_err(|source| Error::Path {
        role: "null device",
        path: "/dev/null".into(),
        source,
        remedy: "mount /dev on the host, or pass other standard streams",
    })?;
    let tree = read_only(OwnedFd::from(null));
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    open(&path).map_err(|source| Error::Path {
        role: "null device",
        path: path.into(),
        source,
        remedy: "mount /proc on the host",
    })
}
