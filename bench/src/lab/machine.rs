//! The emulated host: QEMU's command line, its wait, and what it leaves.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::port;
use super::{Error, Flavour, Lab};
use crate::{interrupt, progress};

const QEMU: &str = "qemu-system-x86_64";
/// File name of the initramfs in the round's directory.
pub(super) const INITRAMFS: &str = "lab.cpio";
/// Entry of the archive that holds the order's exit code as text.
pub(super) const EXIT_CODE_ENTRY: &str = ".tare-exit-code";
const ARCHIVE: &str = "out.tar";
const CONSOLE: &str = "console.log";
const QEMU_LOG: &str = "qemu.log";
/// How often the progress line moves.
const TICK_MS: u16 = 100;
/// How long the order may take to end in good order, when the user has asked it to.
const GRACE: Duration = Duration::from_secs(60);
/// How often it is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How much of a dead lab's console is shown.
const CONSOLE_TAIL_BYTES: usize = 6000;

/// The command line of the emulated host's kernel. Randomised addresses would move page faults
/// about between rounds; mitigations cost instructions that the emulated CPU does not need.
const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 quiet loglevel=1 nokaslr norandmaps mitigations=off";

/// One round.
pub(super) struct Machine<'a> {
    pub(super) lab: &'a Lab,
    pub(super) kernel: &'a Path,
    pub(super) directory: &'a Path,
    pub(super) out_dir: &'a Path,
}

/// Fails early, with the remedy, where QEMU is not installed.
pub(super) fn check_installed() -> Result<(), Error> {
    let found =
        Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::NoQemu(QEMU)),
    }
}

