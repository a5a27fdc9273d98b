//! Where a guest begins: at its kernel's first instruction, or where a template of it parked.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use tare_vmm::{Captured, Filled, Snapshot, Streams, Vmm};

use super::monitor::Recorder;
use super::pool::Pool;
use super::template::Template;
use crate::kit::file_system_of;

/// Where a guest begins.
pub(super) enum Origin {
    /// At its kernel's first instruction.
    Boot,
    /// There, in memory that was filled before the launch.
    Pooled(Pool),
    /// Where the template parked, by the files of its snapshot.
    Files(Template),
    /// There, by the snapshot that is open.
    Open(Template),
    /// Where a guest parked that the user keeps, with a message for each that goes on there.
    Kept { snapshot: PathBuf, message: Vec<u8> },
}

impl Origin {
    /// What it takes, in plain words.
    pub(super) fn state(&self) -> Vec<String> {
        let snapshot = |template: &Template| {
            let Captured { memory_bytes, state_bytes } = template.captured;
            format!(
                "snapshot of a guest whose agent is about to begin: {memory_bytes} bytes of memory, \
                 {state_bytes} of state, taken in {:.1} ms, in the host's page cache",
                template.capture_ns as f64 / 1e6
            )
        };
        match self {
            Origin::Boot => vec!["cold boot".to_owned()],
            Origin::Pooled(pool) => pool.state(),
            Origin::Files(template) => vec![
                snapshot(template),
                format!(
                    "each launch opens, reads and checks the state; the memory was checked once \
                     (files on {}, there in large pages if that is tmpfs)",
                    file_system_of(&template.directory)
                ),
            ],
            Origin::Kept { snapshot, .. } => {
                vec![format!("snapshot {}, opened by each launch", snapshot.display())]
            }
            Origin::Open(template) => vec![
                snapshot(template),
                "the snapshot is open and checked; launches share it".to_owned(),
            ],
        }
    }

    /// Makes the VMM of a guest that begins here.
    pub(super) fn launch(
        &self,
        prepared: &tare_vmm::Prepared,
        filled: Option<Filled>,
        streams: Streams,
    ) -> Result<Vmm, tare_vmm::Error> {
        let observer = Box::<Recorder>::default();
        match self {
            Origin::Boot | Origin::Pooled(_) => match filled {
                None => Vmm::launch_with(prepared, streams, observer),
                Some(filled) => Vmm::launch_in(prepared, filled, streams, observer),
            },
            Origin::Open(template) => {
                Vmm::restore_with(prepared, &template.snapshot, streams, observer)
            }
            Origin::Files(template) => {
                let snapshot = Snapshot::open(&template.directory, prepared)?;
                Vmm::restore_with(prepared, &snapshot, streams, observer)
            }
            Origin::Kept { snapshot, message } => {
                let snapshot = Snapshot::open(snapshot, prepared)?;
                let mut vmm = Vmm::restore_with(prepared, &snapshot, streams, observer)?;
                vmm.tell(message.clone());
                Ok(vmm)
            }
        }
    }

    /// What a launch needs to be open.
    pub(super) fn fd(&self) -> Option<RawFd> {
        match self {
            Origin::Open(template) => Some(template.snapshot.as_fd().as_raw_fd()),
            Origin::Boot | Origin::Pooled(_) | Origin::Files(_) | Origin::Kept { .. } => None,
        }
    }
}
