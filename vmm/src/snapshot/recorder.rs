//! Finding out which pages a restored guest touches.
//!
//! The guest gets empty memory, and each page when it, or the VMM for it, comes to it: by
//! userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst) a thread hears of it, fetches the page
//! from the snapshot and takes it down. That is slow, and is done once.

use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::working_set::WorkingSet;
use super::{Snapshot, SnapshotError};
use crate::memory::GuestRam;

const PAGE_BYTES: usize = 4096;
/// More are not kept: what a guest touches first is what it waits for.
const PAGES_MAX: usize = 4096;

/// Requests to userfaultfd (include/uapi/linux/userfaultfd.h), `_IOWR` of type 0xAA.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const MESSAGE_BYTES: usize = 32;

/// A recording of a guest that was made by [`Vmm::record`](crate::Vmm::record).
#[derive(Debug)]
pub struct Recording {
    thread: Option<JoinHandle<Vec<usize>>>,
    end: EventFd,
    memory: File,
}

impl Recording {
    /// Empty memory for a guest of `snapshot`, filled as it is touched.
    pub(crate) fn new(snapshot: &Snapshot) -> Result<(GuestRam, Recording), crate::Error> {
        let ram = GuestRam::new(snapshot.memory_bytes(), crate::Pages::Small, false)?;
        let failed = SnapshotError::Record;
        let memory = snapshot.memory().try_clone().map_err(failed)?;
        let source = memory.try_clone().map_err(failed)?;
        let faults = watch(&ram).map_err(failed)?;
        let end = EventFd::new(EFD_CLOEXEC).map_err(failed)?;
        let ended = end.try_clone().map_err(failed)?;
        let start = ram.host_range().start;
        let name = thread::Builder::new().name("tare-recorder".to_owned());
        let thread = name.spawn(move || serve(&faults, &ended, &source, start)).map_err(failed)?;
        Ok((ram, Recording { thread: Some(thread), end, memory }))
    }

    /// What was touched until now, and written. The guest must not be running. Its memory is not
    /// filled any more: it must not run on.
    pub(crate) fn finish(mut self, ram: &GuestRam) -> Result<WorkingSet, SnapshotError> {
        let mut touched = self.stop();
        touched.truncate(PAGES_MAX);
        touched.sort_unstable();
        let mut set = WorkingSet::default();
        let mut before = [0; PAGE_BYTES];
        for offset in touched {
            self.memory.read_exact_at(&mut before, offset as u64).map_err(SnapshotError::Record)?;
            let written = ram.host_bytes(offset, PAGE_BYTES).is_some_and(|now| *now != before);
            set.push(offset as u64, written);
        }
        Ok(set)
    }

    fn stop(&mut self) -> Vec<usize> {
        let _ = self.end.write(1);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Has the kernel tell of every page of `ram` that is missing.
fn watch(ram: &GuestRam) -> io::Result<OwnedFd> {
    // SAFETY: a system call on plain numbers, whose result is a new descriptor.
    let faults = unsafe {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = libc::syscall(libc::SYS_userfaultfd, flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let range = ram.host_range();
    request(&faults, UFFDIO_API, &mut [UFFD_API, 0, 0])?;
    let (start, length) = (range.start as u64, range.len() as u64);
    request(&faults, UFFDIO_REGISTER, &mut [start, length, MODE_MISSING, 0])?;
    Ok(faults)
}

fn request<const N: usize>(
    faults: &OwnedFd,
    request: u64,
    argument: &mut [u64; N],
) -> io::Result<()> {
    // SAFETY: the argument is as long as the request says (bits 16 to 29) and is all plain
    // numbers; a page is only ever copied to where it is missing.
    match unsafe { libc::ioctl(faults.as_raw_fd(), request as _, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Fetches pages until the end; which, in the order in which they were touched.
fn serve(faults: &OwnedFd, end: &EventFd, source: &File, start: usize) -> Vec<usize> {
    let mut touched = Vec::new();
    let mut page = [0_u8; PAGE_BYTES];
    let mut message = [0_u8; MESSAGE_BYTES];
    // SAFETY: `faults` lives longer, and is not closed by this.
    let mut messages = ManuallyDrop::new(unsafe { File::from_raw_fd(faults.as_raw_fd()) });
    let descriptor = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        let mut wait = [descriptor(faults.as_raw_fd()), descriptor(end.as_raw_fd())];
        // SAFETY: the pointer and length are of one array.
        let ready = unsafe { libc::poll(wait.as_mut_ptr(), wait.len() as _, -1) };
        if ready < 0 {
            continue;
        }
        if wait[1].revents != 0 {
            return touched;
        }
        if !matches!(messages.read(&mut message), Ok(MESSAGE_BYTES))
            || message[0] != EVENT_PAGEFAULT
        {
            continue;
        }
        let mut address = [0; 8];
        address.copy_from_slice(&message[16..24]);
        let address = usize::from_ne_bytes(address) & !(PAGE_BYTES - 1);
        let offset = address.wrapping_sub(start);
        // A page that cannot be read stays zero: the guest of a recording is thrown away.
        page.fill(0);
        let _ = source.read_at(&mut page, offset as u64);
        let from = page.as_ptr() as u64;
        let copied =
            request(faults, UFFDIO_COPY, &mut [address as u64, from, PAGE_BYTES as u64, 0, 0]);
        // It fails where two threads came to one page.
        if copied.is_ok() {
            touched.push(offset);
        }
    }
}
