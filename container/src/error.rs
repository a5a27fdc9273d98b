//! What can go wrong, on what, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::network::NetworkError;

/// Why a container could not be prepared, started, waited for or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The [`Spec`](crate::Spec) contradicts itself or holds something the kernel cannot take.
    #[error("invalid {field}: {problem}; {remedy}")]
    Invalid {
        /// The field of the spec.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A directory or file that the box is made of cannot be used.
    #[error("cannot use {} as {role}: {source}; {remedy}", path.display())]
    Path {
        /// What it was to be: root file system, layer, source of a bind mount, …
        role: &'static str,
        /// The path on the host, or inside the box for a mount point.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The program is not in the box. A shell would exit with 127.
    #[error(
        "command not found in the box: {command:?}{}; give a path that exists there, or extend PATH",
        searched.as_ref().map(|path| format!(" (searched PATH={path})")).unwrap_or_default()
    )]
    CommandNotFound {
        /// As it was asked for.
        command: String,
        /// The value of `PATH` that was searched, when the command has no slash.
        searched: Option<String>,
    },
    /// The program is in the box but cannot be executed. A shell would exit with 126.
    #[error("command {command:?} cannot be executed in the box: {source}; {remedy}")]
    CommandNotExecutable {
        /// As it was asked for.
        command: String,
        /// The system's error.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The new process could not set up its box. Nothing of it is left.
    #[error("cannot {stage} {target}: {source}; {}", stage.remedy(source))]
    Setup {
        /// What it was doing.
        stage: Stage,
        /// To what.
        target: String,
        /// The system's error.
        source: io::Error,
    },
    /// `clone3` failed.
    #[error("cannot create the container's process (clone3): {source}; {remedy}")]
    Clone {
        /// The system's error.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A cgroup could not be found, made, written, read or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A network could not be made or removed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Another system call of the host side failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The system's last error, for `action`.
    pub(crate) fn last(action: &'static str) -> Error {
        Error::System { action, source: io::Error::last_os_error() }
    }

    /// What a shell's `$?` would be for this failure of a command: 127 when it does not exist,
    /// 126 when it exists but cannot be executed, 125 when the box itself could not be made.
    #[must_use]
    pub fn shell_status(&self) -> u8 {
        match self {
            Error::CommandNotFound { .. } => 127,
            Error::CommandNotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

/// A step of the child's set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Joining a cgroup (v1) or entering its own cgroup namespace.
    Cgroup,
    /// Entering a namespace that is there already.
    Namespace,
    /// Keeping mounts from propagating to the host.
    Propagation,
    /// Building the root file system.
    Root,
    /// Changing into the new root and letting go of the old one.
    Pivot,
    /// Mounting a file system or directory inside the box.
    Mount,
    /// Making a device, directory or link.
    Node,
    /// Hiding or write-protecting a path of /proc or /sys.
    Mask,
    /// Setting the host name.
    Hostname,
    /// Entering a network namespace, or bringing up the loopback interface.
    Network,
    /// Setting a resource limit.
    ResourceLimit,
    /// Changing to the working directory.
    WorkingDirectory,
    /// Passing a descriptor.
    Descriptor,
    /// Making the box's own terminal.
    Terminal,
    /// Setting the clocks of a time namespace.
    Clock,
    /// Setting a kernel parameter.
    Sysctl,
    /// Waiting for what the caller does in between.
    Hook,
    /// Session, signals, umask.
    Process,
    /// Changing user and group.
    User,
    /// Dropping capabilities, setting no_new_privs.
    Privileges,
    /// Loading the system-call filter.
    Seccomp,
    /// Making sure that the child dies with its parent.
    ParentDeath,
    /// Executing the program.
    Execute,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Cgroup => "enter the cgroup",
            Stage::Namespace => "enter the namespace",
            Stage::Propagation => "make private all mounts of",
            Stage::Root => "build the root file system",
            Stage::Pivot => "change root to",
            Stage::Mount => "mount",
            Stage::Node => "create",
            Stage::Mask => "protect",
            Stage::Hostname => "set the host name",
            Stage::Network => "set up the network,",
            Stage::ResourceLimit => "set resource limit",
            Stage::WorkingDirectory => "change to the working directory",
            Stage::Descriptor => "pass descriptor",
            Stage::Terminal => "make the terminal:",
            Stage::Clock => "set the clocks:",
            Stage::Sysctl => "set the kernel parameter",
            Stage::Hook => "go on with the start",
            Stage::Process => "set up the process:",
            Stage::User => "change user:",
            Stage::Privileges => "drop privileges:",
            Stage::Seccomp => "load the system-call filter",
            Stage::ParentDeath => "tie the container to its parent:",
            Stage::Execute => "execute",
        })
    }
}

impl Stage {
    /// What to do about `source` at this stage.
    fn remedy(self, source: &io::Error) -> &'static str {
        let errno = source.raw_os_error().unwrap_or(0);
        match (self, errno) {
            (Stage::Pivot, libc::EINVAL) => {
                "the host's own root must be a mount that can be left (not an initramfs, not a \
                 plain chroot): switch into a tmpfs or disk first"
            }
            (Stage::Root, libc::ENODEV) => {
                "the kernel has no overlay or tmpfs: load it (modprobe overlay) or choose another \
                 kind of root file system"
            }
            (Stage::ResourceLimit, libc::EPERM) => {
                "a limit above the hard limit needs CAP_SYS_RESOURCE"
            }
            (Stage::Hook, libc::ECANCELED) => "the caller has called it off",
            (Stage::User, libc::EINVAL) => "map this user and group in the user namespace",
            (Stage::Mount, libc::EPERM) => {
                "run as root, or in a user namespace where the host's /proc and /sys can be seen \
                 whole"
            }
            (Stage::ParentDeath, libc::EOWNERDEAD) => "the parent ended meanwhile; start it again",
            (Stage::WorkingDirectory, libc::ENOENT | libc::ENOTDIR) => {
                "name a directory that exists inside the box"
            }
            (_, libc::EPERM | libc::EACCES) => {
                "run as root (CAP_SYS_ADMIN in the initial user namespace)"
            }
            (_, libc::ENODEV | libc::ENOSYS) => {
                "the running kernel lacks this feature: use Linux 5.12 or newer with it enabled"
            }
            (_, libc::ENOENT) => "make sure that it exists",
            (_, libc::ENOSPC) => {
                "a limit of mounts or file-system space is reached (see /proc/sys/fs/mount-max)"
            }
            (_, libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
            (_, libc::ENOMEM) => "free memory on the host",
            _ => "see the system's error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_message_names_what_where_and_remedy() {
        let error = Error::Setup {
            stage: Stage::Mount,
            target: "/proc".into(),
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let text = error.to_string();
        assert!(text.starts_with("cannot mount /proc: Operation not permitted"), "{text}");
        assert!(text.contains("run as root"), "{text}");
        assert_eq!(error.shell_status(), 125);
    }
}
