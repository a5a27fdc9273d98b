//! A snapshot that can be restored.

use std::fs::File;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use kvm_bindings::kvm_cpuid_entry2;
use zerocopy::IntoBytes;

use super::files::{Parent, SnapshotFiles, hex};
use super::pages::Pages;
use super::working_set::WorkingSet;
use super::{FormatError, Guest, Kind, MEMORY, STATE, SnapshotError};
use crate::mapping::{HUGE_PAGE_BYTES, View, memory_file};
use crate::memory::GuestRam;
use crate::{Error, MemoryError, Prepared, controllers, cpu, devices};

/// A snapshot, read and checked, to be restored as often as wanted
/// ([`Vmm::restore`](crate::Vmm::restore)).
///
/// A process that closes what it does not need must keep the descriptor that [`AsFd`] shows.
pub struct Snapshot {
    pub(crate) vcpus: Vec<cpu::Saved>,
    pub(crate) controllers: controllers::Saved,
    pub(crate) devices: devices::Saved,
    pages: Pages,
    memory: File,
    memory_bytes: u64,
    directory: PathBuf,
    own: Parent,
    working_set: Option<WorkingSet>,
    /// The file of its memory is in memory itself.
    held: bool,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Snapshot")
            .field("vcpus", &self.vcpus.len())
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// The guest that a configuration makes.
    pub(super) fn of(prepared: &Prepared) -> Result<Guest, SnapshotError> {
        Ok(Guest {
            memory_bytes: prepared.config.memory_bytes,
            vcpus: prepared.config.vcpus.into(),
            virtio_devices: devices::count(&prepared.config) as u32,
            image: prepared.digest().map_err(SnapshotError::Write)?,
        })
    }
}

impl Snapshot {
    /// Reads a snapshot, and checks that it is whole and of the machine that `prepared` describes.
    /// The contents of its memory are not read: see [`verify`](Snapshot::verify).
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`], [`SnapshotError::Bad`] and [`SnapshotError::Different`].
    pub fn open(directory: &Path, prepared: &Prepared) -> Result<Snapshot, SnapshotError> {
        let files = SnapshotFiles::open(directory)?;
        let bad = |error: FormatError| SnapshotError::Bad {
            path: directory.join(STATE),
            reason: error.to_string(),
        };
        let sections = &files.sections;
        compare(&files, prepared, bad)?;
        let vcpus = 0..files.guest.vcpus as usize;
        let vcpus = vcpus.map(|index| cpu::Saved::read(sections, index).map_err(bad));
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        let devices = devices::Saved::read(sections, files.guest.virtio_devices as usize);
        let devices = devices.map_err(bad)?;
        let controllers = controllers::Saved::read(sections).map_err(bad)?;
        let memory_bytes = files.guest.memory_bytes;
        let own = Parent { id: files.id, checksum: files.pages.checksum, reserved: 0 };
        let merged = files.is_difference().then(|| merge(&files)).transpose()?;
        let (pages, memory) = merged.unwrap_or((files.pages, files.memory));
        let held = is_in_memory(&memory);
        let working_set = WorkingSet::load(directory, memory_bytes)?;
        let directory = directory.to_owned();
        Ok(Snapshot {
            vcpus,
            controllers,
            devices,
            pages,
            memory,
            memory_bytes,
            directory,
            own,
            working_set,
            held,
        })
    }

    /// Reads all of its memory and checks that nothing has changed it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`] and [`SnapshotError::Bad`].
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let path = self.directory.join(MEMORY);
        let found = self.pages.checksum_of(&self.memory);
        self.pages.check(found.map_err(SnapshotError::file("read", &path))?, &path)
    }

    /// Copies its memory into memory of this process's, in large pages where the host can, which all
    /// guests that are restored from now on share: they come to what they only read two
    /// megabytes at a time. The files are not needed any more.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`] and [`SnapshotError::Bad`], as of [`verify`](Snapshot::verify).
    pub fn hold(&mut self) -> Result<(), SnapshotError> {
        let path = self.directory.join(MEMORY);
        let held = empty_memory(self.memory_bytes, &path)?;
        let found = self.pages.copy(&self.memory, &held);
        self.pages.check(found.map_err(SnapshotError::file("copy", &path))?, &path)?;
        gather(&held, self.memory_bytes, &self.pages, &path)?;
        self.memory = held;
        self.held = true;
        Ok(())
    }

    /// Gathers the pages of its memory's file into large ones, where the file is in memory (tmpfs)
    /// and the host can: whoever restores from it comes to what is only read two megabytes at a
    /// time. Elsewhere the file stays as it is.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::File`].
    pub fn gather(&self) -> Result<(), SnapshotError> {
        gather(&self.memory, self.memory_bytes, &self.pages, &self.directory.join(MEMORY))
    }

    /// Where its files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a snapshot that differs from it says of it.
    pub(super) fn as_parent(&self) -> Parent {
        self.own
    }

    /// Which pages its guests are known to need at once.
    pub fn working_set(&self) -> Option<&WorkingSet> {
        self.working_set.as_ref()
    }

    /// Whether the file of its memory is in memory, so that none of it waits for a disk.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// The file of its memory.
    pub(crate) fn memory(&self) -> &File {
        &self.memory
    }

    /// Guest RAM in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Maps its memory for one more guest.
    pub(crate) fn map(&self) -> Result<GuestRam, MemoryError> {
        let base = self.pages.extents.clone();
        Ok(GuestRam::from_file(self.memory_bytes, &self.memory, base)?.with_origin(self.own.id))
    }
}

