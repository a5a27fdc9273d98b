use std::io;
use std::path::PathBuf;

/// Why a cgroup could not be found, made, written, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A file of `/proc` that tells of cgroups cannot be read.
    #[error("cannot read {path}: {source}; mount /proc")]
    Proc {
        /// The file.
        path: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// No cgroup file system is mounted.
    #[error(
        "no cgroup file system is mounted, but limits are asked for; mount one \
         (mount -t cgroup2 none /sys/fs/cgroup) or ask for no limits"
    )]
    NotMounted,
    /// A controller that a limit needs is in no mounted hierarchy.
    #[error(
        "no mounted cgroup hierarchy has the {controller} controller; enable it in the kernel \
         (not cgroup_disable={controller}), or ask for no {controller} limit"
    )]
    NoController {
        /// `memory`, `cpu` or `pids`.
        controller: &'static str,
    },
    /// A controller exists but cannot be given to child cgroups.
    #[error(
        "cannot enable controller {controller} below {}: {source}; a cgroup that holds processes \
         cannot pass controllers on: move them (this one too) into a child cgroup, or start tare \
         by `systemd-run --scope -p Delegate=yes`", path.display()
    )]
    NotDelegated {
        /// `memory`, `cpu` or `pids`.
        controller: &'static str,
        /// The topmost directory that was tried.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The cgroup file system cannot be written.
    #[error(
        "cannot write to cgroup {}: {source}; run as root with the cgroup file system mounted \
         read-write, or ask for no limits", path.display()
    )]
    NotWritable {
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel did not take a limit.
    #[error("cgroup limit {value} refused by {}: {source}; give a value it takes", path.display())]
    LimitRefused {
        /// The control file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel did not take the program that decides about devices.
    #[error(
        "cannot load the program that decides about devices (bpf): {source}; run as root, with a \
         kernel that has CONFIG_CGROUP_BPF, or ask for no device rules"
    )]
    NoDeviceProgram {
        /// The system's error.
        source: io::Error,
    },
    /// Version 1 forgets a rule that takes back a part of what another gives.
    #[error(
        "the devices controller of version 1 cannot take back a part of what an earlier rule \
         gives: device rule {number} (from 1); give rules that allow only, or use version 2"
    )]
    NotExpressible {
        /// The rule, from 1.
        number: usize,
    },
    /// It cannot be frozen or thawed.
    #[error("cannot freeze or thaw cgroup {}: {source}; have it made with a freezer", path.display())]
    NotFrozen {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A statistic cannot be read.
    #[error("cannot read cgroup file {}: {source}", path.display())]
    Unreadable {
        /// The control file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A cgroup cannot be removed.
    #[error(
        "cannot remove cgroup {}: {source}; end the processes in its cgroup.procs, then remove it \
         with rmdir", path.display()
    )]
    NotRemoved {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `/proc/self/mountinfo` or `/proc/self/cgroup` is not what `proc(5)` says.
    #[error("cannot understand line {line} of {path}: {problem}")]
    Malformed {
        /// The file.
        path: &'static str,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl CgroupError {
    /// Sorts an error of writing `path` into "not writable" and "limit refused".
    pub(crate) fn write(path: PathBuf, value: &str, source: io::Error) -> CgroupError {
        match source.raw_os_error() {
            Some(libc::EINVAL | libc::ERANGE | libc::EBUSY) => {
                CgroupError::LimitRefused { path, value: value.trim_end().to_owned(), source }
            }
            _ => CgroupError::NotWritable { path, source },
        }
    }
}
