//! The emulated host: QEMU's command line, its wait, and what it leaves.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

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
        let (stderr, stderr_writer) =
            io::pipe().map_err(Error::io("cannot make a pipe for", QEMU))?;
        let mut command = self.command(&stderr_writer)?;
        let mut child = command.spawn().map_err(Error::io("cannot run", QEMU))?;
        drop((command, stderr_writer));
        let status = self.wait(&mut child, stderr)?;
        // `isa-debug-exit` with the value 0; anything else was not our PID 1's doing.
        if status.code() != Some(1) {
            return Err(Error::Died { status: status.to_string(), console: self.console_tail() });
        }
        self.unpack().map_err(Error::Output)?.ok_or_else(|| Error::Died {
            status: "no exit code came out".to_owned(),
            console: self.console_tail(),
        })
    }

    fn command(&self, stderr: &PipeWriter) -> Result<Command, Error> {
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
            .args(["-chardev", "stdio,id=stdout,signal=off"])
            .args(["-chardev", &format!("file,id=stderr,path=/dev/fd/{}", stderr.as_raw_fd())])
            .arg("-chardev")
            .arg(path_option("file,id=archive,path=", &self.directory.join(ARCHIVE)));
        for (name, port) in
            [("stdout", port::STDOUT), ("stderr", port::STDERR), ("archive", port::ARCHIVE)]
        {
            command.args(["-device", &format!("isa-debugcon,iobase={port:#x},chardev={name}")]);
        }
        // QEMU warns about every CPU feature that it does not emulate: of interest if it fails.
        command.stdin(Stdio::null()).stderr(log);
        let stderr = stderr.as_raw_fd();
        // SAFETY: prctl and fcntl with plain numbers are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(move || {
                let is_bound = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0;
                let is_inherited = libc::fcntl(stderr, libc::F_SETFD, 0) == 0;
                if is_bound && is_inherited { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        Ok(command)
    }

    /// Passes the order's standard error on until QEMU ends, which closes it; wakes now and then
    /// for the progress line and the limit.
    fn wait(&self, child: &mut Child, mut stderr: PipeReader) -> Result<ExitStatus, Error> {
        let started = Instant::now();
        let spinner = progress::spinner("lab: the emulated host is running");
        let mut buffer = [0; 4096];
        loop {
            let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
            let ready = match poll(&mut fds, TICK_MS) {
                Ok(count) => count > 0,
                Err(Errno::EINTR) => false,
                Err(errno) => return Err(Error::io("cannot wait for", QEMU)(errno.into())),
            };
            if ready {
                let count =
                    stderr.read(&mut buffer).map_err(Error::io("cannot read from", QEMU))?;
                if count == 0 {
                    spinner.finish_and_clear();
                    return child.wait().map_err(Error::io("cannot wait for", QEMU));
                }
                spinner.suspend(|| io::stderr().write_all(&buffer[..count])).ok();
            }
            let is_late = started.elapsed() > self.lab.timeout;
            if is_late || interrupt::requested() {
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

fn path_option(prefix: &str, path: &Path) -> OsString {
    let mut option = OsString::from(prefix);
    option.push(path);
    option
}
