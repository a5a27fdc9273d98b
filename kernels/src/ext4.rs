//! ext4 images, made by `mke2fs` and then freed of what differs from run to run.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::tool;

mod stamp;

/// Block size of the file system, the guest's page size.
const BLOCK_BYTES: u64 = 4096;
/// Content bytes that mke2fs provides one inode for, its default.
const BYTES_PER_INODE: u64 = 16 * 1024;
const INODE_BYTES: u64 = 256;
/// Below this mke2fs lacks room for its own structures.
pub const MIN_SIZE_BYTES: u64 = 1 << 20;
/// Above this the 32-bit block numbers that the images use end.
pub const MAX_SIZE_BYTES: u64 = 8 << 40;

/// Fixed identities, so that equal content gives equal images.
const UUID: &str = "7a7e0000-7a7e-4a7e-8a7e-7a7e00000001";
const HASH_SEED: &str = "7a7e0000-7a7e-4a7e-8a7e-7a7e00000002";
/// 2026-01-01T00:00:00Z: the time on everything.
const TIME_S: u32 = 1_767_225_600;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `mke2fs` is missing, or refused (most often because the tree does not fit).
    #[error("cannot make the ext4 image {path}: {source}")]
    Mke2fs {
        /// The image.
        path: PathBuf,
        /// What happened.
        source: tool::Error,
    },
    /// The size is out of range or no multiple of the block size.
    #[error(
        "an ext4 image of {0} bytes cannot be made: it must be a multiple of 4096, at least 1 MiB and at most 8 TiB"
    )]
    Size(u64),
    /// A label has at most 16 bytes.
    #[error("`{0}` is no label for a file system: at most 16 bytes, without NUL")]
    Label(String),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// mke2fs made something that this module does not understand.
    #[error("the image {path} is not as expected from mke2fs: {why}")]
    Format {
        /// The image.
        path: PathBuf,
        /// What is odd.
        why: &'static str,
    },
}

/// An image to be made.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Where; an existing file is replaced.
    pub path: &'a Path,
    /// Its size; the file is sparse. At least [`size_for`] of the tree.
    pub size_bytes: u64,
    /// The volume label, at most 16 bytes.
    pub label: &'a str,
    /// A directory whose content becomes the root of the file system.
    pub tree: Option<&'a Path>,
}

/// Makes an ext4 file system in a file: no journal, no checksums, 4 KiB blocks, nothing left
/// for the guest's kernel to initialise at its first mount.
///
/// Owners, modes, modification times, links and device nodes are those of the tree (which only
/// root can give to others in the first place). The same tree on the same machine gives the same
/// bytes.
///
/// # Errors
/// Any [`Error`]; no image is left then.
pub fn build(image: &Image) -> Result<(), Error> {
    let Image { path, size_bytes, label, tree } = *image;
    let in_range = (MIN_SIZE_BYTES..=MAX_SIZE_BYTES).contains(&size_bytes);
    if !in_range || size_bytes % BLOCK_BYTES != 0 {
        return Err(Error::Size(size_bytes));
    }
    if label.len() > 16 || label.contains('\0') {
        return Err(Error::Label(label.to_owned()));
    }
    let made = make(path, size_bytes, label, tree).and_then(|()| stamp::stamp(path, TIME_S));
    if made.is_err() {
        // Half an image must not be taken for a whole one; the first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    made
}

fn make(path: &Path, size_bytes: u64, label: &str, tree: Option<&Path>) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("replace", path)(e)),
        _ => {}
    }
    let file = File::create_new(path).map_err(io("create", path))?;
    file.set_len(size_bytes).map_err(io("set the size of", path))?;
    drop(file);
    let mut command = tool::command("mke2fs");
    command
        .env("E2FSPROGS_FAKE_TIME", TIME_S.to_string())
        .env("SOURCE_DATE_EPOCH", TIME_S.to_string())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode,^metadata_csum,^64bit"])
        // A fresh file reads as zeros: nothing to write or to discard, and no thread in the
        // guest that zeroes inode tables later.
        .args([
            "-E",
            &format!("hash_seed={HASH_SEED},nodiscard,assume_storage_prezeroed=1,root_owner=0:0"),
        ])
        .args(["-U", UUID, "-L", label]);
    if let Some(tree) = tree {
        if !tree.is_dir() {
            return Err(io("read the directory", tree)(io::ErrorKind::NotADirectory.into()));
        }
        command.arg("-d").arg(tree);
    }
    // A leading dash or a colon in the path must not become an option.
    let absolute = std::path::absolute(path).map_err(io("resolve", path))?;
    command.arg(absolute).arg((size_bytes / BLOCK_BYTES).to_string());
    tool::output(&mut command)
        .map(drop)
        .map_err(|source| Error::Mke2fs { path: path.to_owned(), source })
}

/// The smallest sensible size in bytes of an image that holds the tree: its content in blocks,
/// inodes, and an eighth more for the file system's own structures.
///
/// # Errors
/// [`Error::Io`] if a directory of the tree cannot be read.
pub fn size_for(tree: &Path) -> Result<u64, Error> {
    let (mut blocks, mut inodes) = (1u64, 16u64);
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).map_err(io("read the directory", &directory))?;
        let mut name_bytes = 0;
        for entry in entries {
            let entry = entry.map_err(io("read the directory", &directory))?;
            let metadata = entry.metadata().map_err(io("read", &entry.path()))?;
            inodes += 1;
            name_bytes += 16 + entry.file_name().len() as u64;
            let kind = metadata.file_type();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if !(kind.is_char_device() || kind.is_block_device()) {
                // Links of up to 59 bytes lie in the inode; a block too many does no harm.
                blocks += metadata.size().div_ceil(BLOCK_BYTES);
            }
        }
        // Directory blocks are not packed full.
        blocks += 1 + name_bytes * 2 / BLOCK_BYTES;
    }
    let content = (blocks * BLOCK_BYTES).saturating_add(inodes * INODE_BYTES);
    // mke2fs makes inodes in proportion to the size.
    let bytes = content.saturating_add(content / 8).max(inodes.saturating_mul(BYTES_PER_INODE));
    Ok(bytes.saturating_add(MIN_SIZE_BYTES).next_multiple_of(MIN_SIZE_BYTES))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
