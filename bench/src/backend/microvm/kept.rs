//! A parked guest that the user keeps: a directory with the snapshot and all that is needed to go on
//! from it, to run any command.
//!
//! | file | what |
//! |---|---|
//! | `machine.json` | kernel, command line and memory: the machine that it is |
//! | `initramfs.cpio`, `root.ext4` | its initramfs and its disk, as they were |
//! | `snapshot/` | what `tare_vmm` restores |
//!
//! The guest's disk is not mounted yet where it parks, so each restore gets a copy of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tare_vmm::{BlockEngine, Captured, Description, SnapshotError, SnapshotFiles};
use tare_workload::{CONVERSATION_PORT, Channel as Wire, Job, Line};

use super::origin::Origin;
use super::template::{self, Template};
use super::{Machine, MicroVm, Ready, command_line_of, jail_here, probe_virtualization};
use crate::backend::{Assignment, Availability, Backend, Output, Prepared};
use crate::kit::{self, GuestDisks, GuestMachine, Kit};

const MACHINE: &str = "machine.json";
const INITRAMFS: &str = "initramfs.cpio";
const ROOT: &str = "root.ext4";
const SNAPSHOT: &str = "snapshot";
/// Of `machine.json`; changes with the meaning of a field.
const SCHEMA: u32 = 1;

/// Why a guest cannot be kept, or not be restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the directory.
    #[error("cannot {action} {}: {error}; check the path, its permissions and the free space", path.display())]
    File {
        /// What failed.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no directory of a kept guest.
    #[error("{} is no snapshot that `tare snapshot create` made: {why}", path.display())]
    NotKept {
        /// The directory.
        path: PathBuf,
        /// What is missing or odd.
        why: String,
    },
    /// No microVM can run here.
    #[error("{why}; {remedy}")]
    Unavailable {
        /// Why not.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A machine that is not kept.
    #[error(
        "`tare snapshot` keeps only a machine with the defaults, and {0} is another: leave it out"
    )]
    Machine(&'static str),
    /// A kernel that finds its devices by ACPI only.
    #[error(
        "`tare snapshot` keeps only a machine without ACPI, by which {} finds its devices: use a kernel that `tare kernel build` makes", .0.display()
    )]
    Acpi(PathBuf),
    /// The kit.
    #[error(transparent)]
    Kit(#[from] kit::Error),
    /// The guest did not come to where it parks, or cannot be saved.
    #[error("{0}")]
    Template(String),
    /// The microVM.
    #[error(transparent)]
    Vmm(#[from] tare_vmm::Error),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its jail.
    #[error(transparent)]
    Jail(#[from] tare_container::Error),
}

impl From<template::Error> for Error {
    fn from(error: template::Error) -> Error {
        Error::Template(error.to_string())
    }
}

/// The file `machine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema: u32,
    kernel: PathBuf,
    cmdline: String,
    memory_mib: u64,
}

/// A directory with a kept guest.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
    record: Record,
}

/// What keeping a guest took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Bytes.
    pub captured: Captured,
    /// How long the guest stood still, in nanoseconds.
    pub capture_ns: u64,
}

