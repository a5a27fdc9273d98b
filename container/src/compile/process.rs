//! The process itself: session, limits, user, privileges, and the program.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::mount::read_only;
use super::{Compiled, Given, files, init, privileges};
use crate::error::{Error, Stage};
use crate::script::{Arg, Expected, Reg, Script};
use crate::seccomp::SeccompFilter;
use crate::spec::{Program, Spec};

const SECCOMP_SET_MODE_FILTER: usize = 1;
/// `poll` for readability in the upper half of a `pollfd`; the descriptor is the lower.
pub(crate) const POLL_READABLE: usize = (libc::POLLIN as usize) << 32;

/// A session of its own, and exact modes for what is made.
pub(super) fn begin(script: &mut Script, session: bool) {
    if session {
        script.call(Stage::Process, "session", libc::SYS_setsid, &[]);
    }
    script.call(Stage::Process, "umask", libc::SYS_umask, &[0usize.into()]);
}

/// What remains to be done after the box is built.
pub(super) struct Ending {
    seccomp: Option<SeccompFilter>,
    no_new_privs: bool,
    init: bool,
}

impl Ending {
    pub(super) fn new(spec: &Spec) -> Ending {
        Ending { seccomp: spec.seccomp.clone(), no_new_privs: spec.no_new_privs, init: spec.init }
    }

    /// Everything up to the passing of descriptors.
    pub(super) fn before_descriptors(
        &self,
        script: &mut Script,
        spec: &Spec,
        given: &Given,
    ) -> Result<(), Error> {
        for limit in &spec.rlimits {
            let pair = script.arena.words([limit.soft, limit.hard]);
            script.call(
                Stage::ResourceLimit,
                format!("number {} to {}:{}", limit.resource, limit.soft, limit.hard),
                libc::SYS_prlimit64,
                &[0usize.into(), limit.resource.into(), pair.into(), 0usize.into()],
            );
        }
        let cwd = script.arena.text("cwd", spec.cwd.as_os_str().as_bytes())?;
        let target = spec.cwd.display().to_string();
        script.call(Stage::WorkingDirectory, target, libc::SYS_chdir, &[cwd.into()]);
        signals(script, self.init);
        privileges::bound(script, spec);
        // Without no_new_privs loading a filter takes CAP_SYS_ADMIN.
        if !self.no_new_privs {
            self.load_filter(script)?;
        }
        privileges::change(script, spec)?;
        // After the change of user, which resets it.
        die_with_parent(script, given.parent);
        script.call(Stage::Process, "umask", libc::SYS_umask, &[spec.umask.into()]);
        Ok(())
    }

    /// The filter, then the program.
    pub(super) fn execute(
        &self,
        compiled: &mut Compiled,
        program: Program,
        args: &[OsString],
        env: &[OsString],
    ) -> Result<(), Error> {
        if self.no_new_privs {
            self.load_filter(&mut compiled.script)?;
        }
        if let (true, Program::Command(command)) = (self.init, &program) {
            let args = init::arguments(candidates(command, env), args);
            return execute_file(compiled, init::program()?, &args, env);
        }
        let script = &mut compiled.script;
        match program {
            Program::Caller => {}
            Program::File(file) => execute_file(compiled, read_only(file), args, env)?,
            Program::Command(command) => {
                let argv = strings(script, "args", args)?;
                let envp = strings(script, "env", env)?;
                for path in candidates(&command, env) {
                    let address = script.arena.text("program", path.as_bytes())?;
                    script
                        .call(
                            Stage::Execute,
                            path.to_string_lossy(),
                            libc::SYS_execve,
                            &[address.into(), argv.into(), envp.into()],
                        )
                        .tolerate(&[libc::ENOENT, libc::ENOTDIR, libc::EACCES]);
                }
            }
        }
        Ok(())
    }

    fn load_filter(&self, script: &mut Script) -> Result<(), Error> {
        let Some(filter) = &self.seccomp else { return Ok(()) };
        filter.check()?;
        let instructions = script.arena.words(filter.words());
        // struct sock_fprog: 16-bit length, pointer
        let program = script.arena.words([filter.instructions() as u64, instructions as u64]);
        script.call(
            Stage::Seccomp,
            "",
            libc::SYS_seccomp,
            &[SECCOMP_SET_MODE_FILTER.into(), filter.flags().into(), program.into()],
        );
        Ok(())
    }
}

