//! What of the host is nearly used up: where a crowd stops growing, before it hurts the host.
//!
//! Each limit has a margin that is left to the host. Where several control groups or resources bound
//! the same, the first that is reached is named.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use crate::results::Limit;

/// Memory that is left to the host: a tenth of it, but no less than this.
const MEMORY_LEAST_BYTES: u64 = 256 << 20;
/// Share of a limit of processes or files that is left to the host, as a divisor.
const SPARE_SHARE: u64 = 10;
/// Descriptors of this process that are left: a launch needs some.
const DESCRIPTORS_SPARE: u64 = 64;

/// The first limit of the host that has been reached, but for its margin; `None` while there is room.
pub(super) fn reached() -> Option<Limit> {
    memory()
        .or_else(threads)
        .or_else(descriptors)
        .or_else(files)
        .or_else(|| control_group("memory", "memory", ["memory.max", "memory.current"]))
        .or_else(|| {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
            control_group("memory", "memory", names)
        })
        .or_else(|| control_group("pids", "processes", ["pids.max", "pids.current"]))
}

fn limit(cause: &str, why: String) -> Option<Limit> {
    Some(Limit { cause: cause.to_owned(), why })
}

fn memory() -> Option<Limit> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |name: &str| Some(kib(&meminfo, name)? * 1024);
    let (total, available) = (bytes("MemTotal")?, bytes("MemAvailable")?);
    let spare = (total / SPARE_SHARE).max(MEMORY_LEAST_BYTES);
    if available > spare {
        return None;
    }
    let (available, spare) = (available >> 20, spare >> 20);
    limit("memory", format!("{available} MiB of the host are available, {spare} are left to it"))
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

fn threads() -> Option<Limit> {
    let average = fs::read_to_string("/proc/loadavg").ok()?;
    let used: u64 = average.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].into_iter().find_map(|path| {
        let most = number(Path::new(path))?;
        let why = || format!("{used} threads of the {most} of {path}");
        if is_full(used, most, most / SPARE_SHARE) { limit("processes", why()) } else { None }
    })
}

fn descriptors() -> Option<Limit> {
    let most = getrlimit(Resource::RLIMIT_NOFILE).ok()?.0;
    let used = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    if !is_full(used, most, DESCRIPTORS_SPARE) {
        return None;
    }
    limit("descriptors", format!("{used} of this process's {most} (ulimit -n)"))
}

/// Open files of the whole system (Documentation/admin-guide/sysctl/fs.rst).
fn files() -> Option<Limit> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (used, most) = (words.next()?.ok()?, words.nth(1)?.ok()?);
    if !is_full(used, most, most / SPARE_SHARE) {
        return None;
    }
    limit("files", format!("{used} open files of the system's {most}"))
}

fn is_full(used: u64, most: u64, spare: u64) -> bool {
    used.saturating_add(spare) >= most
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The nearest limit of a controller in this process's control groups, up to the root's.
fn control_group(controller: &str, what: &str, [most, used]: [&str; 2]) -> Option<Limit> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut directory = place(&membership, controller)?;
    loop {
        // "max" is no number, and no limit.
        let limits = number(&directory.join(most)).zip(number(&directory.join(used)));
        if let Some((most, used)) = limits
            && is_full(used, most, most / SPARE_SHARE)
        {
            let place = directory.display();
            return limit("cgroup", format!("{used} of {most} for {what} in {place}"));
        }
        if !directory.pop() || !directory.starts_with("/sys/fs/cgroup") {
            return None;
        }
    }
}

/// Where the control group of a controller is: in the unified hierarchy, or in the controller's own
/// (cgroups(7)).
fn place(membership: &str, controller: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == controller) {
            return Some(Path::new("/sys/fs/cgroup").join(controller).join(path));
        }
        if controllers.is_empty() {
            unified = Some(Path::new("/sys/fs/cgroup").join(path));
        }
    }
    unified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_place_is_the_controller_s_own_hierarchy_or_the_unified_one() {
        let hybrid = "4:pids:/a/b\n3:cpu,cpuacct:/c\n0::/d\n";
        assert_eq!(place(hybrid, "pids"), Some("/sys/fs/cgroup/pids/a/b".into()));
        assert_eq!(place(hybrid, "memory"), Some("/sys/fs/cgroup/d".into()));
        assert_eq!(place("0::/\n", "memory"), Some("/sys/fs/cgroup/".into()));
        assert_eq!(place("nonsense", "memory"), None);
    }

    #[test]
    fn test_limit_is_reached_before_it_is() {
        assert!(is_full(90, 100, 10) && is_full(u64::MAX, 1, 0) && !is_full(89, 100, 10));
    }
}
