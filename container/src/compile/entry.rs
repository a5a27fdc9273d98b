//! The way into namespaces that are there already, and what a new process is before all else.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Error, Stage};
use crate::namespace::{Joined, NamespaceKind};
use crate::script::{Arg, Script};
use crate::spec::Spec;

/// The porter's calls: what must be done before the child is made. `users` is the user namespace
/// made for it.
pub(super) fn enter(
    script: &mut Script,
    spec: &Spec,
    users: Option<&OwnedFd>,
) -> Result<(), Error> {
    let is_user = |joined: &&Joined| joined.kind == NamespaceKind::User;
    let joined_users = spec.joined.iter().find(is_user).map(|joined| &joined.file);
    let users = users.or(joined_users);
    let has_pid = spec.joined.iter().any(|joined| joined.kind == NamespaceKind::Pid);
    if users.is_none() && !has_pid {
        return join(script, spec, |kind| kind != NamespaceKind::User);
    }
    // Inherited; the file is not the child's own any more once it is in a user namespace.
    oom_score(script, spec)?;
    let join_users = |script: &mut Script| {
        if let Some(fd) = users {
            set_namespace(script, fd.as_raw_fd(), NamespaceKind::User);
        }
    };
    // Root enters what is the host's before it gives up its rights there; others have their rights
    // only afterwards.
    // SAFETY: no arguments, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        join_users(script);
    }
    join(script, spec, |kind| kind != NamespaceKind::User)?;
    if is_root {
        join_users(script);
    }
    script.end_entry();
    Ok(())
}

fn join(
    script: &mut Script,
    spec: &Spec,
    wanted: impl Fn(NamespaceKind) -> bool,
) -> Result<(), Error> {
    for joined in spec.joined.iter().filter(|joined| wanted(joined.kind)) {
        set_namespace(script, joined.file.as_raw_fd(), joined.kind);
    }
    Ok(())
}

fn set_namespace(script: &mut Script, fd: i32, kind: NamespaceKind) {
    let arguments = [fd.into(), kind.flag().into()];
    script.call(Stage::Namespace, kind.name(), libc::SYS_setns, &arguments);
}

/// How readily the kernel kills it.
pub(super) fn oom_score(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    let Some(score) = spec.oom_score_adj else { return Ok(()) };
    if !(-1000..=1000).contains(&score) {
        return Err(Error::Invalid {
            field: "oom_score_adj",
            problem: format!("{score} is out of range"),
            remedy: "use -1000 to 1000",
        });
    }
    let value = score.to_string();
    script.write_file(Stage::Process, "/proc/self/oom_score_adj", value.as_bytes())
}

/// Offsets of the clocks of the time namespace that the program will be in.
pub(super) fn clocks(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    let offsets = spec.time_offsets;
    for (clock, seconds, ns) in [
        ("monotonic", offsets.monotonic_s, offsets.monotonic_ns),
        ("boottime", offsets.boottime_s, offsets.boottime_ns),
    ] {
        if (seconds, ns) != (0, 0) {
            let line = format!("{clock} {seconds} {ns}");
            script.write_file(Stage::Clock, "/proc/self/timens_offsets", line.as_bytes())?;
        }
    }
    Ok(())
}

/// Becomes root of the user namespace it is in; the caller's own ids may not exist there.
pub(super) fn become_root(script: &mut Script) {
    let zero: Arg = 0usize.into();
    // Refused where groups cannot be given up: those of the caller stay.
    script
        .call(Stage::User, "no supplementary groups", libc::SYS_setgroups, &[zero, zero])
        .tolerate(&[libc::EPERM]);
    let all = [zero, zero, zero];
    // A map without user 0 leaves it as it is.
    script
        .call(Stage::User, "group 0 of the user namespace", libc::SYS_setresgid, &all)
        .tolerate(&[libc::EINVAL]);
    script
        .call(Stage::User, "user 0 of the user namespace", libc::SYS_setresuid, &all)
        .tolerate(&[libc::EINVAL]);
}
