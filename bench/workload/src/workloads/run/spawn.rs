//! Starting the command and waiting for it.

use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr;
use core::time::Duration;

use super::ends::Ends;
use super::locate::{self, DEFAULT_PATH};

use super::signals::Forwarding;
use crate::sys::{Pipe, check, current_pid, die_with, exit_status, fork, retry};
use crate::{Context, Errno, Error};

unsafe extern "C" {
    /// The environment of this process (environ(7)).
    static environ: *const *const libc::c_char;
}

/// A command that was found, with everything that exec needs.
pub(super) struct Program {
    name: String,
    path: CString,
    arguments: Vec<CString>,
}

/// What a command used, from its `rusage`.
pub(super) struct Usage {
    pub(super) user: Duration,
    pub(super) system: Duration,
    pub(super) resident_bytes: u64,
}

impl Program {
    /// Looks up the program of `command`.
    pub(super) fn locate(command: &[String]) -> Result<Program, Error> {
        let name = command.first().ok_or(Error::NoCommand)?.clone();
        let path = locate::locate(&name)?;
        let argument = |word: &String| CString::new(word.as_str()).map_err(|_| Errno(libc::EINVAL));
        let arguments = command.iter().map(argument).collect::<Result<_, _>>();
        Ok(Program { arguments: arguments.on("argument", &name)?, name, path })
    }

    /// Starts the command and returns once the kernel has accepted it as a program.
    pub(super) fn spawn(
        &self,
        ends: Option<Ends>,
        signals: &Forwarding,
    ) -> Result<libc::pid_t, Error> {
        let argument = |word: &CString| word.as_ptr();
        let arguments: Vec<_> = self.arguments.iter().map(argument).chain([ptr::null()]).collect();
        let environment = environment();
        // Closed by a successful exec; else it carries the error number.
        let refusal = Pipe::new().on("pipe2", "a pipe for the command's start")?;
        let parent = current_pid();
        let child = fork(|| {
            let prepared = signals.end_in_child().and_then(|()| {
                die_with(parent)?;
                ends.as_ref().map_or(Ok(()), Ends::install)
            });
            let errno = match prepared {
                Err(errno) => errno,
                Ok(()) => {
                    // SAFETY: path and strings are NUL-terminated, the vectors NULL-terminated.
                    unsafe {
                        libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr())
                    };
                    Errno::last()
                }
            };
            // The parent learns of it or is gone.
            let _ = refusal.writer.write(&errno.0.to_ne_bytes());
            126
        });
        let child = child.on("fork", &self.name)?;
        // So that the end of what the command writes can be seen.
        drop(ends);
        drop(refusal.writer);
        let mut errno = [0; 4];
        if retry(|| refusal.reader.read(&mut errno)).on("read", "the command's start")? == 0 {
            return Ok(child.pid());
        }
        child.wait().on("waitpid", &self.name)?;
        Err(match Errno(i32::from_ne_bytes(errno)) {
            // The file is there: what is missing is what it needs to be interpreted.
            Errno(libc::ENOENT) => Error::CommandNotFound {
                program: self.name.clone(),
                why: "the interpreter or dynamic loader that it names is missing".into(),
            },
            errno => locate::error(&self.name, errno),
        })
    }
}

/// This process's environment, with a PATH if it has none.
fn environment() -> Vec<*const libc::c_char> {
    let mut environment = Vec::new();
    // SAFETY: read by one thread; nothing here changes the environment.
    let mut entry = unsafe { environ };
    // SAFETY: `environ` is NULL or a NULL-terminated vector, of which the loop stays within.
    while !entry.is_null() && unsafe { !(*entry).is_null() } {
        // SAFETY: as above.
        unsafe {
            environment.push(*entry);
            entry = entry.add(1);
        }
    }
    if locate::search_path().is_none() {
        environment.push(DEFAULT_PATH.as_ptr());
    }
    environment.push(ptr::null());
    environment
}

/// Waits for `child`, and for any orphan that ends before it.
pub(super) fn wait(child: libc::pid_t) -> Result<(i32, Usage), Error> {
    loop {
        if let Reaped::Command(status, usage) = reap(child, 0)? {
            return Ok((status, usage));
        }
    }
}

/// What was waited for.
pub(super) enum Reaped {
    /// The command.
    Command(i32, Usage),
    /// Some other process.
    Orphan,
    /// Nothing has ended.
    Nothing,
}

/// Waits for one process, or with `WNOHANG` only if one has ended. Orphans come to PID 1 alone:
/// anywhere else only `child` is waited for.
pub(super) fn reap(child: libc::pid_t, flags: libc::c_int) -> Result<Reaped, Error> {
    let whom = if current_pid() == 1 { -1 } else { child };
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    let pid = retry(|| {
        // SAFETY: both are valid for writing.
        check(unsafe { libc::wait4(whom, &raw mut status, flags, &raw mut usage) })
    });
    match pid.on("wait4", "the command")? {
        0 => Ok(Reaped::Nothing),
        pid if pid == child => Ok(Reaped::Command(exit_status(status), Usage::from(usage))),
        _ => Ok(Reaped::Orphan),
    }
}

impl From<libc::rusage> for Usage {
    fn from(usage: libc::rusage) -> Usage {
        let duration = |time: libc::timeval| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            // In KiB: getrusage(2).
            resident_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
        }
    }
}
