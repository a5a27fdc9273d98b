//! The directory where built things are kept.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::progress::Progress;

/// What can go wrong with the cache directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where it is.
    #[error("no place for the cache: set XDG_CACHE_HOME (or HOME) to an absolute path")]
    NoHome,
    /// A file or directory of the cache could not be used.
    #[error("cannot {action} {path}: {source}; check its owner and the free space")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An entry's name is not a single path component.
    #[error("`{0}` is not a usable name for a cache entry")]
    Name(String),
}

/// A directory of finished things, each published whole under its final name.
///
/// | place | content |
/// |---|---|
/// | `dl/` | downloads made by `kernels/provision.sh` |
/// | `sources/`, `kernels/`, `rootfs/`, `lab/` | published entries, never changed afterwards |
/// | `logs/` | logs of builds that failed |
/// | `tmp/` | the entry being built; remains of a killed build, removed by the next one |
/// | `lock` | held (flock) while anything is built |
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$XDG_CACHE_HOME/tare`, by default `~/.cache/tare`. Nothing is created
    /// before something is published.
    ///
    /// # Errors
    /// [`Error::NoHome`] if neither variable holds an absolute path (XDG Base Directory
    /// Specification: relative paths are ignored).
    pub fn open() -> Result<Cache, Error> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .ok_or(Error::NoHome)?;
        Ok(Cache::at(base.join("tare")))
    }

    /// A cache in a directory of the caller's choice.
    pub fn at(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the provisioning step puts downloaded packages.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("dl")
    }

    /// A file for the log of a build, in a directory made for it.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf, Error> {
        let directory = self.root.join("logs");
        create(&directory)?;
        Ok(directory.join(format!("{name}.log")))
    }

    /// Returns the entry `kind/name`; if it is not there, has `fill` make it in an empty
    /// directory and publishes that by renaming it.
    ///
    /// Only one process builds at a time; a second one waits and then finds the entry finished.
    /// Calls must not nest.
    pub(crate) fn publish<E: From<Error>>(
        &self,
        kind: &str,
        name: &str,
        progress: &dyn Progress,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        single_component(kind)?;
        single_component(name)?;
        let target = self.root.join(kind).join(name);
        if target.is_dir() {
            return Ok(target);
        }
        let _lock = self.lock(progress)?;
        if target.is_dir() {
            return Ok(target);
        }
        // Whoever holds the lock is the only builder: all that lies in tmp/ is dead.
        let scratch = self.root.join("tmp");
        remove_tree(&scratch)?;
        let building = scratch.join(kind);
        create(&building)?;
        create(&self.root.join(kind))?;
        let filled = fill(&building).and_then(|()| {
            fs::rename(&building, &target).map_err(|source| Error::Io {
                action: "publish",
                path: target.clone(),
                source,
            })?;
            Ok(target)
        });
        let removed = remove_tree(&scratch);
        let path = filled?;
        removed?;
        Ok(path)
    }

    /// Takes the lock, waiting for another holder; released when the file is dropped, or by the
    /// kernel when its holder dies.
    fn lock(&self, progress: &dyn Progress) -> Result<File, Error> {
        create(&self.root)?;
        let path = self.root.join("lock");
        let io = |action| move |source| Error::Io { action, path: self.root.join("lock"), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.note("another tare is building in this cache; waiting for it");
            }
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        file.lock().map_err(io("lock"))?;
        Ok(file)
    }
}

fn create(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Io {
        action: "create",
        path: path.to_owned(),
        source,
    })
}

/// Removes a tree. The compilers of a build that was killed may live a moment longer and still
/// write into it, so it is tried a few times.
fn remove_tree(path: &Path) -> Result<(), Error> {
    let mut attempts = 20;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(Duration::from_millis(250));
            }
            Err(source) => {
                return Err(Error::Io { action: "remove", path: path.to_owned(), source });
            }
        }
    }
}

fn single_component(name: &str) -> Result<(), Error> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(one)), None) if one == name => Ok(()),
        _ => Err(Error::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("tare"));
        (directory, cache)
    }

    #[test]
    fn test_publish_twice_builds_once() {
        let (_directory, cache) = cache();
        let built = AtomicU32::new(0);
        for _ in 0..2 {
            let path = cache.publish::<Error>("kernels", "a", &Silent, |at| {
                built.fetch_add(1, Ordering::Relaxed);
                fs::write(at.join("file"), b"x").unwrap();
                Ok(())
            });
            assert!(path.unwrap().join("file").is_file());
        }
        assert_eq!(built.into_inner(), 1);
        assert!(!cache.root().join("tmp").exists());
    }

    #[test]
    fn test_publish_failed_fill_leaves_nothing() {
        let (_directory, cache) = cache();
        let failed = cache.publish("kernels", "a", &Silent, |at| {
            fs::write(at.join("half"), b"x").unwrap();
            Err(Error::NoHome)
        });
        assert!(matches!(failed, Err(Error::NoHome)));
        assert!(!cache.root().join("kernels/a").exists());
        assert!(!cache.root().join("tmp").exists());
    }

    #[test]
    fn test_publish_after_killed_build_removes_its_remains() {
        let (_directory, cache) = cache();
        let remains = cache.root().join("tmp/kernels/half");
        fs::create_dir_all(&remains).unwrap();
        cache.publish::<Error>("rootfs", "a", &Silent, |_| Ok(())).unwrap();
        assert!(!remains.exists());
    }

    #[test]
    fn test_publish_concurrently_builds_once() {
        let (_directory, cache) = cache();
        let built = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache
                        .publish::<Error>("kernels", "a", &Silent, |_| {
                            built.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(20));
                            Ok(())
                        })
                        .unwrap()
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }

    #[test]
    fn test_publish_name_with_slash_returns_name_error() {
        let (_directory, cache) = cache();
        for name in ["../x", "a/b", "", ".", "a/"] {
            let result = cache.publish::<Error>("kernels", name, &Silent, |_| Ok(()));
            assert!(matches!(result, Err(Error::Name(_))), "{name}");
        }
    }

    #[test]
    fn test_publish_unwritable_root_names_the_path() {
        let cache = Cache::at("/proc/tare");
        let error = cache.publish::<Error>("a", "b", &Silent, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("/proc/tare"), "{error}");
    }
}
