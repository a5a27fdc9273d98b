//! The root file system that a box gets when the user brings none.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::progress::Progress;
use crate::{elf, hex, tool};

/// Changes when the tree's content does.
const REVISION: u32 = 1;

/// Where Debian's busybox-static is, before and after the merge of /bin into /usr.
const BUSYBOX: &[&str] = &["/bin/busybox", "/usr/bin/busybox"];

/// Mount points and the like, with their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("scratch", 0o1777),
    ("sys", 0o755),
    ("tmp", 0o1777),
];

const FILES: &[(&str, &str)] = &[
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
];

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// busybox could not be run.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// It needs shared libraries, which the tree has not.
    #[error(
        "{0} is dynamically linked; install the static one with `apt-get install busybox-static`"
    )]
    Dynamic(PathBuf),
    /// It is not a program at all.
    #[error("{path}: {source}; reinstall busybox-static")]
    NotElf {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        source: elf::Error,
    },
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
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// A directory in the cache with a root file system made of Debian's static busybox: `/bin`
/// with a link for each of its commands, the usual files in `/etc`, and empty directories to
/// mount on.
///
/// The tree is shared by all boxes: a process is confined to it by chroot, a container has it as
/// the lower layer of an overlay, and a microVM gets it as an ext4 image. Nobody writes to it.
///
/// # Errors
/// Without a static busybox, or if the cache is not writable.
pub fn base(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf, Error> {
    let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.is_file());
    let busybox = busybox.ok_or_else(|| tool::Error::Missing {
        tool: "busybox".to_owned(),
        package: "busybox-static",
    })?;
    let binary = fs::read(busybox).map_err(io("read", busybox))?;
    let damaged = |source| Error::NotElf { path: busybox.to_owned(), source };
    if elf::has_interpreter(&binary).map_err(damaged)? {
        return Err(Error::Dynamic(busybox.to_owned()));
    }
    let mut digest = Sha256::new();
    digest.update(REVISION.to_le_bytes());
    digest.update(&binary);
    let name = format!("base-{}", &hex(&digest.finalize())[..12]);
    cache.publish("rootfs", &name, progress, |into| {
        let listed = tool::output(tool::command(&busybox.to_string_lossy()).arg("--list"))?;
        fill(into, &binary, &String::from_utf8_lossy(&listed))
    })
}

fn fill(into: &Path, busybox: &[u8], applets: &str) -> Result<(), Error> {
    set_mode(into, 0o755)?;
    for &(name, mode) in DIRECTORIES {
        let path = into.join(name);
        fs::create_dir(&path).map_err(io("create", &path))?;
        set_mode(&path, mode)?;
    }
    for &(name, text) in FILES {
        let path = into.join(name);
        fs::write(&path, text).map_err(io("write", &path))?;
        set_mode(&path, 0o644)?;
    }
    let path = into.join("bin/busybox");
    fs::write(&path, busybox).map_err(io("write", &path))?;
    set_mode(&path, 0o755)?;
    let is_name = |applet: &&str| {
        *applet != "busybox"
            && !applet.is_empty()
            && !applet.starts_with('.')
            && !applet.contains('/')
    };
    for applet in applets.lines().filter(is_name) {
        let link = into.join("bin").join(applet);
        symlink("busybox", &link).map_err(io("create", &link))?;
    }
    Ok(())
}

/// The umask must not show in the tree.
fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io("set the mode of", path))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::process::Command;

    #[test]
    fn test_base_runs_a_command_and_is_reused() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let root = base(&cache, &Silent).unwrap();
        let link = fs::read_link(root.join("bin/sh")).unwrap();
        assert_eq!(link, Path::new("busybox"));
        assert_eq!(fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
        let output = Command::new(root.join("bin/busybox")).args(["echo", "hi"]).output().unwrap();
        assert_eq!(output.stdout, b"hi\n");
        assert_eq!(base(&cache, &Silent).unwrap(), root);
    }

    #[test]
    fn test_fill_odd_applet_names_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), b"x", "sh\n../evil\n\n.\nbusybox\n").unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path().join("bin"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["busybox", "sh"]);
    }
}
