//! A guest on disk, to go on from as often as wanted.
//!
//! A snapshot is a directory of two files, or three. `state` has the vCPUs, the kernel's controllers and
//! clock, the devices, and a checksum (see `format`). `memory` is guest RAM, with holes where it is
//! zero; a restore maps it copy-on-write, so that it costs no reading, and a hundred guests of one
//! snapshot share every page that none of them has changed. `working-set`, if it is there, says
//! which pages to bring in at once (see `working_set`).
//!
//! A snapshot holds only what the guest is. What surrounds it — disks, sockets, the processor's
//! kind — is the [`Config`](crate::Config) of whoever restores it, and is checked against the
//! snapshot: it must be the same machine with the same kernel, initramfs and command line, and the
//! same answers to CPUID. Disks must have the contents that they had.
//!
//! # Differences
//!
//! A guest that was restored can be saved as what differs from the snapshot it came from, its parent
//! ([`Capture::difference`]). Its memory is a private mapping of the parent's, so the host's own page
//! tables are the log of what was written since, by whomever, and keeping it costs nothing. KVM's
//! log (`KVM_GET_DIRTY_LOG`) would miss what the VMM's devices write for the guest, and make the
//! guest leave for the VMM's host at each page's first write once more; soft-dirty bits are not in
//! every host's kernel (`CONFIG_MEM_SOFT_DIRTY` is off in Debian's cloud kernels); a bitmap that
//! devices keep has a gap with each device that forgets it. A test holds the result against KVM's
//! log. Pages that were written and are as before are left out by comparing.
//!
//! Who restores a differential snapshot gets all of the chain, checked and merged in memory;
//! [`SnapshotFiles::rebase`] merges it on disk. A parent that is missing, has changed, or is of
//! another guest is named.

mod capture;
#[cfg(test)]
mod decoder_tests;
mod files;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod output;
mod pagemap;
mod pages;
mod rebase;
mod recorder;
mod stored;
mod working_set;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use capture::{Capture, Captured};
pub use files::{Description, SnapshotFiles};
pub(crate) use format::{FormatError, Kind, Sections, Writer};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzing::{decode_any, with_checksum};
pub(crate) use pagemap::touched_regions;
pub(crate) use pages::Extent;
pub use recorder::Recording;
pub use stored::Snapshot;
pub(crate) use stored::misfit;
pub use working_set::WorkingSet;

const STATE: &str = "state";
/// The state until it is whole.
const PARTIAL: &str = "state.partial";
const MEMORY: &str = "memory";
const WORKING_SET: &str = "working-set";

/// Which snapshot of all.
pub(crate) type Id = [u8; 16];

/// Why a snapshot cannot be taken or restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {error}; check the path, its permissions and the free space", path.display())]
    File {
        /// What failed.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The files are no snapshot, or damaged.
    #[error("{} cannot be restored: {reason}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// It is a snapshot of another machine.
    #[error("the snapshot {} is of another machine: {what} was {then}, is {now}; restore it with the configuration it was taken with, or take it again", path.display())]
    Different {
        /// The snapshot.
        path: PathBuf,
        /// What differs.
        what: String,
        /// In the snapshot.
        then: String,
        /// Here.
        now: String,
    },
    /// Whoever took it did not come to the end.
    #[error("{} is no whole snapshot: its writing was not finished; remove it, and take it again", path.display())]
    Unfinished {
        /// The snapshot.
        path: PathBuf,
    },
    /// It is a difference, and what it differs from cannot be used.
    #[error("the snapshot {} has only what differs from another one, and {reason}", path.display())]
    Parent {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong with the other one, and what to do.
        reason: String,
    },
    /// The guest does not come from the snapshot that it is to differ from.
    #[error("the guest was not restored from the snapshot {}, so what differs from that is not known; name the one it comes from, or take a whole snapshot", path.display())]
    Origin {
        /// The snapshot.
        path: PathBuf,
    },
    /// What a restored guest touches cannot be recorded.
    #[error(
        "cannot record which pages a guest touches: {0}; it takes Linux with CONFIG_USERFAULTFD, and root or the sysctl vm.unprivileged_userfaultfd=1"
    )]
    Record(#[source] io::Error),
    /// The state of a guest could not be written.
    #[error("cannot write the snapshot: {0}; see whether there is space left")]
    Write(#[source] io::Error),
}

impl SnapshotError {
    fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |error| SnapshotError::File { action, path: path.to_owned(), error }
    }
}

/// What guest a snapshot is of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(C)]
struct Guest {
    memory_bytes: u64,
    vcpus: u32,
    virtio_devices: u32,
    /// Of everything that was in its memory when it began.
    image: [u8; 32],
}

/// Of all snapshots that there are, no other has this.
fn fresh_id() -> io::Result<Id> {
    let mut id = Id::default();
    // SAFETY: the pointer and length are of one array. So few bytes come whole.
    match unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) } {
        0.. => Ok(id),
        _ => Err(io::Error::last_os_error()),
    }
}
