//! A program of the host that boxes are made with.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::backend::Availability;
use crate::backend::instance::Child;

/// More than any of these commands takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program by its name, which an environment variable may give another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct Tool {
    /// Its name, looked for in `PATH`.
    pub(in crate::backend) program: &'static str,
    /// The variable.
    pub(in crate::backend) variable: &'static str,
    /// Debian's package.
    pub(in crate::backend) package: &'static str,
}

impl Tool {
    /// What to execute.
    pub(in crate::backend) fn path(self) -> PathBuf {
        std::env::var_os(self.variable).map_or_else(|| self.program.into(), PathBuf::from)
    }

    /// The first line of what it says of its version, or why it cannot be used.
    pub(in crate::backend) fn version(self) -> Result<String, Availability> {
        let mut command = Command::new(self.path());
        let (code, text) = finish(command.arg("--version")).map_err(|error| {
            let why = format!("{} cannot be run: {error}", self.path().display());
            let remedy = format!("apt-get install {}, or name it: {}", self.package, self.variable);
            Availability::Unavailable { why, remedy }
        })?;
        match text.lines().next() {
            Some(line) if code == 0 => Ok(line.trim().to_owned()),
            _ => Err(Availability::Unavailable {
                why: format!(
                    "{} --version ended with exit code {code}: {}",
                    self.path().display(),
                    text.trim()
                ),
                remedy: format!("install it anew: apt-get install {}", self.package),
            }),
        }
    }

    /// Whether it can be used here by this user.
    pub(super) fn probe(self) -> Availability {
        if !nix::unistd::geteuid().is_root() {
            return Availability::Unavailable {
                why: "its boxes are compared as root's".to_owned(),
                remedy: "run tare as root".to_owned(),
            };
        }
        self.version().err().unwrap_or(Availability::Ready)
    }
}

/// Runs a command to its end: exit code, and what it said on both streams. One that does not end in
/// time is killed.
pub(super) fn finish(command: &mut Command) -> io::Result<(i32, String)> {
    finish_within(command, PATIENCE)
}

/// The same for one that may take longer than most.
pub(in crate::backend) fn finish_within(
    command: &mut Command,
    limit: Duration,
) -> io::Result<(i32, String)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let pid = command.spawn()?.id();
    // The command holds the pipe's other end open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    settle_within(Child::adopt(pid)?, reader.into(), limit)
}

/// Waits for a process that says something on a pipe, within limits.
pub(super) fn settle(child: Child, reader: OwnedFd) -> io::Result<(i32, String)> {
    settle_within(child, reader, PATIENCE)
}

fn settle_within(mut child: Child, reader: OwnedFd, limit: Duration) -> io::Result<(i32, String)> {
    if !has_news(child.pidfd().as_fd(), limit)? {
        child.kill();
        child.reap()?;
        let why = format!("it had not ended after {} s and was killed", limit.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    let code = child.reap()?.code;
    // Another process may hold the pipe open: only what is there is read.
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut bytes = Vec::new();
    match std::fs::File::from(reader).read_to_end(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    Ok((code, String::from_utf8_lossy(&bytes).into_owned()))
}

fn has_news(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], limit) {
            Ok(count) => return Ok(count > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool =
        Tool { program: "tare-no-such-program", variable: "TARE_NO_SUCH", package: "none" };

    #[test]
    fn test_version_of_an_absent_program_names_the_remedy() {
        let Err(Availability::Unavailable { why, remedy }) = ABSENT.version() else { panic!() };
        assert!(why.contains("tare-no-such-program"), "{why}");
        assert!(remedy.contains("TARE_NO_SUCH"), "{remedy}");
    }

    #[test]
    fn test_version_is_the_first_line_of_a_success_alone() {
        assert!(Tool { program: "ls", ..ABSENT }.version().unwrap().starts_with("ls "));
        assert!(Tool { program: "false", ..ABSENT }.version().is_err());
    }

    #[test]
    fn test_finish_tells_code_and_both_streams() {
        let mut command = Command::new("sh");
        let shown = finish(command.args(["-c", "echo one; echo two >&2; exit 3"])).unwrap();
        assert_eq!(shown, (3, "one\ntwo\n".to_owned()));
    }
}
