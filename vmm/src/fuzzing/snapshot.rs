//! The decoder of snapshots.

use super::driver::memory;
use crate::devices::{Rng, Transport};
use crate::snapshot::{decode_any, with_checksum};

/// The file `state` as it is, and with the checksum that makes a reader go on. What comes out as
/// a device's state is given to a device, which then works.
pub fn snapshot(data: &[u8]) {
    let _ = decode_any(data.to_vec());
    let Ok(devices) = decode_any(with_checksum(data)) else { return };
    for state in devices {
        let memory = memory();
        let Some(mut transport) = Transport::restored(Box::new(Rng::new()), &state, &memory) else {
            continue;
        };
        transport.resume(&memory);
        for queue in 0..transport.queue_count() {
            transport.notified(&memory, queue);
        }
    }
}
