//! The guest of which others are copies: booted once, untimed, to where its agent parks, and kept
//! as a snapshot.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tare_vmm::{Capture, Captured, Edge, End, Observer, Prepared, Snapshot, Stopper, Vmm};
use tare_workload::{Decoder, Event};

use crate::clock::now_ns;

/// A guest that has not parked by then never will.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The VMM could not, or the snapshot cannot be used.
    #[error(transparent)]
    Vmm(#[from] tare_vmm::Error),
    /// The snapshot cannot be made.
    #[error(transparent)]
    Snapshot(#[from] tare_vmm::SnapshotError),
    /// The guest did something else.
    #[error(
        "the guest to be copied ended ({end:?}) before its agent parked{said}; see that its kernel has CONFIG_X86_IOPL_IOPERM, and whether `--on microvm` boots it"
    )]
    NotParked {
        /// How.
        end: End,
        /// What it wrote.
        said: String,
    },
}

/// A snapshot of a parked guest.
pub(super) struct Template {
    pub(super) directory: PathBuf,
    pub(super) snapshot: Snapshot,
    pub(super) captured: Captured,
    /// How long the snapshot took, in nanoseconds: the guest stood still for so long.
    pub(super) capture_ns: u64,
}

impl Template {
    /// Boots the guest and takes the snapshot in `directory`, which is not there yet.
    pub(super) fn new(prepared: &Prepared, directory: &Path) -> Result<Template, Error> {
        let watch = Watch::default();
        let mut vmm = Vmm::launch(prepared, Box::new(watch.clone()))?;
        let stopper = vmm.stopper();
        // Nobody else has it.
        let _ = watch.stopper.set(stopper.clone());
        let outcome = within(BOOT_LIMIT, stopper, || vmm.run())?;
        if outcome.end != End::Paused {
            let said = watch.said.get().map_or(String::new(), |text| format!(": {text}"));
            return Err(Error::NotParked { end: outcome.end, said });
        }
        let capture = Capture::create(directory, prepared)?;
        let from_ns = now_ns();
        let captured = vmm.snapshot(prepared, &capture)?;
        let capture_ns = now_ns() - from_ns;
        drop((vmm, capture));
        let snapshot = Snapshot::open(directory, prepared)?;
        snapshot.verify()?;
        Ok(Template { directory: directory.to_owned(), snapshot, captured, capture_ns })
    }
}

/// Runs `body` and stops the guest if it takes longer. The thread for it is gone when this returns:
/// the harness has none.
fn within<T>(limit: Duration, stopper: Stopper, body: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                stopper.stop();
            }
        });
        let result = body();
        drop(done);
        result
    })
}

/// Pauses the guest where it parks, and keeps what it says of an error.
#[derive(Default, Clone)]
struct Watch {
    stopper: Arc<OnceLock<Stopper>>,
    decoder: Arc<std::sync::Mutex<Decoder>>,
    said: Arc<OnceLock<String>>,
}

impl Observer for Watch {
    fn edge(&mut self, _: Edge, _: u64) {}

    fn serial(&mut self, _: u64, bytes: &[u8]) {
        let Ok(mut decoder) = self.decoder.lock() else { return };
        // What cannot be decoded ends in `NotParked` all the same.
        let _ = decoder.push(bytes, |event| {
            let text = match event {
                Event::Frame(_, text) | Event::Text(text) => text,
                _ => return,
            };
            let _ = self.said.set(String::from_utf8_lossy(&text).trim().to_owned());
        });
    }

    fn parked(&mut self, _: u64) {
        if let Some(stopper) = self.stopper.get() {
            stopper.pause();
        }
    }
}