impl Machine<'_> {
    /// Boots the machine, waits for its end, unpacks what came out; returns the order's exit code.
    pub(super) fn run(&self) -> Result<i32, Error> {
        fs::create_dir_all(self.out_dir).map_err(Error::io("cannot make", self.out_dir))?;
        let pipe = || io::pipe().map_err(Error::io("cannot make a pipe for", QEMU));
        let ((stdout, stdout_writer), (stderr, stderr_writer)) = (pipe()?, pipe()?);
        let (stop_heard, stop) =
            UnixStream::pair().map_err(Error::io("cannot make a socket for", QEMU))?;
        let mut command = self.command(&stdout_writer, &stderr_writer, &stop_heard)?;
        let mut child = command.spawn().map_err(Error::io("cannot run", QEMU))?;
        drop((command, stdout_writer, stderr_writer, stop_heard));
        let status = self.wait(&mut child, stdout, stderr, stop)?;
        let died = |status: String| Error::Died { status, console: self.console_tail() };
        // `isa-debug-exit` with the value 0, or QEMU's own refusal of its command line.
        if status.code() != Some(1) || !self.directory.join(ARCHIVE).exists() {
            return Err(died(status.to_string()));
        }
        let code = self.unpack().map_err(Error::Output)?;
        code.ok_or_else(|| died("no exit code came out".to_owned()))
    }

    fn command(
        &self,
        stdout: &PipeWriter,
        stderr: &PipeWriter,
        stop: &UnixStream,
    ) -> Result<Command, Error> {
        let log = self.directory.join(QEMU_LOG);
        let log = File::create(&log).map_err(Error::io("cannot create", &log))?;
        let mut command = Command::new(QEMU);
        let accelerator: &[&str] = match self.lab.flavour {
            Flavour::Deterministic => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
            }
            // One emulation thread for both CPUs: with a thread each (`thread=multi`), QEMU 7.2 runs
            // stale code where the kernel patches itself, and the emulated host dies of an int3.
            Flavour::Functional => &["-accel", "tcg,thread=single", "-smp", "2"],
        };
        command
            .args(["-cpu", "EPYC,+svm,+npt", "-M", "q35", "-seed", "1"])
            .args(accelerator)
            .args(["-m", &self.lab.memory_mib.to_string()])
            .args(["-rtc", "base=2026-01-01T00:00:00,clock=vm", "-no-user-config", "-nodefaults"])
            .args(["-nographic", "-no-reboot", "-kernel"])
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.directory.join(INITRAMFS))
            .args(["-append", KERNEL_COMMAND_LINE])
            .args(["-device", &format!("isa-debug-exit,iobase={:#x},iosize=1", port::EXIT)])
            .arg("-serial")
            .arg(path_option("file:", &self.directory.join(CONSOLE)))
            // The second serial port only ever hears that the order is to end.
            .args(["-chardev", &format!("socket,id=stop,fd={}", stop.as_raw_fd())])
            .args(["-serial", "chardev:stop"])
            .args(["-chardev", &format!("file,id=stdout,path=/dev/fd/{}", stdout.as_raw_fd())])
            .args(["-chardev", &format!("file,id=stderr,path=/dev/fd/{}", stderr.as_raw_fd())])
            .arg("-chardev")
            .arg(path_option("file,id=archive,path=", &self.directory.join(ARCHIVE)));
        for (name, port) in
            [("stdout", port::STDOUT), ("stderr", port::STDERR), ("archive", port::ARCHIVE)]
        {
            command.args(["-device", &format!("isa-debugcon,iobase={port:#x},chardev={name}")]);
        }
        // QEMU warns about every CPU feature that it does not emulate: of interest if it fails.
        // Its own standard output is not this process's: QEMU makes it non-blocking for good.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Ctrl-C on a terminal is for this process: it ends the order first, and then the machine ends.
        command.process_group(0);
        let pipes = [stdout.as_raw_fd(), stderr.as_raw_fd(), stop.as_raw_fd()];
        // SAFETY: prctl and fcntl with plain numbers are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(move || {
                let is_bound = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0;
                let is_inherited = pipes.iter().all(|fd| libc::fcntl(*fd, libc::F_SETFD, 0) == 0);
                if is_bound && is_inherited { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        Ok(command)
    }

    /// Passes the order's output on until QEMU ends, which closes both pipes; wakes now and then
    /// for the progress line and the limit.
    fn wait(
        &self,
        child: &mut Child,
        stdout: PipeReader,
        stderr: PipeReader,
        mut stop: UnixStream,
    ) -> Result<ExitStatus, Error> {
        let started = Instant::now();
        // When the order was asked to end, and when it was last.
        let mut asked: Option<(Instant, Instant)> = None;
        let spinner = progress::spinner("lab: the emulated host is running");
        let mut streams = [Some(stdout), Some(stderr)];
        while streams.iter().any(Option::is_some) {
            for index in self.ready(&streams)? {
                let bytes = read_some(&mut streams[index])?;
                // A reader that has gone away is not the lab's failure.
                let _ = spinner.suspend(|| match index {
                    0 => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
                    _ => io::stderr().write_all(&bytes),
                });
            }
            if interrupt::requested() {
                let is_due = asked.is_none_or(|(_, last)| last.elapsed() > ASK_AGAIN);
                if is_due {
                    // Lost while the machine still boots; it is asked again then.
                    let _ = stop.write_all(b"\n");
                    let now = Instant::now();
                    asked = Some((asked.map_or(now, |(first, _)| first), now));
                }
            }
            let is_late = started.elapsed() > self.lab.timeout;
            if is_late || asked.is_some_and(|(first, _)| first.elapsed() > GRACE) {
                let _ = child.kill();
                let _ = child.wait();
                if !is_late {
                    return Err(Error::Interrupted);
                }
                let seconds = self.lab.timeout.as_secs();
                return Err(Error::Timeout { seconds, console: self.console_tail() });
            }
            spinner.tick();
        }
        spinner.finish_and_clear();
        child.wait().map_err(Error::io("cannot wait for", QEMU))
    }

    /// Which streams have something to read, or have ended; none after a while or a signal.
    fn ready(&self, streams: &[Option<PipeReader>; 2]) -> Result<Vec<usize>, Error> {
        let open: Vec<_> =
            (0..2).filter_map(|index| Some((index, streams[index].as_ref()?))).collect();
        let mut fds: Vec<_> =
            open.iter().map(|(_, stream)| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, TICK_MS) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::io("cannot wait for", QEMU)(errno.into())),
        }
        let news = open.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(false));
        Ok(news.map(|((index, _), _)| *index).collect())
    }

    /// The last words of the emulated host's console and of QEMU itself.
    fn console_tail(&self) -> String {
        let mut text = String::new();
        for name in [CONSOLE, QEMU_LOG] {
            let bytes = fs::read(self.directory.join(name)).unwrap_or_default();
            let tail = &bytes[bytes.len().saturating_sub(CONSOLE_TAIL_BYTES)..];
            text += String::from_utf8_lossy(tail).trim();
            text.push('\n');
        }
        text
    }

    /// Unpacks the archive into the output directory; the exit code is `None` if it never came.
    fn unpack(&self) -> io::Result<Option<i32>> {
        let mut archive = tar::Archive::new(File::open(self.directory.join(ARCHIVE))?);
        archive.set_overwrite(true);
        let mut code = None;
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()?.as_os_str() == EXIT_CODE_ENTRY {
                let mut text = String::new();
                entry.by_ref().take(16).read_to_string(&mut text)?;
                code = text.parse().ok();
            } else if entry.header().entry_type().is_file() {
                // `unpack_in` refuses paths that lead out of the directory.
                entry.unpack_in(self.out_dir)?;
            }
        }
        Ok(code)
    }
}

/// Reads once; an ended stream is dropped.
fn read_some(stream: &mut Option<PipeReader>) -> Result<Vec<u8>, Error> {
    let Some(reader) = stream else { return Ok(Vec::new()) };
    let mut buffer = vec![0; 1 << 16];
    let count = reader.read(&mut buffer).map_err(Error::io("cannot read from", QEMU))?;
    if count == 0 {
        *stream = None;
    }
    buffer.truncate(count);
    Ok(buffer)
}

fn path_option(prefix: &str, path: &Path) -> OsString {
    let mut option = OsString::from(prefix);
    option.push(path);
    option
}
