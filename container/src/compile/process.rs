//! The process itself: session, limits, user, privileges, and the program.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::mount::read_only;
use super::{Compiled, Given, files};
use crate::capability::Capabilities;
use crate::error::{Error, Stage};
use crate::script::{Arg, Script};
use crate::seccomp::SeccompFilter;
use crate::spec::{Program, Spec};

/// `_LINUX_CAPABILITY_VERSION_3`, for the calling thread.
const CAPABILITY_HEADER: u64 = 0x2008_0522;
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
}

impl Ending {
    pub(super) fn new(spec: &Spec) -> Ending {
        Ending { seccomp: spec.seccomp.clone(), no_new_privs: spec.no_new_privs }
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
        signals(script);
        // It bounds what an execution may add, which no_new_privs keeps at nothing; and code of the
        // caller's executes nothing, so that 41 calls would change nothing.
        let bounded = self.no_new_privs && matches!(spec.program, Program::Caller);
        if let Some(kept) = spec.capabilities.filter(|_| !bounded) {
            bounding(script, kept);
        }
        // Without no_new_privs loading a filter takes CAP_SYS_ADMIN.
        if !self.no_new_privs {
            self.load_filter(script)?;
        }
        if let Some(user) = &spec.user {
            let mut packed: Vec<u64> = Vec::new();
            for pair in user.groups.chunks(2) {
                let low = pair.first().copied().unwrap_or(0);
                let high = pair.get(1).copied().unwrap_or(0);
                packed.push(u64::from(low) | u64::from(high) << 32);
            }
            let groups = script.arena.words(packed);
            let (uid, gid): (Arg, Arg) = (user.uid.into(), user.gid.into());
            script.call(
                Stage::User,
                "supplementary groups",
                libc::SYS_setgroups,
                &[user.groups.len().into(), groups.into()],
            );
            let target = format!("group {}", user.gid);
            script.call(Stage::User, target, libc::SYS_setresgid, &[gid, gid, gid]);
            let target = format!("user {}", user.uid);
            script.call(Stage::User, target, libc::SYS_setresuid, &[uid, uid, uid]);
        }
        if let Some(kept) = spec.capabilities {
            // The change of user has already taken all from anyone but root.
            let root = spec.user.as_ref().is_none_or(|user| user.uid == 0);
            set_capabilities(script, if root { kept } else { Capabilities::NONE })?;
        }
        if self.no_new_privs {
            script.call(
                Stage::Privileges,
                "no_new_privs",
                libc::SYS_prctl,
                &[
                    libc::PR_SET_NO_NEW_PRIVS.into(),
                    1usize.into(),
                    0usize.into(),
                    0usize.into(),
                    0usize.into(),
                ],
            );
        }
        // After the change of user, which resets it.
        die_with_parent(script, given);
        script.call(Stage::Process, "umask", libc::SYS_umask, &[0o022usize.into()]);
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
        let script = &mut compiled.script;
        let argv = strings(script, "args", args)?;
        let envp = strings(script, "env", env)?;
        match program {
            Program::Caller => {}
            Program::File(file) => {
                let file = files::above(read_only(file).as_fd(), compiled.highest)?;
                let empty = script.arena.literal(c"");
                let fd = file.as_raw_fd();
                compiled.kept.push(file);
                script.call(
                    Stage::Execute,
                    "the given file",
                    libc::SYS_execveat,
                    &[
                        fd.into(),
                        empty.into(),
                        argv.into(),
                        envp.into(),
                        libc::AT_EMPTY_PATH.into(),
                    ],
                );
            }
            Program::Command(command) => {
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
            &[SECCOMP_SET_MODE_FILTER.into(), 0usize.into(), program.into()],
        );
        Ok(())
    }
}

/// Signals that the caller ignores (Rust's runtime ignores SIGPIPE) would stay ignored across
/// exec, and all are blocked until here.
fn signals(script: &mut Script) {
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

fn bounding(script: &mut Script, kept: Capabilities) {
    for number in 0..64usize {
        // Numbers that this kernel does not have, and those already gone, need no dropping.
        // SAFETY: plain numbers.
        let present = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } == 1;
        if present && kept.bits() >> number & 1 == 0 {
            script.call(
                Stage::Privileges,
                format!("capability {number} of the bounding set"),
                libc::SYS_prctl,
                &[
                    libc::PR_CAPBSET_DROP.into(),
                    number.into(),
                    0usize.into(),
                    0usize.into(),
                    0usize.into(),
                ],
            );
        }
    }
}

/// Permitted and effective; the emptied inheritable set takes the ambient one with it.
fn set_capabilities(script: &mut Script, kept: Capabilities) -> Result<(), Error> {
    // What the caller does not have it cannot keep.
    let kept = kept.bits() & permitted()?;
    let (low, high) = (kept & 0xffff_ffff, kept >> 32);
    let header = script.arena.words([CAPABILITY_HEADER]);
    // Two structures of effective, permitted, inheritable, 32 bits each.
    let data = script.arena.words([low | low << 32, high << 32, high]);
    script.call(Stage::Privileges, "capabilities", libc::SYS_capset, &[header.into(), data.into()]);
    Ok(())
}

/// The caller's permitted set.
fn permitted() -> Result<u64, Error> {
    let header = [CAPABILITY_HEADER];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the sizes of version 3.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if result < 0 {
        return Err(Error::last("read the caller's capabilities"));
    }
    let [_, low, _, _, high, _] = data;
    Ok(u64::from(low) | u64::from(high) << 32)
}

fn die_with_parent(script: &mut Script, given: &Given) {
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
            &[Arg::AddressOf(given.parent), 1usize.into(), 0usize.into()],
        )
        .zero_or_fail = true;
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
