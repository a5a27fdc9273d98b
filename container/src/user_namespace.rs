//! Making a user namespace that boxes are started in.
//!
//! It is made once, when a spec is prepared: its id maps are written by its maker or by the set-uid
//! helpers of the system (`newuidmap(1)`), neither of which a start has time for. All boxes of one
//! `Prepared` share it; what else they have is each one's own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use crate::error::Error;
use crate::namespace::{IdMap, UserNamespace};

/// Subordinate ids that a user may map, `subuid(5)`.
const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

impl UserNamespace {
    /// The caller as root of the box, and nobody else: what anyone may have.
    #[must_use]
    pub fn own() -> UserNamespace {
        // SAFETY: no arguments, cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let single = |outside| vec![IdMap { inside: 0, outside, count: 1 }];
        UserNamespace { uids: single(uid), gids: single(gid) }
    }

    /// The caller as root of the box, and as its other users and groups those that `/etc/subuid` and
    /// `/etc/subgid` give the caller; `None` if they give none, or the helpers that map them
    /// (`newuidmap`, `newgidmap`) are missing.
    #[must_use]
    pub fn subordinate() -> Option<UserNamespace> {
        let own = UserNamespace::own();
        let has = |helper: &str| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|directory| directory.join(helper).is_file())
        };
        if !has("newuidmap") || !has("newgidmap") {
            return None;
        }
        let uid = own.uids.first()?.outside;
        let name = user_name(uid);
        let [uids, gids] = SUBORDINATE.map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            subordinate_range(&text, uid, name.as_deref())
        });
        let with = |first: Vec<IdMap>, (outside, count)| {
            first.into_iter().chain([IdMap { inside: 1, outside, count }]).collect()
        };
        Some(UserNamespace { uids: with(own.uids, uids?), gids: with(own.gids, gids?) })
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |problem: String| Error::Invalid {
            field: "user_namespace",
            problem,
            remedy: "map at least one user and one group, each id once",
        };
        for (what, maps) in [("user", &self.uids), ("group", &self.gids)] {
            if maps.is_empty() {
                return Err(invalid(format!("no {what} is mapped")));
            }
            let wraps = |first: u32, count: u32| first.checked_add(count).is_none();
            let bad =
                |m: &IdMap| m.count == 0 || wraps(m.inside, m.count) || wraps(m.outside, m.count);
            if let Some(map) = maps.iter().find(|map| bad(map)) {
                return Err(invalid(format!("a range of {} {what}s", map.count)));
            }
        }
        Ok(())
    }

    /// Makes it.
    pub(crate) fn make(&self) -> Result<OwnedFd, Error> {
        self.check()?;
        let holder = Holder::begin()?;
        let pid = holder.0;
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        self.map(pid)?;
        File::open(proc("ns/user")).map(OwnedFd::from).map_err(|source| Error::Path {
            role: "user namespace",
            path: proc("ns/user").into(),
            source,
            remedy: "mount /proc on the host",
        })
    }

    fn map(&self, pid: i32) -> Result<(), Error> {
        let privileged = may_map_anything();
        let own = UserNamespace::own();
        if !privileged && self.gids == own.gids {
            // Otherwise a group that is held against its members could be left.
            write(pid, "setgroups", "deny")?;
        }
        let text = |maps: &[IdMap]| {
            maps.iter().map(|m| format!("{} {} {}\n", m.inside, m.outside, m.count)).collect()
        };
        let kinds = [
            ("uid_map", "newuidmap", &self.uids, &own.uids),
            ("gid_map", "newgidmap", &self.gids, &own.gids),
        ];
        for (file, helper, maps, own) in kinds {
            if privileged || maps == own {
                let text: String = text(maps);
                write(pid, file, &text)?;
            } else {
                help(helper, pid, maps)?;
            }
        }
        Ok(())
    }
}

/// Whether the caller may map any id: it has CAP_SETUID and CAP_SETGID.
fn may_map_anything() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let needed = 1 << 6 | 1 << 7;
    bits & needed == needed
}

fn write(pid: i32, file: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).map_err(|source| Error::Path {
        role: "id map of the user namespace",
        path: path.into(),
        source,
        remedy: "map ids that are the caller's own, or let root give it more in /etc/subuid and \
                 /etc/subgid",
    })
}

/// Has a set-uid helper write a map.
fn help(helper: &'static str, pid: i32, maps: &[IdMap]) -> Result<(), Error> {
    let words = maps.iter().flat_map(|m| [m.inside, m.outside, m.count]);
    let output =
        Command::new(helper).arg(pid.to_string()).args(words.map(|n| n.to_string())).output();
    let source = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(source) => source,
    };
    Err(Error::Path {
        role: "helper that maps subordinate ids",
        path: helper.into(),
        source,
        remedy: "install it (Debian: uidmap) and give the caller ids in /etc/subuid and /etc/subgid",
    })
}

/// A process that holds the new namespace open until it is dropped.
struct Holder(i32);

impl Holder {
    fn begin() -> Result<Holder, Error> {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: a fork whose child makes system calls only, and no call of the C library.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } as i32;
        match pid {
            0 => loop {
                // SAFETY: plain numbers. It waits to be killed, by its parent's end at the latest.
                unsafe {
                    libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::syscall(libc::SYS_pause);
                }
            },
            1.. => Ok(Holder(pid)),
            _ => Err(user_namespace_error(io::Error::last_os_error())),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn user_namespace_error(source: io::Error) -> Error {
    let remedy = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "let users make user namespaces (kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0), or run as root"
        }
        Some(libc::ENOSPC | libc::EUSERS) => "raise /proc/sys/user/max_user_namespaces",
        _ => "see the system's error",
    };
    Error::Clone { source, remedy }
}

fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The first range of `user:first:count` lines that is this user's.
fn subordinate_range(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let user = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (user.parse() == Ok(uid) || Some(user) == name).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_subordinate_range_by_name_and_number() {
        let text = "alice:100000:65536\n1001:200000:10\nbroken\nbob:x:1\n";
        assert_eq!(subordinate_range(text, 7, Some("alice")), Some((100_000, 65536)));
        assert_eq!(subordinate_range(text, 1001, None), Some((200_000, 10)));
        assert_eq!(subordinate_range(text, 8, Some("bob")), None);
    }

    #[test]
    fn test_check_refuses_empty_and_wrapping_maps() {
        let map = |outside, count| vec![IdMap { inside: 0, outside, count }];
        for (uids, gids) in [
            (vec![], map(0, 1)),
            (map(0, 1), vec![]),
            (map(u32::MAX, 2), map(0, 1)),
            (map(0, 0), map(0, 1)),
        ] {
            let error = UserNamespace { uids, gids }.make().unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "user_namespace", .. }), "{error}");
        }
    }
}