impl Kept {
    /// Boots a guest with the kit's kernel and root file system to where it parks, and keeps it in
    /// `directory`, which must not be there yet. It is on the disk when this returns; where it
    /// cannot be done, nothing stays.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn create(kit: &Kit, memory_mib: u64, directory: &Path) -> Result<Keeping, Error> {
        available(kit)?;
        check(kit.machine())?;
        fs::create_dir(directory).map_err(failed("make the directory", directory))?;
        let made = fill(kit, memory_mib, directory);
        if made.is_err() {
            let _ = fs::remove_dir_all(directory);
        }
        made
    }

    /// Finds the kept guest in a directory.
    ///
    /// # Errors
    /// [`Error::NotKept`].
    pub fn open(directory: &Path) -> Result<Kept, Error> {
        let odd = |why: String| Error::NotKept { path: directory.to_owned(), why };
        let text = fs::read_to_string(directory.join(MACHINE))
            .map_err(|error| odd(format!("{MACHINE}: {error}")))?;
        let record: Record =
            serde_json::from_str(&text).map_err(|error| odd(format!("{MACHINE}: {error}")))?;
        if record.schema != SCHEMA {
            let found = record.schema;
            return Err(odd(format!("{MACHINE} has schema {found}, this tare reads {SCHEMA}")));
        }
        Ok(Kept { directory: directory.to_owned(), record })
    }

    /// The kernel that it was booted with, which must still be there.
    pub fn kernel(&self) -> &Path {
        &self.record.kernel
    }

    /// What its snapshot says of itself.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn describe(&self) -> Result<Description, Error> {
        Ok(self.files()?.describe())
    }

    /// Reads everything and checks that nothing has changed it.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn verify(&self) -> Result<(), Error> {
        Ok(self.files()?.verify()?)
    }

    /// Makes ready to go on from it, each launch to run `command`.
    ///
    /// # Errors
    /// [`enum@Error`]: among others a kernel that is not the one that it was booted with, and
    /// another kind of processor.
    pub fn prepare(&self, kit: &Kit, command: Vec<String>) -> Result<Box<dyn Prepared>, Error> {
        available(kit)?;
        let disks = self.copy_disk(kit)?;
        let mut job = Job { command, ..template_job() };
        disks.name_in(&mut job);
        let config = self.machine(&disks).config();
        let prepared = tare_vmm::Prepared::new(&config)?;
        let snapshot = self.directory.join(SNAPSHOT);
        // What is wrong with it is said now and not by each launch.
        tare_vmm::Snapshot::open(&snapshot, &prepared)?;
        Ok(Box::new(Ready {
            name: MicroVm::Snapshot.name(),
            kernel: self.record.kernel.display().to_string(),
            prepared,
            captures: None,
            origin: Origin::Kept { snapshot, message: job.to_words().join(" ").into_bytes() },
            jail: jail_here(kit)?,
            disks,
            link: None,
            link_state: Vec::new(),
            output: Output::Captured,
        }))
    }

    /// Removes it, and nothing that is not its own.
    ///
    /// # Errors
    /// [`Error::NotKept`] where something else is in the directory, [`Error::File`].
    pub fn remove(self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.directory).map_err(failed("read", &self.directory))?;
        for entry in entries {
            let name = entry.map_err(failed("read", &self.directory))?.file_name();
            if [MACHINE, INITRAMFS, ROOT, SNAPSHOT].iter().all(|own| *own != name) {
                let why = format!("{} is in it, too", name.display());
                return Err(Error::NotKept { path: self.directory.clone(), why });
            }
        }
        fs::remove_dir_all(&self.directory).map_err(failed("remove", &self.directory))
    }

    fn files(&self) -> Result<SnapshotFiles, Error> {
        Ok(SnapshotFiles::open(&self.directory.join(SNAPSHOT))?)
    }

    fn copy_disk(&self, kit: &Kit) -> Result<GuestDisks, Error> {
        let from = self.directory.join(ROOT);
        let to = kit.new_scratch_dir()?.join(ROOT);
        fs::copy(&from, &to).map_err(failed("copy", &from))?;
        let mut disks = GuestDisks::default();
        disks.root = Some(to);
        Ok(disks)
    }

    fn machine<'a>(&'a self, disks: &'a GuestDisks) -> Machine<'a> {
        Machine {
            kernel: &self.record.kernel,
            guest: GuestMachine::default(),
            acpi: false,
            timer: true,
            initramfs: self.directory.join(INITRAMFS),
            cmdline: self.record.cmdline.clone(),
            memory_mib: self.record.memory_mib,
            disks,
            direct: false,
            disk_engine: BlockEngine::default(),
            has_vsock: true,
            network: None,
        }
    }
}

