//! Names of cgroups, from which the next run knows whose they were.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process that made a cgroup. A pid alone is soon reused; with the start time it is unique,
/// and only within its pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub(crate) start_ticks: u64,
    /// Inode of `/proc/self/ns/pid`.
    pub(crate) pid_namespace: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn own() -> io::Result<Owner> {
        let pid = std::process::id();
        let start_ticks = start_ticks(pid)?
            .ok_or_else(|| io::Error::other("this process is missing in /proc"))?;
        Ok(Owner { pid, start_ticks, pid_namespace: pid_namespace()? })
    }

    /// Whether the owner still lives; `None` if it is of another pid namespace, where this one
    /// cannot look.
    pub(crate) fn lives(&self) -> io::Result<Option<bool>> {
        if self.pid_namespace != pid_namespace()? {
            return Ok(None);
        }
        Ok(Some(start_ticks(self.pid)? == Some(self.start_ticks)))
    }
}

fn pid_namespace() -> io::Result<u64> {
    static INODE: OnceLock<u64> = OnceLock::new();
    if let Some(inode) = INODE.get() {
        return Ok(*inode);
    }
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid")?);
    Ok(*INODE.get_or_init(|| inode))
}

/// When process `pid` started; `None` if there is none, or only its remains.
pub(crate) fn start_ticks(pid: u32) -> io::Result<Option<u64>> {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    Ok(parse_stat(&text))
}

/// The command in field 2 may hold spaces and parentheses: only what follows the last `)` counts.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // Field 3; a zombie will not come back.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A name without allocation, for it is made on the timed path.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; 96],
    length: usize,
}

impl Name {
    /// The next name of this process: `tare-<pid>-<start ticks>-<pid namespace>-<n>`.
    pub(crate) fn next(owner: &Owner) -> Name {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let Owner { pid, start_ticks, pid_namespace } = owner;
        let mut name = Name { bytes: [0; 96], length: 0 };
        // Four numbers of at most 20 digits and the rest fit: 5 + 80 + 3 < 96.
        let _ = write!(name, "tare-{pid}-{start_ticks}-{pid_namespace}-{n}");
        name
    }

    pub(crate) fn as_str(&self) -> &str {
        self.bytes
            .get(..self.length)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// With a terminating zero, as a system call wants it.
    pub(crate) fn as_c_str(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// Who made the cgroup called `name`; `None` if that is not one of ours.
    pub(crate) fn owner(name: &str) -> Option<Owner> {
        let mut parts = name.strip_prefix("tare-")?.split('-');
        let owner = Owner {
            pid: parts.next()?.parse().ok()?,
            start_ticks: parts.next()?.parse().ok()?,
            pid_namespace: parts.next()?.parse().ok()?,
        };
        let _number: u64 = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(owner)
    }
}

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // One byte stays zero.
        if end >= self.bytes.len() {
            return Err(fmt::Error);
        }
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_name_tells_its_owner() {
        let owner = Owner::own().unwrap();
        let name = Name::next(&owner);
        assert_eq!(Name::owner(name.as_str()), Some(owner));
        assert_eq!(name.as_c_str().to_str().unwrap(), name.as_str());
        assert_eq!(owner.lives().unwrap(), Some(true));
        let earlier = Owner { start_ticks: owner.start_ticks + 1, ..owner };
        assert_eq!(earlier.lives().unwrap(), Some(false));
        let elsewhere = Owner { pid_namespace: 1, ..owner };
        assert_eq!(elsewhere.lives().unwrap(), None);
    }

    #[test]
    fn test_name_longest_fits() {
        let owner = Owner { pid: u32::MAX, start_ticks: u64::MAX, pid_namespace: u64::MAX };
        assert_eq!(Name::owner(Name::next(&owner).as_str()), Some(owner));
    }

    #[test]
    fn test_owner_of_foreign_name_returns_none() {
        for name in
            ["tare", "tare-1", "tare-1-2-3", "tare-1-2-3-4-5", "tare-a-2-3-4", "docker-1-2-3-4"]
        {
            assert_eq!(Name::owner(name), None, "{name}");
        }
    }

    #[test]
    fn test_parse_stat_with_hostile_command_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        assert_eq!(parse_stat(&format!("5 (a) b) {tail}")), Some(777));
        assert_eq!(parse_stat("5 (a) Z 1 1"), None);
        assert_eq!(parse_stat("garbage"), None);
        assert_eq!(parse_stat("5 (a) S 1"), None);
    }
}
