//! The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::initramfs::open;
use super::{BootError, payload};
use crate::mapping::memory_file;

/// The setup header, from the file's start to the end of `payload_length`.
const HEADER_BYTES: usize = 0x250;
const SETUP_SECTORS: usize = 0x1f1;
/// What 0 sectors mean.
const SETUP_SECTORS_DEFAULT: u64 = 4;
const SECTOR_BYTES: u64 = 512;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
/// 2.08, the first version that tells where the payload is (Linux 2.6.26).
const VERSION_MIN: u16 = 0x0208;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Unpacks the ELF kernel inside the bzImage (`vmlinuz`) at `path`, into a file in memory. `None` if
/// the file is no bzImage.
///
/// Payloads compressed by gzip, xz, zstd and LZ4 are known. A [`Config`](crate::Config) may name
/// the bzImage itself: [`Prepared::new`](crate::Prepared::new) unpacks it in the same way.
///
/// # Errors
///
/// [`BootError::File`] and [`BootError::NotAFile`] for a file that cannot be read,
/// [`BootError::BadBzImage`] for one that is damaged or is compressed by other means.
pub fn unpack_bzimage(path: &Path) -> Result<Option<File>, BootError> {
    let (file, size) = open(path, "kernel")?;
    Ok(unpack(path, &file, size)?.map(|(elf, _)| elf))
}

/// The ELF inside and its size; `None` if the file is no bzImage at all.
pub(super) fn unpack(
    path: &Path,
    file: &File,
    size: u64,
) -> Result<Option<(File, u64)>, BootError> {
    let read_failed =
        |error| BootError::File { action: "read", what: "kernel", path: path.to_owned(), error };
    let bad = |reason: String| BootError::BadBzImage { path: path.to_owned(), reason };
    let mut header = [0; HEADER_BYTES];
    let Ok(()) = file.read_exact_at(&mut header, 0) else { return Ok(None) };
    if &header[MAGIC..MAGIC + 4] != b"HdrS" || header[BOOT_FLAG..BOOT_FLAG + 2] != [0x55, 0xaa] {
        return Ok(None);
    }
    let version = u16::from_le_bytes([header[VERSION], header[VERSION + 1]]);
    if version < VERSION_MIN {
        let (major, minor) = (version >> 8, version & 0xff);
        return Err(bad(format!(
            "its boot protocol is {major}.{minor:02}, but 2.08 is needed: use Linux 2.6.26 or later"
        )));
    }
    let field = |at: usize| {
        u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let sectors = match u64::from(header[SETUP_SECTORS]) {
        0 => SETUP_SECTORS_DEFAULT,
        sectors => sectors,
    };
    // Of protected-mode code, which follows the boot sector and the setup's.
    let start = (sectors + 1) * SECTOR_BYTES + field(PAYLOAD_OFFSET);
    let length = field(PAYLOAD_LENGTH);
    if start + length > size {
        return Err(BootError::Truncated {
            path: path.to_owned(),
            part: "the payload".to_owned(),
            end: start + length,
            size,
        });
    }
    let mut packed = vec![0; length as usize];
    file.read_exact_at(&mut packed, start).map_err(read_failed)?;
    let elf = payload::unpack(&packed).map_err(|error| bad(error.to_string()))?;
    let failed = |error| BootError::Image { what: "the unpacked kernel", error };
    let mut unpacked = memory_file(c"tare-kernel").map_err(failed)?;
    unpacked.write_all(&elf).map_err(failed)?;
    Ok(Some((unpacked, elf.len() as u64)))
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
mod tests;
