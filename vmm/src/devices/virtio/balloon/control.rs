//! What the host asks of a balloon and sees of it, from any thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::PAGE_BYTES;

/// A microVM's balloon, held from the host's side; made by
/// [`Vmm::balloon`](crate::Vmm::balloon), usable from any thread and as long as one likes.
///
/// Nothing here waits for the guest but [`wait`](BalloonControl::wait): whether its driver follows,
/// and how fast, is the guest's affair.
#[derive(Debug, Clone)]
pub struct BalloonControl {
    pub(super) shared: Arc<Shared>,
}

/// How far a balloon is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BalloonState {
    /// How much memory the guest is to give up.
    pub target_bytes: u64,
    /// How much it says that it has given up. A guest may say anything.
    pub actual_bytes: u64,
    /// How much was given back to the host, in all, for it was put into the balloon.
    pub inflated_bytes: u64,
    /// How much was given back to the host, in all, for the guest reported it as free.
    pub reported_bytes: u64,
    /// What the guest said last when it was asked ([`BalloonControl::request_statistics`]).
    pub statistics: Option<BalloonStatistics>,
    /// How often it has said that.
    pub statistics_count: u64,
}

/// The guest's memory by its own word (section 5.5.6.3); what it left out is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BalloonStatistics {
    /// Swapped in, in all.
    pub swapped_in_bytes: Option<u64>,
    /// Swapped out, in all.
    pub swapped_out_bytes: Option<u64>,
    /// Page faults that waited for a disk, in all.
    pub major_faults: Option<u64>,
    /// Other page faults, in all.
    pub minor_faults: Option<u64>,
    /// In no use at all.
    pub free_bytes: Option<u64>,
    /// All that the guest has.
    pub total_bytes: Option<u64>,
    /// What programs could have without swapping.
    pub available_bytes: Option<u64>,
    /// Caches that could be dropped.
    pub cache_bytes: Option<u64>,
    /// Huge pages that were allocated, in all.
    pub huge_page_allocations: Option<u64>,
    /// Huge pages that were wanted and not there, in all.
    pub huge_page_failures: Option<u64>,
}

impl BalloonStatistics {
    /// Takes one value; tags that nobody knows yet are left aside.
    pub(super) fn set(&mut self, tag: u16, value: u64) {
        let fields = [
            &mut self.swapped_in_bytes,
            &mut self.swapped_out_bytes,
            &mut self.major_faults,
            &mut self.minor_faults,
            &mut self.free_bytes,
            &mut self.total_bytes,
            &mut self.available_bytes,
            &mut self.cache_bytes,
            &mut self.huge_page_allocations,
            &mut self.huge_page_failures,
        ];
        if let Some(field) = fields.into_iter().nth(tag.into()) {
            *field = Some(value);
        }
    }
}

impl BalloonControl {
    /// For a balloon whose target is `target_bytes` from the start.
    pub(super) fn new(target_bytes: u64) -> std::io::Result<BalloonControl> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let inside = Inside { target_pages: pages(target_bytes), ..Inside::default() };
        let (inside, changed) = (Mutex::new(inside), Condvar::new());
        Ok(BalloonControl { shared: Arc::new(Shared { inside, changed, event }) })
    }

    /// Asks the guest to give up so much memory in all, in whole pages of 4 KiB; with less than
    /// before it takes the difference back.
    pub fn set_target(&self, bytes: u64) {
        self.shared.ask(|inside| inside.target_pages = pages(bytes));
    }

    /// Asks the guest how its memory is used. The answer is in the
    /// [`state`](BalloonControl::state) once [`statistics_count`](BalloonState::statistics_count)
    /// has grown; nothing is ever asked without this.
    pub fn request_statistics(&self) {
        self.shared.ask(|inside| inside.statistics_wanted = true);
    }

    /// How far it is.
    pub fn state(&self) -> BalloonState {
        self.shared.lock().state()
    }

    /// Sleeps until `done` says so of a state, at most for `limit`; the state, or `None` if the
    /// time was up.
    pub fn wait(
        &self,
        limit: Duration,
        mut done: impl FnMut(&BalloonState) -> bool,
    ) -> Option<BalloonState> {
        let end = Instant::now() + limit;
        let mut inside = self.shared.lock();
        loop {
            let state = inside.state();
            if done(&state) {
                return Some(state);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.shared.changed.wait_timeout(inside, left);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn pages(bytes: u64) -> u32 {
    // No guest has so much memory that this would cut anything off.
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

/// Between the host's threads and the device.
#[derive(Debug)]
pub(super) struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
    /// Wakes the device thread. Written only while there is a driver, so that it never stays
    /// readable with nobody to serve it.
    pub(super) event: EventFd,
}

/// What is shared.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// There is a driver.
    pub(super) live: bool,
    pub(super) target_pages: u32,
    pub(super) actual_pages: u32,
    pub(super) statistics_wanted: bool,
    pub(super) inflated_bytes: u64,
    pub(super) reported_bytes: u64,
    statistics: Option<BalloonStatistics>,
    statistics_count: u64,
}

impl Inside {
    fn state(&self) -> BalloonState {
        BalloonState {
            target_bytes: u64::from(self.target_pages) * PAGE_BYTES,
            actual_bytes: u64::from(self.actual_pages) * PAGE_BYTES,
            inflated_bytes: self.inflated_bytes,
            reported_bytes: self.reported_bytes,
            statistics: self.statistics,
            statistics_count: self.statistics_count,
        }
    }

    pub(super) fn learn(&mut self, statistics: BalloonStatistics) {
        self.statistics = Some(statistics);
        self.statistics_count += 1;
    }
}

impl Shared {
    fn ask(&self, wish: impl FnOnce(&mut Inside)) {
        let mut inside = self.lock();
        wish(&mut inside);
        if inside.live {
            // It fails only if 2^64 - 2 wishes are unread: then the thread is awake.
            let _ = self.event.write(1);
        }
    }

    /// Has the device change something that the host may wait for.
    pub(super) fn tell<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing can panic under the lock.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
