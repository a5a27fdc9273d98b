//! Room for the descriptors of many boxes: a limit of this process that it may raise itself.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the harness holds for each box, and may hold besides.
const BOX_DESCRIPTORS: u64 = 8;
const OTHER_DESCRIPTORS: u64 = 256;

/// See the module's text; there as long as this lives.
pub(super) struct Room(u64, u64);

impl Room {
    pub(super) fn for_boxes(count: u32) -> io::Result<Room> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = u64::from(count) * BOX_DESCRIPTORS + OTHER_DESCRIPTORS;
        if wanted > soft {
            // Only root may have more than the hard limit.
            let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard));
            raised.or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        }
        Ok(Room(soft, hard))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What was there before is allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1);
    }
}
