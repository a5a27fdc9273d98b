//! The guest of which others are copies: booted once, untimed, to where its agent parks, and kept
//! as a snapshot, with a record of what its copies need at once.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tare_vmm::{
    Capture, Captured, Edge, End, Observer, Prepared, Snapshot, SnapshotError, Stopper, Touched,
    Vmm, WorkingSet,
};
use tare_workload::{Decoder, Event, Mark};

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
        "the guest to be copied ended ({end:?}) before its agent was where it is copied{said}; see that its kernel has CONFIG_X86_IOPL_IOPERM, and whether `--on microvm` boots it"
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
        Template::make(prepared, directory, |capture| capture)
    }

    /// Boots the guest until its workload is ready to run; which large pages it has come to by then.
    pub(super) fn touched(prepared: &Prepared) -> Result<Touched, Error> {
        let watch = Watch::until(Point::Ready);
        let mut vmm = Vmm::launch(prepared, Box::new(watch.clone()))?;
        watch.run_to_ready(&mut vmm)?;
        Ok(vmm.touched()?)
    }

    /// As `new`, and has it on the disk.
    pub(super) fn durable(prepared: &Prepared, directory: &Path) -> Result<Template, Error> {
        Template::make(prepared, directory, Capture::durable)
    }

    fn make(
        prepared: &Prepared,
        directory: &Path,
        adapt: fn(Capture) -> Capture,
    ) -> Result<Template, Error> {
        let watch = Watch::until(Point::Parked);
        let mut vmm = Vmm::launch(prepared, Box::new(watch.clone()))?;
        watch.run(&mut vmm)?;
        let capture = adapt(Capture::create(directory, prepared)?);
        let from_ns = now_ns();
        let captured = vmm.snapshot(prepared, &capture)?;
        let capture_ns = now_ns() - from_ns;
        drop((vmm, capture));
        let snapshot = Snapshot::open(directory, prepared)?;
        snapshot.verify()?;
        let snapshot = match record(prepared, &snapshot) {
            Ok(set) => {
                set.save(directory)?;
                Snapshot::open(directory, prepared)?
            }
            // It takes privileges, and a snapshot is good without it.
            Err(Error::Vmm(tare_vmm::Error::Snapshot(SnapshotError::Record(_)))) => snapshot,
            Err(error) => return Err(error),
        };
        Ok(Template { directory: directory.to_owned(), snapshot, captured, capture_ns })
    }
}

/// Finds out which pages a copy touches until its workload is ready to run.
fn record(prepared: &Prepared, snapshot: &Snapshot) -> Result<WorkingSet, Error> {
    let watch = Watch::until(Point::Ready);
    let (mut vmm, recording) = Vmm::record(prepared, snapshot, Box::new(watch.clone()))?;
    watch.run_to_ready(&mut vmm)?;
    Ok(vmm.recorded(recording)?)
}

/// Runs `body` and stops the guest if it takes longer. The thread for it is gone when this returns:
/// the harness has none.
fn within<T>(limit: Duration, stopper: Stopper, body: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                stopper.stop();
            }
        });
        let result = body();
        drop(done);
        // The scope alone waits for the closure's end, not for the thread's.
        let _ = watchdog.join();
        result
    })
}

/// Where a guest is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Parked,
    Ready,
}

/// Pauses the guest at a point, and keeps what it says of an error.
#[derive(Clone)]
struct Watch {
    until: Point,
    stopper: Arc<OnceLock<Stopper>>,
    decoder: Arc<std::sync::Mutex<Decoder>>,
    said: Arc<OnceLock<String>>,
}

impl Watch {
    fn until(until: Point) -> Watch {
        Watch { until, stopper: Arc::default(), decoder: Arc::default(), said: Arc::default() }
    }

    /// Runs the guest to the point.
    fn run(&self, vmm: &mut Vmm) -> Result<(), Error> {
        let stopper = vmm.stopper();
        // Nobody else sets it.
        let _ = self.stopper.set(stopper.clone());
        let outcome = within(BOOT_LIMIT, stopper, || vmm.run())?;
        if outcome.end == End::Paused {
            return Ok(());
        }
        let said = self.said.get().map_or(String::new(), |text| format!(": {text}"));
        Err(Error::NotParked { end: outcome.end, said })
    }

    /// As `run`, for a guest of which only counts what it touches.
    fn run_to_ready(&self, vmm: &mut Vmm) -> Result<(), Error> {
        match self.run(vmm) {
            // One that misses its user's streams ends before it is ready: what it touched counts.
            Err(Error::NotParked { .. }) => Ok(()),
            other => other,
        }
    }

    fn pause(&self) {
        if let Some(stopper) = self.stopper.get() {
            stopper.pause();
        }
    }
}

impl Observer for Watch {
    fn edge(&mut self, _: Edge, _: u64) {}

    fn serial(&mut self, _: u64, bytes: &[u8]) {
        let Ok(mut decoder) = self.decoder.lock() else { return };
        // What cannot be decoded ends in `NotParked` all the same.
        let _ = decoder.push(bytes, |event| {
            let text = match event {
                Event::Frame(_, text) | Event::Text(text) => text,
                Event::Mark(Mark::Ready) if self.until == Point::Ready => return self.pause(),
                Event::Mark(_) => return,
            };
            let _ = self.said.set(String::from_utf8_lossy(&text).trim().to_owned());
        });
    }

    fn parked(&mut self, _: u64) {
        if self.until == Point::Parked {
            self.pause();
        }
    }
}
