//! Containers that have a name: who holds them, and how others find them.
//!
//! Each has a directory below `$XDG_RUNTIME_DIR/tare`, or `/run/tare`, in which its holder keeps a
//! record of it. The holder is the process that started it, on whose end it dies; it holds a lock on
//! the directory as long as it lives. A directory whose lock is free is of a holder that was killed,
//! and whoever looks next removes it, and its cgroups.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tare_container::{Bundle, Program, Rootfs, Running, Spec};

const LOCK: &str = "lock";
const RECORD: &str = "record.json";
/// Of a directory that has not got its name yet.
const NEW_PREFIX: &str = ".new-";

/// What is known of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Its first process, and when that began, in clock ticks since boot.
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) command: Vec<String>,
    /// Seconds since 1970.
    pub(crate) started_unix_s: u64,
    /// Whether it can be attached to.
    pub(crate) has_terminal: bool,
    /// Of a bundle: its directory and what its configuration says.
    pub(crate) bundle: Option<(PathBuf, String)>,
    pub(crate) rootless: bool,
}

/// The directory of a container that this process holds; removed when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
    _lock: File,
}

/// Where the directories are.
pub(crate) fn root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Path::new(&path).join("tare"),
        None if nix::unistd::geteuid().is_root() => "/run/tare".into(),
        None => std::env::temp_dir().join(format!("tare-{}", nix::unistd::geteuid())),
    }
}

/// Whether it can be the name of a directory, and of nothing else.
fn check(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    anyhow::ensure!(
        begins && name.len() <= 64 && name.chars().all(plain),
        "{name:?} cannot be a container's name: use 1 to 64 letters, digits, and _ . - between them"
    );
    Ok(())
}

impl Held {
    /// Takes a name.
    pub(crate) fn claim(name: &str) -> anyhow::Result<Held> {
        check(name)?;
        let root = root();
        let failed =
            |error: io::Error| anyhow::anyhow!("cannot write to {}: {error}", root.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        sweep(&root);
        let new = tempfile::Builder::new().prefix(NEW_PREFIX).tempdir_in(&root).map_err(failed)?;
        let lock = File::create(new.path().join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        // It gets its name once it is locked. Another that has it is not empty, and so not replaced.
        let path = root.join(name);
        match fs::rename(new.path(), &path) {
            Ok(()) => {
                let _ = new.keep();
                Ok(Held { path, _lock: lock })
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                anyhow::bail!("there is a container {name} already: see tare container ls")
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Says what others need to know.
    pub(crate) fn record(&self, record: &Record) -> anyhow::Result<()> {
        let new = self.path.join("record.new");
        fs::write(&new, serde_json::to_vec_pretty(record)?)?;
        fs::rename(new, self.path.join(RECORD))?;
        Ok(())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_of(&self.path)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever looks next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn socket_of(directory: &Path) -> PathBuf {
    directory.join("terminal")
}

/// Removes what dead holders have left.
fn sweep(root: &Path) {
    let mut is_one_dead = false;
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let lock =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(entry.path().join(LOCK));
        let Ok(lock) = lock else { continue };
        if lock.try_lock().is_ok() {
            is_one_dead = true;
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    if is_one_dead {
        // Their processes are dead; what counts them may be left.
        let _ = tare_container::sweep();
    }
}

/// All containers that run, by name.
pub(crate) fn all() -> Vec<Record> {
    let root = root();
    sweep(&root);
    let mut records: Vec<Record> = fs::read_dir(&root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path().join(RECORD)).ok()?).ok())
        .collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// The container called `name`.
pub(crate) fn find(name: &str) -> anyhow::Result<(Record, Running)> {
    check(name)?;
    let gone = || anyhow::anyhow!("there is no container {name} that runs: see tare container ls");
    let record = all().into_iter().find(|record| record.name == name).ok_or_else(gone)?;
    let running = Running::find(record.pid, record.start_ticks, record.cgroups.clone())?;
    Ok((record, running.ok_or_else(gone)?))
}

impl Record {
    /// Of one of which only the name is known.
    pub(crate) fn new(name: &str) -> Record {
        Record {
            name: name.to_owned(),
            pid: 0,
            start_ticks: 0,
            cgroups: Vec::new(),
            command: Vec::new(),
            started_unix_s: 0,
            has_terminal: false,
            bundle: None,
            rootless: false,
        }
    }

    /// Where its terminal is to be had.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_of(&root().join(&self.name))
    }

    /// What a further process in it is: as confined as its first.
    pub(crate) fn further(&self, command: &[String]) -> anyhow::Result<Spec> {
        let program = || Program::command(command.first().cloned().unwrap_or_default());
        let mut spec = match &self.bundle {
            Some((directory, config)) => Bundle::parse(directory, config.as_bytes())?.into_spec(),
            None if self.rootless => Spec::rootless(Rootfs::Host, program()),
            None => Spec::container(Rootfs::Host, program()),
        };
        spec.program = program();
        spec.init = false;
        spec.terminal = None;
        Ok(spec.args(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_check_refuses_what_leads_elsewhere() {
        for name in ["", ".", "..", "a/b", "-x", ".new-1", "ä", &"x".repeat(65)] {
            assert!(check(name).is_err(), "{name:?}");
        }
        for name in ["a", "a.b-c_1", &"x".repeat(64)] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }
}
