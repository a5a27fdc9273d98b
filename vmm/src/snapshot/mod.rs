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

mod capture;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod pages;
mod recorder;
mod stored;
mod working_set;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use capture::{Capture, Captured};
pub(crate) use format::{FormatError, Kind, Sections, Writer};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzing::{decode_any, with_checksum};
pub(crate) use pages::Extent;
pub use recorder::Recording;
pub use stored::Snapshot;
pub(crate) use stored::misfit;
pub use working_set::WorkingSet;

const STATE: &str = "state";
const MEMORY: &str = "memory";
const WORKING_SET: &str = "working-set";

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
