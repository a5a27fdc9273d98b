//! Where foreign runtimes run: a mount and a pid namespace that end with this program.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tare_container::{Container, Entrance, Namespaces, Program, Spec};

use super::tool::settle;
use crate::backend::instance::Child;
use crate::backend::microvm::leave_the_harness;
use crate::kit::Kit;

/// The descriptor on which a runtime finds the first that it is given.
pub(super) const FIRST_FD: RawFd = 3;
/// A runtime that finds hierarchies of both versions refuses them (crun 1.8).
const UNIFIED_BESIDE_V1: &str = "/sys/fs/cgroup/unified";
/// The agent's name in a box.
pub(super) const AGENT: &str = "/tare-guest";

/// See the module's text.
pub(super) struct Enclosure {
    pid_namespace: File,
    mount_namespace: File,
    own_pid_namespace: File,
    /// The root file system of boxes, as it is seen in there: an overlay with the agent in it.
    pub(super) root: PathBuf,
    /// First process of the pid namespace, with which all others end.
    _holder: Container,
}

/// There is no enclosure.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Its namespaces.
    #[error(transparent)]
    Container(#[from] tare_container::Error),
    /// The run's directory.
    #[error(transparent)]
    Kit(#[from] crate::kit::Error),
    /// Its files.
    #[error("cannot make the runtimes' enclosure: {0}")]
    Io(#[from] io::Error),
}

impl Enclosure {
    /// For a cell's declared state.
    pub(super) fn state() -> [String; 3] {
        [
            "root: an overlay with a tmpfs on top, mounted once before and shared by its boxes",
            "forked from the harness into a mount and a pid namespace that are there",
            "agent and runtime in the host's page cache",
        ]
        .map(str::to_owned)
    }

    /// Makes one, with a root file system made of `lower` and the agent.
    pub(super) fn new(kit: &Kit, lower: &Path) -> Result<Enclosure, Error> {
        let stage = kit.new_scratch_dir()?;
        // Boxes may have another user.
        fs::set_permissions(&stage, fs::Permissions::from_mode(0o755))?;
        let agent = stage.join("agent");
        fs::create_dir(&agent)?;
        fs::copy(kit.agent(), agent.join(AGENT.trim_start_matches('/')))?;
        let root = stage.join("root");
        fs::create_dir(&root)?;
        let namespaces = Namespaces::PID.with(Namespaces::MOUNT);
        let jail = Spec { namespaces, ..Spec::process(Program::Caller) }.jail()?;
        let (mut reader, writer) = io::pipe()?;
        let hold = |entrance: Entrance<'_>| {
            leave_the_harness();
            // SAFETY: nothing else is used here.
            unsafe { entrance.close_all_but(&[writer.as_raw_fd()]) };
            let furnished = entrance.enter().map_err(io::Error::other);
            let furnished = furnished.and_then(|()| furnish(&agent, lower, &stage, &root));
            let answer = furnished.err().map(|error| error.to_string()).unwrap_or_default();
            let told = (&writer).write_all(&[answer.as_bytes(), &[0]].concat());
            if told.is_err() || !answer.is_empty() {
                return 1;
            }
            // SAFETY: plain numbers; what ends in here is nobody's, and is to leave nothing.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            }
        };
        // SAFETY: this process has a single thread (the harness starts none).
        let holder = unsafe { jail.fork(hold) }?;
        drop(writer);
        let mut answer = Vec::new();
        // Its end of the pipe stays open: the answer ends with a zero.
        let mut byte = [0];
        while reader.read(&mut byte)? > 0 && byte != [0] {
            answer.extend(byte);
        }
        if byte != [0] || !answer.is_empty() {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()).into());
        }
        let namespace = |pid: &str, kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        let pid = holder.pid().to_string();
        Ok(Enclosure {
            pid_namespace: namespace(&pid, "pid")?,
            mount_namespace: namespace(&pid, "mnt")?,
            own_pid_namespace: namespace("self", "pid")?,
            root,
            _holder: holder,
        })
    }

    /// Starts a command in there, with `passed` as its descriptors from 3 on and `said` for both of
    /// its output streams.
    pub(super) fn spawn(
        &self,
        mut command: Command,
        passed: &[RawFd],
        said: OwnedFd,
    ) -> io::Result<Child> {
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let mounts = self.mount_namespace.as_raw_fd();
        let count = FIRST_FD + i32::try_from(passed.len()).unwrap_or(0);
        // Numbers that are free now could be those of the pipe by which a failed exec is told.
        let reserved = Reserved::below(count)?;
        let sources: Vec<OwnedFd> =
            passed.iter().map(|fd| above(*fd, count)).collect::<io::Result<_>>()?;
        let pairs: Vec<(RawFd, RawFd)> =
            sources.iter().map(AsRawFd::as_raw_fd).zip(FIRST_FD..).collect();
        // SAFETY: these calls take plain numbers and are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let dies = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0;
                let is_in = libc::setns(mounts, libc::CLONE_NEWNS) == 0;
                let is_given = pairs.iter().all(|(from, to)| libc::dup2(*from, *to) == *to);
                if dies && is_in && is_given { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        // Only for children to come, of which there is one before the way back.
        enter_pids(&self.pid_namespace)?;
        let spawned = command.spawn();
        enter_pids(&self.own_pid_namespace)?;
        drop(reserved);
        let pid = i32::try_from(spawned?.id());
        Child::adopt(pid.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?)
    }

    /// Runs a command in there to its end, within limits: exit code and what it said.
    pub(super) fn finish(&self, command: Command) -> io::Result<(i32, String)> {
        let (reader, writer) = io::pipe()?;
        let child = self.spawn(command, &[], writer.into())?;
        settle(child, reader.into())
    }
}

/// Descriptors that keep numbers from being taken.
struct Reserved(#[expect(dead_code, reason = "held for its numbers")] Vec<File>);

impl Reserved {
    /// Takes all free numbers below `end`.
    fn below(end: RawFd) -> io::Result<Reserved> {
        let mut files = Vec::new();
        loop {
            let file = File::open("/dev/null")?;
            if file.as_raw_fd() >= end {
                return Ok(Reserved(files));
            }
            files.push(file);
        }
    }
}

/// A copy whose number is at least `first`.
fn above(fd: RawFd, first: RawFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain numbers.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn enter_pids(namespace: &File) -> io::Result<()> {
    // SAFETY: plain numbers; it changes where children of this thread are born.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mounts what the runtimes need, in the enclosure.
fn furnish(agent: &Path, lower: &Path, stage: &Path, root: &Path) -> io::Result<()> {
    let none = None::<&str>;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    if Path::new(UNIFIED_BESIDE_V1).exists() {
        umount2(UNIFIED_BESIDE_V1, MntFlags::MNT_DETACH)?;
    }
    let writes = stage.join("writes");
    fs::create_dir(&writes)?;
    mount(Some("tmpfs"), &writes, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    for name in ["upper", "work"] {
        fs::create_dir(writes.join(name))?;
    }
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        agent.display(),
        lower.display(),
        writes.join("upper").display(),
        writes.join("work").display()
    );
    Ok(mount(Some("overlay"), root, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))?)
}
