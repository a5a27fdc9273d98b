//! Decoding a state without a machine to compare it with, for fuzzing.

use kvm_bindings::kvm_cpuid_entry2;

use super::format::CHECKSUM_BYTES;
use super::pages::{Extent, Pages};
use super::{FormatError, Guest, Kind, Sections};
use crate::devices::{self, SavedTransport};
use crate::{VCPUS_MAX, controllers, cpu};

/// More than any machine has.
const DEVICES_MAX: u32 = 16;

/// Decodes every part of a state, and returns its virtio devices.
pub(crate) fn decode_any(state: Vec<u8>) -> Result<Vec<SavedTransport>, FormatError> {
    let sections = Sections::parse(state)?;
    let guest: Guest = sections.value(Kind::Guest, 0)?;
    for index in 0..guest.vcpus.min(VCPUS_MAX.into()) as usize {
        let _ = sections.values::<kvm_cpuid_entry2>(Kind::CpuId, index);
        let _ = cpu::Saved::read(&sections, index);
    }
    let _ = controllers::Saved::read(&sections);
    if let Ok(extents) = sections.values::<Extent>(Kind::Memory, 1) {
        let pages = Pages { extents, checksum: 0 };
        if pages.fits(guest.memory_bytes) {
            assert!(pages.bytes() <= guest.memory_bytes, "more pages than memory");
        }
    }
    let count = guest.virtio_devices.min(DEVICES_MAX) as usize;
    Ok(devices::Saved::read(&sections, count)?.virtio())
}

/// The same bytes with their last ones replaced by the checksum of the others.
pub(crate) fn with_checksum(state: &[u8]) -> Vec<u8> {
    let body = &state[..state.len().saturating_sub(CHECKSUM_BYTES)];
    let checksum = crc32fast::hash(body).to_le_bytes();
    [body, &checksum].concat()
}