/// Executes an open file.
fn execute_file(
    compiled: &mut Compiled,
    file: OwnedFd,
    args: &[OsString],
    env: &[OsString],
) -> Result<(), Error> {
    let file = files::above(file, compiled.highest)?;
    let script = &mut compiled.script;
    let argv = strings(script, "args", args)?;
    let envp = strings(script, "env", env)?;
    let empty = script.arena.literal(c"");
    script.call(
        Stage::Execute,
        "the given file",
        libc::SYS_execveat,
        &[
            file.as_raw_fd().into(),
            empty.into(),
            argv.into(),
            envp.into(),
            libc::AT_EMPTY_PATH.into(),
        ],
    );
    compiled.kept.push(file);
    Ok(())
}

/// Signals that the caller ignores (Rust's runtime ignores SIGPIPE) would stay ignored across
/// exec, and all are blocked until here.
fn signals(script: &mut Script, stays_blocked: bool) {
    for signal in (1..=64).filter(|signal| is_ignored(*signal)) {
        // The kernel's sigaction: handler, flags, restorer, mask.
        let default = script.arena.words([0, 0, 0, 0]);
        script.call(
            Stage::Process,
            format!("signal {signal}"),
            libc::SYS_rt_sigaction,
            &[signal.into(), default.into(), 0usize.into(), 8usize.into()],
        );
    }
    if stays_blocked {
        // A first process is not sent what it neither handles nor blocks: an init that has not begun
        // would miss it.
        return;
    }
    let none = script.arena.words([0]);
    script.call(
        Stage::Process,
        "signal mask",
        libc::SYS_rt_sigprocmask,
        &[libc::SIG_SETMASK.into(), none.into(), 0usize.into(), 8usize.into()],
    );
}

/// Asks the kernel itself: C libraries hide the signals they use (32 to 34), which glibc's
/// `posix_spawn` leaves ignored.
fn is_ignored(signal: i32) -> bool {
    // The kernel's sigaction: handler, flags, restorer, mask.
    let mut action = [0usize; 4];
    // SAFETY: only asks; `action` has the size of the kernel's structure. Zeroed, it means
    // "default".
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, 0usize, action.as_mut_ptr(), 8usize);
    }
    action.first() == Some(&libc::SIG_IGN)
}

pub(super) fn die_with_parent(script: &mut Script, parent: Reg) {
    script.call(
        Stage::ParentDeath,
        "signal at its death",
        libc::SYS_prctl,
        &[
            libc::PR_SET_PDEATHSIG.into(),
            libc::SIGKILL.into(),
            0usize.into(),
            0usize.into(),
            0usize.into(),
        ],
    );
    // It may have died before that: its pidfd is readable then.
    script
        .call(
            Stage::ParentDeath,
            "it lives",
            libc::SYS_poll,
            &[Arg::AddressOf(parent), 1usize.into(), 0usize.into()],
        )
        .expected = Expected::Zero;
}

/// Nothing but the execution of an open file.
pub(crate) fn bare(program: BorrowedFd<'_>, args: &[OsString]) -> Result<Script, Error> {
    let mut script = Script::default();
    let argv = strings(&mut script, "args", args)?;
    let envp = script.arena.pointers(&[]);
    let empty = script.arena.literal(c"");
    script.call(
        Stage::Execute,
        "the given file",
        libc::SYS_execveat,
        &[
            program.as_raw_fd().into(),
            empty.into(),
            argv.into(),
            envp.into(),
            libc::AT_EMPTY_PATH.into(),
        ],
    );
    Ok(script)
}

fn strings(script: &mut Script, field: &'static str, list: &[OsString]) -> Result<usize, Error> {
    let addresses = list
        .iter()
        .map(|text| script.arena.text(field, text.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(script.arena.pointers(&addresses))
}

/// The value of `PATH` in an environment; without one the kernel's usual.
pub(crate) fn search_path(env: &[OsString]) -> &OsStr {
    env.iter()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="))
        .map_or(OsStr::new("/bin:/usr/bin"), OsStr::from_bytes)
}

/// Where the command may be: itself if it has a slash, else in each directory of the `PATH`.
fn candidates(command: &OsStr, env: &[OsString]) -> Vec<OsString> {
    if command.as_bytes().contains(&b'/') || command.is_empty() {
        return vec![command.to_owned()];
    }
    search_path(env)
        .as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| {
            let mut path = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
            path.push(b'/');
            path.extend(command.as_bytes());
            OsString::from_vec(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_candidates_search_path_only_for_names() {
        let env = [OsString::from("A=1"), "PATH=/a::/b".into()];
        assert_eq!(candidates(OsStr::new("x"), &env), ["/a/x", "./x", "/b/x"]);
        assert_eq!(candidates(OsStr::new("./x"), &env), ["./x"]);
        assert_eq!(candidates(OsStr::new(""), &env), [""]);
        assert_eq!(search_path(&[]), "/bin:/usr/bin");
    }

    #[test]
    fn test_is_ignored_sigpipe_of_rust_runtime() {
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGTERM));
    }
}
