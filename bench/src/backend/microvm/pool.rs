//! Memory that is filled before the launch that uses it.

use std::cell::RefCell;

use tare_vmm::{Filled, MemoryError, Prepared, Touched};

use super::template::{Error, Template};

/// The memory of the next guest. Each is used once.
pub(super) struct Pool {
    touched: Touched,
    next: RefCell<Option<Filled>>,
}

impl Pool {
    /// Boots a guest to find out which memory its successors will need.
    pub(super) fn new(prepared: &Prepared) -> Result<Pool, Error> {
        Ok(Pool { touched: Template::touched(prepared)?, next: RefCell::default() })
    }

    /// Fills memory for the next guest, in the place of any that no guest has used.
    pub(super) fn refill(&self, prepared: &Prepared) -> Result<(), MemoryError> {
        // What is there goes first: the host need not have room for both.
        self.next.take();
        self.next.replace(Some(prepared.fill(&self.touched)?));
        Ok(())
    }

    /// The memory of the next guest, or one that is filled now: that launch is slower.
    pub(super) fn take(&self, prepared: &Prepared) -> Result<Filled, MemoryError> {
        match self.next.take() {
            Some(filled) => Ok(filled),
            None => prepared.fill(&self.touched),
        }
    }

    /// For a cell's declared state.
    pub(super) fn state(&self) -> Vec<String> {
        vec![
            "cold boot".to_owned(),
            format!(
                "memory of each guest allocated and filled before its launch, in large pages where \
                 the host can: kernel, initramfs and boot data, and zeros where a guest that was \
                 booted before came to by the time its workload was ready ({} MiB); used once",
                self.touched.bytes() >> 20
            ),
            "of that memory nothing is in the VMM's cgroup nor in the change of the host's used \
             memory"
                .to_owned(),
        ]
    }
}
