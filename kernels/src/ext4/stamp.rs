//! Sets the times of all inodes of a fresh image.
//!
//! `mke2fs -d` copies access and change times from the host, which no one can set there. The
//! images have no checksums, so the fields can be written over. Offsets are those of the
//! kernel's `Documentation/filesystems/ext4/` (super.rst, group_descr.rst, inodes.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Error;

const SUPERBLOCK_AT: u64 = 1024;
const DESCRIPTOR_BYTES: usize = 32;
const MAGIC: u16 = 0xEF53;
/// RO_COMPAT_METADATA_CSUM and INCOMPAT_64BIT: with either, the fields lie or count otherwise.
const METADATA_CSUM: u32 = 0x400;
const SIXTY_FOUR_BIT: u32 = 0x80;

/// The deletion, creation and version fields keep what mke2fs wrote; these are the times.
const TIMES_AT: [usize; 3] = [0x8, 0xC, 0x90]; // i_atime, i_ctime, i_crtime
const EXTRAS_AT: [usize; 3] = [0x84, 0x8C, 0x94]; // i_ctime_extra, i_atime_extra, i_crtime_extra

/// Gives access, change and creation time of every inode in use the value `time_s`.
pub(super) fn stamp(path: &Path, time_s: u32) -> Result<(), Error> {
    let io = |source| Error::Io { action: "set times in", path: path.to_owned(), source };
    let format = |why| Error::Format { path: path.to_owned(), why };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let superblock: [u8; 1024] = read(&file, SUPERBLOCK_AT).map_err(io)?;
    if superblock[0x38..0x3A] != MAGIC.to_le_bytes() {
        return Err(format("no ext4 superblock"));
    }
    if word(&superblock, 0x64) & METADATA_CSUM != 0 || word(&superblock, 0x60) & SIXTY_FOUR_BIT != 0
    {
        return Err(format("it has checksums or 64-bit block numbers"));
    }
    let block_bytes = 1024u64 << (word(&superblock, 0x18) & 0xF);
    let inode_bytes = u64::from(u16::from_le_bytes([superblock[0x58], superblock[0x59]]));
    let (inodes, per_group) = (word(&superblock, 0x0), word(&superblock, 0x28));
    if inode_bytes != 256 || per_group == 0 || per_group > 1 << 20 {
        return Err(format("unexpected inode size or count"));
    }
    // The descriptors follow the block that holds the superblock.
    let descriptors_at = block_bytes * (SUPERBLOCK_AT / block_bytes + 1);
    let mut table = vec![0u8; per_group as usize * inode_bytes as usize];
    for group in 0..u64::from(inodes.div_ceil(per_group)) {
        let at = descriptors_at + group * DESCRIPTOR_BYTES as u64;
        let descriptor: [u8; DESCRIPTOR_BYTES] = read(&file, at).map_err(io)?;
        let table_at = u64::from(word(&descriptor, 0x8)) * block_bytes;
        file.read_exact_at(&mut table, table_at).map_err(io)?;
        for (index, inode) in (0u64..).zip(table.chunks_exact_mut(inode_bytes as usize)) {
            // i_mode is 0 in inodes that are not in use.
            if inode[..2] == [0, 0] {
                continue;
            }
            for at in TIMES_AT {
                inode[at..at + 4].copy_from_slice(&time_s.to_le_bytes());
            }
            for at in EXTRAS_AT {
                inode[at..at + 4].fill(0);
            }
            file.write_all_at(inode, table_at + index * inode_bytes).map_err(io)?;
        }
    }
    Ok(())
}

fn read<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}
