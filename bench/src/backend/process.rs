//! A plain process: the baseline that every box is compared with.
//!
//! vfork-style spawn and exec of the agent, nothing else. With a root file system the agent
//! changes its root into it: no isolation, only the same files as the other boxes see.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use tare_container::Limits;
use tare_workload::Channel as Wire;

use super::channel::Channel;
use super::instance::{Child, Instance, Running};
use super::peer::Peer;
use super::scratch::ScratchDir;
use super::{Assignment, Availability, Backend, Error, Output, Prepared, Transport};
use crate::kit::Kit;

const NAME: &str = "process";
/// The descriptor on which the agent finds its channel.
pub(super) const CHANNEL_FD: i32 = 3;

/// The backend; see the module's text.
pub(super) struct Process;

impl Backend for Process {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "a plain process: vfork and exec, the baseline"
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        Availability::Ready
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        if assignment.limits != Limits::default() {
            return Availability::Unavailable {
                why: "a plain process has no cgroup of its own".to_owned(),
                remedy: "compare with a container".to_owned(),
            };
        }
        match assignment.transport {
            Some(Transport::Vsock) => Availability::Unavailable {
                why: "a process of the host has no virtual socket to it".to_owned(),
                remedy: "compare by network".to_owned(),
            },
            Some(Transport::Net) | None => Availability::Ready,
        }
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(NAME);
        let mut job = assignment.job.clone();
        job.channel = Wire::Fd(CHANNEL_FD);
        let mut scratch = None;
        if assignment.scratch_mib.is_some() {
            let directory = ScratchDir::new(kit, assignment).map_err(|error| failed(&error))?;
            job.scratch = Some(directory.path().to_string_lossy().into_owned());
            scratch = Some(directory);
        }
        if assignment.with_rootfs {
            let rootfs = kit.rootfs().map_err(|error| failed(&error))?;
            job.root = Some(rootfs.to_string_lossy().into_owned());
        }
        // Only by the loopback interface, as `suits` has seen to.
        let peer = assignment.transport.map(|_| Peer::tcp(Ipv4Addr::LOCALHOST));
        let peer = peer.transpose().map_err(|error| failed(&error))?;
        job.peer = peer.as_ref().map(|peer| peer.address);
        let program =
            CString::new(kit.agent().as_os_str().as_bytes()).map_err(|error| failed(&error))?;
        let words = std::iter::once("tare-guest".to_owned()).chain(job.to_words());
        let arguments = words
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed(&error))?;
        Ok(Box::new(Ready { program, arguments, scratch, peer, output: assignment.output }))
    }
}

struct Ready {
    program: CString,
    arguments: Vec<CString>,
    scratch: Option<ScratchDir>,
    peer: Option<Peer>,
    output: Output,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = vec!["agent in the host's page cache".to_owned()];
        state.extend(self.scratch.as_ref().map(ScratchDir::state));
        state.push("the host's network".to_owned());
        state.extend(self.peer.as_ref().map(Peer::state));
        state
    }

    fn reset(&self) -> Result<(), Error> {
        let emptied = self.scratch.as_ref().map_or(Ok(()), ScratchDir::empty);
        emptied.map_err(|error| Error::prepare(NAME)(&error))
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let failed = |error: io::Error| Error::launch(NAME)(&error);
        let pipes = Pipes::new(self.output).map_err(failed)?;
        let inherits = matches!(self.output, Output::Attended { .. });
        let pid = spawn(&self.program, &self.arguments, &pipes, inherits).map_err(failed)?;
        let child = Child::adopt(pid).map_err(failed)?;
        Ok(Box::new(Running { child, channels: pipes.into_channels(), guest_ram_bytes: None }))
    }
}

/// The pipes between the harness and a box that is a process of this host.
pub(super) struct Pipes {
    channel: (OwnedFd, OwnedFd),
    output: Option<[(OwnedFd, OwnedFd); 2]>,
}

impl Pipes {
    pub(super) fn new(output: Output) -> io::Result<Pipes> {
        let output = match output {
            Output::Null | Output::Attended { .. } => None,
            Output::Captured => Some([pipe()?, pipe()?]),
        };
        Ok(Pipes { channel: pipe()?, output })
    }

    /// The box's end of the channel.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.1.as_fd()
    }

    /// The box's ends of its standard output and error.
    pub(super) fn output(&self) -> Option<[&OwnedFd; 2]> {
        self.output.as_ref().map(|[stdout, stderr]| [&stdout.1, &stderr.1])
    }

    /// Keeps the harness's ends and closes the box's.
    pub(super) fn into_channels(self) -> Vec<Channel> {
        let mut channels = vec![Channel::raw(self.channel.0)];
        if let Some([stdout, stderr]) = self.output {
            channels.push(Channel::output(stdout.0, false));
            channels.push(Channel::output(stderr.0, true));
        }
        channels
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// posix_spawn(3): in musl a clone(2) that shares memory until the exec, like vfork.
/// `inherits` says whether the standard streams are this process's.
fn spawn(
    program: &CString,
    arguments: &[CString],
    pipes: &Pipes,
    inherits: bool,
) -> io::Result<libc::pid_t> {
    let mut argv: Vec<_> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    let environment = [std::ptr::null_mut()];
    let mut actions = FileActions::new()?;
    if !inherits {
        actions.open_null(0)?;
    }
    match pipes.output() {
        None if inherits => {}
        None => {
            actions.open_null(1)?;
            actions.open_null(2)?;
        }
        Some([stdout, stderr]) => {
            actions.duplicate(stdout.as_raw_fd(), 1)?;
            actions.duplicate(stderr.as_raw_fd(), 2)?;
        }
    }
    actions.duplicate(pipes.channel().as_raw_fd(), CHANNEL_FD)?;
    let mut pid = 0;
    // SAFETY: every pointer is to a live value; both arrays end with a null pointer; their strings
    // outlive the call.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            std::ptr::null(),
            argv.as_ptr(),
            environment.as_ptr(),
        )
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<FileActions> {
        // SAFETY: an all-zero value is overwritten by the call before anything reads it.
        let mut actions = unsafe { std::mem::zeroed() };
        // SAFETY: `actions` is valid for writes.
        check(unsafe { libc::posix_spawn_file_actions_init(&raw mut actions) })?;
        Ok(FileActions(actions))
    }

    fn open_null(&mut self, fd: i32) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the path is a constant string.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(
                &raw mut self.0,
                fd,
                c"/dev/null".as_ptr(),
                libc::O_RDWR,
                0,
            )
        })
    }

    /// Also right where both are the same number: the copy is inherited, unlike the original.
    fn duplicate(&mut self, from: i32, to: i32) -> io::Result<()> {
        // SAFETY: `self.0` is initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: `self.0` is initialised and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

fn check(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
