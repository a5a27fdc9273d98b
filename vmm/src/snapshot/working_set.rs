//! The file `working-set`: pages that a guest is known to need at once.
//!
//! Without it a restored guest leaves for the host's kernel at each page that it comes to, and once
//! more where it then writes. With it the pages are brought in before the guest begins, many at a
//! time: what it will write is copied, what it will read is mapped, and both are put into the
//! guest's page tables (`KVM_PRE_FAULT_MEMORY`, Linux 6.11; on older hosts the guest still finds
//! them in the host's).

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use kvm_ioctls::VcpuFd;

use super::format::{FormatError, Kind, Sections, Writer};
use super::pages::Extent;
use super::{SnapshotError, WORKING_SET};
use crate::memory::GuestRam;

const PAGE_BYTES: u64 = 4096;
/// Far more than a recording keeps.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)` (include/uapi/linux/kvm.h).
const KVM_PRE_FAULT_MEMORY: u64 = 0xc040_aed5;

/// Which pages to bring in before a guest begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Pages that the guest writes.
    written: Vec<Extent>,
    /// Others that it reads.
    read: Vec<Extent>,
}

impl WorkingSet {
    /// Adds a page, in ascending order.
    pub(super) fn push(&mut self, offset: u64, written: bool) {
        let list = if written { &mut self.written } else { &mut self.read };
        match list.last_mut() {
            Some(last) if last.offset + last.bytes == offset => last.bytes += PAGE_BYTES,
            _ => list.push(Extent { offset, bytes: PAGE_BYTES }),
        }
    }

    /// How many bytes the guest writes and how many it only reads.
    pub fn bytes(&self) -> (u64, u64) {
        let sum = |list: &[Extent]| list.iter().map(|extent| extent.bytes).sum();
        (sum(&self.written), sum(&self.read))
    }

    /// Puts it beside the snapshot in `directory`, where it is found from then on.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), SnapshotError> {
        let mut writer = Writer::new();
        writer.section(Kind::Memory, 0, self.written.as_slice());
        writer.section(Kind::Memory, 1, self.read.as_slice());
        let path = directory.join(WORKING_SET);
        fs::write(&path, writer.finish()).map_err(SnapshotError::file("write", &path))
    }

    /// That of a snapshot, if it has one.
    pub(super) fn load(
        directory: &Path,
        memory_bytes: u64,
    ) -> Result<Option<WorkingSet>, SnapshotError> {
        let path = directory.join(WORKING_SET);
        let bad = |error: FormatError| SnapshotError::Bad {
            path: path.clone(),
            reason: format!("{error}; remove it: a snapshot is good without it"),
        };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SnapshotError::file("find", &path)(error)),
            Ok(metadata) if metadata.len() > FILE_MAX_BYTES => {
                return Err(bad(FormatError::Length));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(SnapshotError::file("read", &path))?;
        let sections = Sections::parse(bytes).map_err(bad)?;
        let written = sections.values::<Extent>(Kind::Memory, 0).map_err(bad)?;
        let read = sections.values::<Extent>(Kind::Memory, 1).map_err(bad)?;
        for list in [&written, &read] {
            if !super::pages::fit(list, memory_bytes) {
                return Err(bad(FormatError::Length));
            }
        }
        Ok(Some(WorkingSet { written, read }))
    }

    /// Brings the pages in, as far as the host can: what it cannot, the guest will.
    pub(crate) fn fetch(&self, ram: &GuestRam, vcpu: &VcpuFd) {
        for Extent { offset, bytes } in &self.written {
            ram.populate(*offset, *bytes, libc::MADV_POPULATE_WRITE);
        }
        for Extent { offset, bytes } in self.written.iter().chain(&self.read) {
            let mut rest = (*offset, *bytes);
            while rest.1 > 0 {
                let Some((address, length)) = ram.guest_address(rest.0) else { return };
                let length = length.min(rest.1);
                if !pre_fault(vcpu, address, length) {
                    return;
                }
                rest = (rest.0 + length, rest.1 - length);
            }
        }
    }
}

/// False if the kernel cannot.
fn pre_fault(vcpu: &VcpuFd, address: u64, bytes: u64) -> bool {
    let mut argument = [address, bytes, 0, 0, 0, 0, 0, 0];
    // SAFETY: the argument is as long as the request says, of plain numbers; the vCPU is not
    // running, and its page tables come to say what its memory slots say.
    let done =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_PRE_FAULT_MEMORY as _, argument.as_mut_ptr()) };
    done == 0
}