/// Every kept guest right below a directory, by its path.
///
/// # Errors
/// [`Error::File`] where the directory cannot be read.
pub fn kept_below(directory: &Path) -> Result<Vec<(PathBuf, Kept)>, Error> {
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", directory))?.path();
        found.extend(Kept::open(&path).ok().map(|kept| (path, kept)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Runs any command of the root file system; which one is said where it goes on.
fn template_job() -> Job {
    Job { stdio: Some(Line::Vsock(CONVERSATION_PORT)), ..Job::new(Wire::Com1, "run") }
}

fn fill(kit: &Kit, memory_mib: u64, directory: &Path) -> Result<Keeping, Error> {
    let assignment = Assignment {
        memory_mib,
        with_rootfs: true,
        output: Output::Captured,
        ..Assignment::new(template_job())
    };
    let disks = GuestDisks::new(kit, &assignment)?;
    let (initramfs, root) = (directory.join(INITRAMFS), directory.join(ROOT));
    fs::copy(kit.initramfs()?, &initramfs).map_err(failed("write", &initramfs))?;
    if let Some(image) = &disks.root {
        fs::copy(image, &root).map_err(failed("write", &root))?;
    }
    let mut job = Job { parks: true, ..assignment.job };
    disks.name_in(&mut job);
    let kernel = kit.guest_kernel()?;
    let path = &kernel.path;
    if kernel.acpi {
        return Err(Error::Acpi(path.clone()));
    }
    let record = Record {
        schema: SCHEMA,
        kernel: fs::canonicalize(path).map_err(failed("find the kernel", path))?,
        cmdline: command_line_of(kernel, &job)
            .map_err(|error| Error::Template(error.to_string()))?,
        memory_mib,
    };
    let kept = Kept { directory: directory.to_owned(), record };
    let prepared = tare_vmm::Prepared::new(&kept.machine(&disks).config())?;
    let text = serde_json::to_string_pretty(&kept.record).unwrap_or_default();
    let machine = directory.join(MACHINE);
    fs::write(&machine, text).map_err(failed("write", &machine))?;
    for file in [&machine, &initramfs, &root] {
        let synced = fs::File::open(file).and_then(|file| file.sync_all());
        synced.map_err(failed("write", file))?;
    }
    let template = Template::durable(&prepared, &directory.join(SNAPSHOT))?;
    Ok(Keeping { captured: template.captured, capture_ns: template.capture_ns })
}

/// What a directory does not record must be as the restore makes it.
fn check(machine: GuestMachine) -> Result<(), Error> {
    // Who moves a network's packets is nothing to a guest that has none.
    let GuestMachine { vcpus, cpu_profile, pages, prefault, protocol, net_backend: _ } =
        GuestMachine::default();
    for (option, is_default) in [
        ("--vcpus", machine.vcpus == vcpus),
        ("--cpu-profile", machine.cpu_profile == cpu_profile),
        ("--pages", machine.pages == pages),
        ("--prefault", machine.prefault == prefault),
        ("--boot", machine.protocol == protocol),
    ] {
        if !is_default {
            return Err(Error::Machine(option));
        }
    }
    Ok(())
}

fn available(kit: &Kit) -> Result<(), Error> {
    match probe_virtualization(kit) {
        Availability::Ready => Ok(()),
        Availability::Unavailable { why, remedy } => {
            // Where boxes run is no option of the commands for snapshots.
            let remedy = remedy.replace("--host lab", "see `tare snapshot --help`");
            Err(Error::Unavailable { why, remedy })
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::File { action, path, error }
}

#[cfg(test)]
mod tests {
    use tare_vmm::{BootProtocol, CpuProfile, Pages};

    use super::*;

    fn record() -> Record {
        Record {
            schema: SCHEMA,
            kernel: "/vmlinux".into(),
            cmdline: "quiet -- park=1".to_owned(),
            memory_mib: 128,
        }
    }

    fn write(directory: &Path, record: &Record) {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join(MACHINE), serde_json::to_string(record).unwrap()).unwrap();
    }

    #[test]
    fn test_check_names_the_option_that_is_not_kept() {
        let defaults = GuestMachine::default();
        check(defaults).unwrap();
        for (machine, option) in [
            (GuestMachine { vcpus: 2, ..defaults }, "--vcpus"),
            (GuestMachine { cpu_profile: CpuProfile::Portable, ..defaults }, "--cpu-profile"),
            (GuestMachine { pages: Pages::Small, ..defaults }, "--pages"),
            (GuestMachine { prefault: true, ..defaults }, "--prefault"),
            (GuestMachine { protocol: BootProtocol::Pvh, ..defaults }, "--boot"),
        ] {
            let error = check(machine).unwrap_err().to_string();
            assert!(error.contains(option), "{error}");
        }
    }

    #[test]
    fn test_open_of_what_is_not_kept_says_what_is_odd() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let error = Kept::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(MACHINE), "{error}");
        write(&at("newer"), &Record { schema: SCHEMA + 1, ..record() });
        let error = Kept::open(&at("newer")).unwrap_err().to_string();
        assert!(error.contains("schema 2"), "{error}");
        write(&at("b"), &record());
        write(&at("a"), &record());
        let found = kept_below(directory.path()).unwrap();
        let paths: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(paths, [at("a"), at("b")]);
        assert!(matches!(found[0].1.describe(), Err(Error::Snapshot(_))));
    }

    #[test]
    fn test_remove_leaves_what_is_not_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept");
        write(&path, &record());
        fs::write(path.join("thesis.tex"), "").unwrap();
        let error = Kept::open(&path).unwrap().remove().unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        fs::remove_file(path.join("thesis.tex")).unwrap();
        Kept::open(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
