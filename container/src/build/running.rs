//! RUN: a command in a container on the stage's layers, and what it has changed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::entry::{Entries, Entry};
use super::error::BuildError;
use super::merged::Merged;
use super::upper::{attributes, read_upper};
use super::users;
use crate::{Container, Mount, Namespaces, Program, Rootfs, Spec, Stream};

/// What the box makes in the root to mount upon, where it is not there.
const MOUNT_POINTS: [&str; 5] = ["proc", "sys", "dev", "etc/resolv.conf", "etc"];
/// Of a command whose image sets none (Docker's own).
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a wait looks whether it is to end, should the signal have come just before it.
const WAIT_MS: i32 = 500;

/// A command to be run.
pub(super) struct Run<'a> {
    pub(super) below: &'a Merged,
    pub(super) trees: Vec<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: &'a str,
    pub(super) user: &'a str,
    pub(super) host_network: bool,
    /// Where its output goes.
    pub(super) output: Option<&'a File>,
    pub(super) is_interrupted: &'a dyn Fn() -> bool,
}

impl Run<'_> {
    /// Runs it with its changes going to a new directory `scratch`, and returns them. What they
    /// refer to is in that directory.
    pub(super) fn run(self, scratch: &Path) -> Result<Entries, BuildError> {
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        for directory in [scratch, &upper, &work] {
            fs::create_dir(directory).map_err(BuildError::io("make the directory", directory))?;
        }
        // The root's owner and mode are those of the upper directory.
        let root = self.below.root().unwrap_or(Path::new("/"));
        let before = fs::metadata(root).map_err(BuildError::io("look at", root))?;
        chown(&upper, Some(before.uid()), Some(before.gid()))
            .and_then(|()| {
                fs::set_permissions(&upper, fs::Permissions::from_mode(before.mode() & 0o7777))
            })
            .map_err(BuildError::io("set owner and mode of", &upper))?;
        let is_there =
            |path: &&str| Ok::<_, BuildError>(self.below.find(Path::new(path))?.is_some());
        let mut made = Vec::new();
        for path in &MOUNT_POINTS {
            if !is_there(path)? {
                made.push(upper.join(path));
            }
        }
        let is_interrupted = self.is_interrupted;
        let mut container = self.spec(&upper, &work)?.prepare()?.spawn()?;
        let exit = wait(&mut container, is_interrupted)?;
        container.remove()?;
        match exit {
            0 => {}
            status => return Err(BuildError::Command { status }),
        }
        made.iter().for_each(|path| remove_if_empty(path));
        let mut entries = read_upper(&upper)?;
        let after = fs::metadata(&upper).map_err(BuildError::io("look at", &upper))?;
        let described = |metadata: &fs::Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
        if described(&before) != described(&after) {
            let entry = Entry {
                mode: after.mode() & 0o7777,
                uid: after.uid(),
                gid: after.gid(),
                attributes: attributes(&upper)?,
                ..Entry::implied_directory()
            };
            entries.insert(".".into(), entry);
        }
        Ok(entries)
    }

    fn spec(self, upper: &Path, work: &Path) -> Result<Spec, BuildError> {
        let program = self.args.first().cloned().ok_or_else(|| {
            BuildError::invalid("there is no command".to_owned(), "name a program")
        })?;
        let known = users::find(self.below, self.user)?;
        let rootfs = Rootfs::OverlayOn {
            lower: self.trees,
            upper: upper.to_owned(),
            work: work.to_owned(),
            volatile: true,
        };
        let mut spec = Spec::container(rootfs, Program::command(program)).args(self.args);
        let mut env = self.env;
        let has = |env: &[String], name: &str| env.iter().any(|it| it.starts_with(name));
        if !has(&env, "PATH=") {
            env.insert(0, PATH.to_owned());
        }
        if !has(&env, "HOME=") {
            env.push(format!("HOME={}", known.home.as_deref().unwrap_or("/")));
        }
        spec.env = env.into_iter().map(Into::into).collect();
        spec.cwd = self.cwd.into();
        spec.user = Some(known.user);
        if self.host_network {
            spec.namespaces = Namespaces::ALL.without(Namespaces::NET);
            spec.sys = false;
            if let Ok(resolver) = fs::canonicalize("/etc/resolv.conf") {
                spec.mounts.push(Mount::Bind {
                    source: resolver,
                    target: "/etc/resolv.conf".into(),
                    read_only: true,
                });
            }
        } else {
            spec.loopback = true;
        }
        if let Some(output) = self.output {
            let stream = || {
                output
                    .try_clone()
                    .map(|file| Stream::File(OwnedFd::from(file)))
                    .map_err(BuildError::io("duplicate", Path::new("the output")))
            };
            spec.stdio = [Stream::Null, stream()?, stream()?];
        }
        Ok(spec)
    }
}

/// The container's exit status, or that someone asked for the end. It is killed when dropped.
fn wait(container: &mut Container, is_interrupted: &dyn Fn() -> bool) -> Result<i32, BuildError> {
    loop {
        if is_interrupted() {
            return Err(BuildError::Interrupted);
        }
        let mut ready =
            libc::pollfd { fd: container.pidfd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives through the call.
        match unsafe { libc::poll(&raw mut ready, 1, WAIT_MS) } {
            1.. => return Ok(container.wait()?.shell_status()),
            0 => {}
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(BuildError::io("wait for", Path::new("the command"))(error));
                }
            }
        }
    }
}

/// Removes what the box made to mount upon. What the command has put there stays.
fn remove_if_empty(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => drop(fs::remove_dir(path)),
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => drop(fs::remove_file(path)),
        _ => {}
    }
}
