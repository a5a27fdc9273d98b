//! What the host tells a console, from any thread.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A microVM's console, held from the host's side; made by
/// [`Vmm::console`](crate::Vmm::console), usable from any thread and as long as one likes.
#[derive(Debug, Clone)]
pub struct ConsoleControl {
    pub(super) shared: Arc<Shared>,
}

impl ConsoleControl {
    pub(super) fn new(columns: u16, rows: u16) -> io::Result<ConsoleControl> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let size = Mutex::new(Size { live: false, columns, rows });
        Ok(ConsoleControl { shared: Arc::new(Shared { size, event }) })
    }

    /// Tells the guest that the terminal at the console's other end has another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut size = self.shared.lock();
        (size.columns, size.rows) = (columns, rows);
        if size.live {
            // It fails only if 2^64 - 2 wishes are unread: then the thread is awake.
            let _ = self.shared.event.write(1);
        }
    }
}

/// Between the host's threads and the device.
#[derive(Debug)]
pub(super) struct Shared {
    size: Mutex<Size>,
    /// Wakes the device thread; written only while there is a driver.
    pub(super) event: EventFd,
}

#[derive(Debug)]
pub(super) struct Size {
    /// There is a driver.
    pub(super) live: bool,
    pub(super) columns: u16,
    pub(super) rows: u16,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Size> {
        // Nothing can panic under the lock.
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
