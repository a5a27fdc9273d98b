//! The devices in a snapshot.

use super::SavedTransport;
use super::serial;
use crate::snapshot::{FormatError, Kind, Sections, Writer};

/// The state of every device, each with the level of its interrupt line.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(super) serial: ([u8; serial::SAVED_BYTES], bool),
    pub(super) virtio: Vec<(SavedTransport, bool)>,
}

impl Saved {
    /// The virtio devices alone.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn virtio(self) -> Vec<SavedTransport> {
        self.virtio.into_iter().map(|(transport, _)| transport).collect()
    }

    /// Adds it to a snapshot.
    pub(crate) fn write(&self, writer: &mut Writer) {
        section(writer, Kind::Serial, 0, self.serial.1, &self.serial.0);
        for (index, (transport, level)) in self.virtio.iter().enumerate() {
            section(writer, Kind::Virtio, index, *level, &transport.bytes());
        }
    }

    /// Takes it, of `count` virtio devices, from a snapshot.
    pub(crate) fn read(sections: &Sections, count: usize) -> Result<Saved, FormatError> {
        let odd = |kind: Kind, index: usize| FormatError::Section(kind as u32, index as u32);
        let (level, bytes) = take(sections, Kind::Serial, 0)?;
        let serial = bytes.try_into().map_err(|_| odd(Kind::Serial, 0))?;
        let virtio = (0..count).map(|index| {
            let (level, bytes) = take(sections, Kind::Virtio, index)?;
            let transport = SavedTransport::parse(bytes).ok_or_else(|| odd(Kind::Virtio, index))?;
            Ok((transport, level))
        });
        Ok(Saved { serial: (serial, level), virtio: virtio.collect::<Result<_, _>>()? })
    }
}

/// A device's state behind the level of its line.
fn section(writer: &mut Writer, kind: Kind, index: usize, level: bool, bytes: &[u8]) {
    let contents = [&[u8::from(level)], bytes].concat();
    writer.section(kind, index, contents.as_slice());
}

fn take(sections: &Sections, kind: Kind, index: usize) -> Result<(bool, &[u8]), FormatError> {
    let contents = sections.get(kind, index)?;
    let odd = FormatError::Section(kind as u32, index as u32);
    contents.split_first().map(|(level, bytes)| (*level != 0, bytes)).ok_or(odd)
}