impl AsFd for Snapshot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Whether a file is of no disk: this process's own, or one of a tmpfs (statfs(2)).
fn is_in_memory(file: &File) -> bool {
    // SAFETY: an all-zero statfs is a valid value of that plain C structure.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open, and the pointer is to a live value of the right type.
    let asked = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) };
    asked == 0 && i128::from(found.f_type) == i128::from(libc::TMPFS_MAGIC)
}

/// A file in memory for a snapshot's.
fn empty_memory(bytes: u64, path: &Path) -> Result<File, SnapshotError> {
    let whole = (bytes as usize).next_multiple_of(HUGE_PAGE_BYTES) as u64;
    let file = memory_file(c"tare-snapshot").and_then(|file| file.set_len(whole).map(|()| file));
    file.map_err(SnapshotError::file("hold in memory", path))
}

/// Has what there is of it in large pages, as far as the host can.
fn gather(file: &File, bytes: u64, pages: &Pages, path: &Path) -> Result<(), SnapshotError> {
    let view = View::new(file, bytes as usize);
    let view = view.map_err(SnapshotError::file("hold in memory", path))?;
    for region in pages.regions(HUGE_PAGE_BYTES as u64) {
        view.collapse(region);
    }
    Ok(())
}

/// What all of a chain have, in memory of this process's.
fn merge(files: &SnapshotFiles) -> Result<(Pages, File), SnapshotError> {
    let (bytes, path) = (files.guest.memory_bytes, files.directory.join(MEMORY));
    let merged = empty_memory(bytes, &path)?;
    let mut pages = Pages { extents: files.merge(&merged)?, checksum: 0 };
    let checksum = pages.checksum_of(&merged);
    pages.checksum = checksum.map_err(SnapshotError::file("read", &path))?;
    gather(&merged, bytes, &pages, &path)?;
    Ok((pages, merged))
}

/// Whether a snapshot is of the machine that is asked for.
fn compare(
    files: &SnapshotFiles,
    prepared: &Prepared,
    bad: impl Fn(FormatError) -> SnapshotError,
) -> Result<(), SnapshotError> {
    let SnapshotFiles { directory, sections, guest: then, .. } = files;
    let now = Guest::of(prepared)?;
    let different = |what: &str, then: String, now: String| SnapshotError::Different {
        path: directory.clone(),
        what: what.to_owned(),
        then,
        now,
    };
    let check = |what: &str, then: u64, now: u64| {
        if then == now { Ok(()) } else { Err(different(what, then.to_string(), now.to_string())) }
    };
    check("guest memory in bytes", then.memory_bytes, now.memory_bytes)?;
    check("the number of vCPUs", then.vcpus.into(), now.vcpus.into())?;
    check("the number of virtio devices", then.virtio_devices.into(), now.virtio_devices.into())?;
    if then.image != now.image {
        let short = |digest: [u8; 32]| hex(&digest[..6]);
        let what = "the digest of kernel, initramfs and command line";
        return Err(different(what, short(then.image), short(now.image)));
    }
    for index in 0..now.vcpus as usize {
        let now = prepared.identity.entries(index);
        if sections.get(Kind::CpuId, index).map_err(&bad)? == now.as_bytes() {
            continue;
        }
        let then = sections.values::<kvm_cpuid_entry2>(Kind::CpuId, index).map_err(&bad)?;
        if let Some(leaf) = differing_leaf(&then, now) {
            let what = format!("CPUID leaf {:#x} ({}) of vCPU {index}", leaf.0, leaf.1);
            let show = |entries: &[kvm_cpuid_entry2]| {
                let mut entries = entries.iter();
                let found = entries.find(|entry| (entry.function, entry.index) == leaf);
                found.map_or("absent".to_owned(), |entry| {
                    let kvm_cpuid_entry2 { eax, ebx, ecx, edx, .. } = entry;
                    format!("{eax:08x} {ebx:08x} {ecx:08x} {edx:08x}")
                })
            };
            return Err(different(&what, show(&then), show(now)));
        }
    }
    Ok(())
}

/// The first leaf in which two vCPUs differ.
fn differing_leaf(then: &[kvm_cpuid_entry2], now: &[kvm_cpuid_entry2]) -> Option<(u32, u32)> {
    let differs = |a: &&kvm_cpuid_entry2, b: &[kvm_cpuid_entry2]| !b.contains(a);
    let lost = then.iter().find(|entry| differs(entry, now));
    let gained = now.iter().find(|entry| differs(entry, then));
    lost.or(gained).map(|entry| (entry.function, entry.index))
}

/// A device cannot be in the state that the snapshot has for it.
pub(crate) fn misfit(device: usize) -> Error {
    let reason = format!(
        "virtio device {device} is of another kind than here, or in a state that it cannot have; give the same devices in the same order"
    );
    SnapshotError::Bad { path: STATE.into(), reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_differing_leaf_is_found_whoever_has_it() {
        let leaf = |function, eax| kvm_cpuid_entry2 { function, eax, ..Default::default() };
        let host = [leaf(0, 1), leaf(1, 2), leaf(7, 3)];
        assert_eq!(differing_leaf(&host, &host), None);
        assert_eq!(differing_leaf(&host, &host[..2]), Some((7, 0)));
        assert_eq!(differing_leaf(&host[..2], &host), Some((7, 0)));
        assert_eq!(differing_leaf(&host, &[leaf(0, 1), leaf(1, 9), leaf(7, 3)]), Some((1, 0)));
    }
}
