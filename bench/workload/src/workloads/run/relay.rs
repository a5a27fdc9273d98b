//! The command's output, through frames.

use core::ptr;

use super::ends::{Ends, Group, occupy_standard_descriptors};
use super::signals::Forwarding;
use super::spawn::{Reaped, Usage, reap};
use crate::sys::{File, Mapping, Pipe, check, retry};
use crate::{Context, Errno, Error, FrameKind, Outlet};

/// As much as a pipe holds at once by default.
const BUFFER_BYTES: usize = 64 << 10;
/// Reads from each pipe after the command has ended: as much as a pipe can be made to hold
/// (/proc/sys/fs/pipe-max-size), so that an orphan that writes for ever does not hold up the box.
const LAST_READS: usize = 16;

/// Reads what the command writes and sends it on.
pub(super) struct Relay<'env> {
    outlet: &'env dyn Outlet,
    streams: [Stream; 2],
    buffer: Mapping,
}

struct Stream {
    kind: FrameKind,
    /// None after its end.
    reader: Option<File>,
}

impl<'env> Relay<'env> {
    /// Makes the pipes; the command's ends of them are for the one who starts it.
    pub(super) fn new(outlet: &'env dyn Outlet) -> Result<(Relay<'env>, Ends), Error> {
        occupy_standard_descriptors()?;
        let input = File::open("/dev/null", libc::O_RDONLY).on("open", "/dev/null")?;
        let output = Pipe::new().on("pipe2", "the command's output")?;
        let error = Pipe::new().on("pipe2", "the command's output")?;
        for reader in [&output.reader, &error.reader] {
            reader.set_nonblocking().on("fcntl(O_NONBLOCK)", "the command's output")?;
        }
        let relay = Relay {
            outlet,
            streams: [
                Stream { kind: FrameKind::Stdout, reader: Some(output.reader) },
                Stream { kind: FrameKind::Stderr, reader: Some(error.reader) },
            ],
            buffer: Mapping::anonymous(BUFFER_BYTES).on("mmap", "a buffer")?,
        };
        let group = Group::Agent;
        Ok((relay, Ends { input, output: output.writer, error: error.writer, group }))
    }

    /// Sends output on until `command` has ended and what it wrote is sent.
    pub(super) fn until_end_of(
        &mut self,
        command: libc::pid_t,
        signals: &Forwarding,
    ) -> Result<(i32, Usage), Error> {
        loop {
            match reap(command, libc::WNOHANG)? {
                Reaped::Command(status, usage) => {
                    // Whoever inherited the pipes from the command may keep them open for ever:
                    // what is in them now is sent, and no more.
                    self.forward(LAST_READS)?;
                    return Ok((status, usage));
                }
                Reaped::Orphan => {}
                Reaped::Nothing => {
                    self.wait(signals)?;
                    self.forward(1)?;
                }
            }
        }
    }

    /// Sleeps until there is output or a child has ended. SIGCHLD is blocked except in here, so
    /// that none is missed between the check for ended children and the sleep.
    fn wait(&self, signals: &Forwarding) -> Result<(), Error> {
        // A negative descriptor is ignored: poll(2).
        let poll = |stream: &Stream| libc::pollfd {
            fd: stream.reader.as_ref().map_or(-1, File::fd),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = [poll(&self.streams[0]), poll(&self.streams[1])];
        // SAFETY: `polls` has as many entries as are announced; the mask is valid for reading.
        let result = check(unsafe {
            libc::ppoll(polls.as_mut_ptr(), polls.len() as _, ptr::null(), signals.mask())
        });
        match result {
            Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
            Err(errno) => Err(errno).on("ppoll", "the command's output"),
        }
    }

    /// Sends what is in the pipes now, by at most so many reads from each.
    fn forward(&mut self, reads: usize) -> Result<(), Error> {
        for stream in &mut self.streams {
            for _ in 0..reads {
                let Some(reader) = &stream.reader else { break };
                match retry(|| reader.read(self.buffer.as_mut())) {
                    Ok(0) => stream.reader = None,
                    Ok(bytes) => {
                        let payload = self.buffer.as_mut().get(..bytes).unwrap_or_default();
                        self.outlet
                            .frame(stream.kind, payload)
                            .on("write", "the channel to the host")?;
                    }
                    Err(Errno(libc::EAGAIN)) => break,
                    Err(errno) => return Err(errno).on("read", "the command's output"),
                }
            }
        }
        Ok(())
    }
}
