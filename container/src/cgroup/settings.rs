//! What is written to the control files of a new cgroup.

use std::ffi::{CStr, CString};

use super::limits::{DeviceKind, DeviceRule, IoLimit, Limits, Resources};

/// One control file to write.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) file: CString,
    pub(super) value: String,
    /// Whether the kernel may lack the file.
    pub(super) optional: bool,
}

/// What is written to a new cgroup of this hierarchy.
pub(super) fn settings(
    limits: &Limits,
    resources: &Resources,
    unified: bool,
    controllers: &[&'static str],
) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |file: &CStr, value: String, optional: bool| {
        all.push(Setting { file: file.to_owned(), value, optional });
    };
    for controller in controllers {
        match (*controller, unified) {
            ("memory", true) => {
                if let Some(bytes) = limits.memory_bytes {
                    add(c"memory.max", bytes.to_string(), false);
                }
                match (resources.swap_bytes, limits.memory_bytes) {
                    (Some(bytes), _) => add(c"memory.swap.max", bytes.to_string(), false),
                    (None, Some(_)) => add(c"memory.swap.max", "0".into(), true),
                    (None, None) => {}
                }
                if let Some(bytes) = resources.memory_reservation_bytes {
                    add(c"memory.low", bytes.to_string(), false);
                }
            }
            ("memory", false) => {
                if let Some(bytes) = limits.memory_bytes {
                    add(c"memory.limit_in_bytes", bytes.to_string(), false);
                    // Memory and swap together.
                    let swap = resources.swap_bytes;
                    let both = bytes.saturating_add(swap.unwrap_or(0));
                    add(c"memory.memsw.limit_in_bytes", both.to_string(), swap.is_none());
                }
                if let Some(bytes) = resources.memory_reservation_bytes {
                    add(c"memory.soft_limit_in_bytes", bytes.to_string(), false);
                }
            }
            ("cpu", true) => {
                if let Some(cpu) = limits.cpu {
                    add(c"cpu.max", format!("{} {}", cpu.quota_us, cpu.period_us), false);
                }
                if let Some(weight) = resources.cpu_weight {
                    add(c"cpu.weight", weight.to_string(), false);
                }
            }
            ("cpu", false) => {
                if let Some(cpu) = limits.cpu {
                    add(c"cpu.cfs_period_us", cpu.period_us.to_string(), false);
                    add(c"cpu.cfs_quota_us", cpu.quota_us.to_string(), false);
                }
                if let Some(weight) = resources.cpu_weight {
                    // 100 is what others have; it is called 1024 here.
                    add(c"cpu.shares", (weight * 1024 / 100).max(2).to_string(), false);
                }
            }
            ("pids", _) => {
                if let Some(pids) = limits.pids {
                    add(c"pids.max", pids.to_string(), false);
                }
            }
            ("io", unified) => {
                for limit in &resources.io {
                    io(limit, unified, &mut add);
                }
            }
            ("cpuset", _) => {
                if let Some(cpus) = &resources.cpus {
                    add(c"cpuset.cpus", cpus.clone(), false);
                }
                if let Some(mems) = &resources.mems {
                    add(c"cpuset.mems", mems.clone(), false);
                }
            }
            ("devices", false) => {
                add(c"devices.deny", "a".into(), false);
                for rule in resources.devices.iter().flatten() {
                    if rule.is_about_all() {
                        let file = if rule.allow { c"devices.allow" } else { c"devices.deny" };
                        add(file, "a".into(), false);
                        continue;
                    }
                    let file = if rule.allow { c"devices.allow" } else { c"devices.deny" };
                    device(rule).into_iter().for_each(|line| add(file, line, false));
                }
                for line in ["b *:* m", "c *:* m"] {
                    add(c"devices.allow", line.into(), false);
                }
            }
            _ => {}
        }
    }
    if unified {
        for (file, value) in &resources.files {
            // A name with a zero byte is refused before.
            if let Ok(file) = CString::new(file.as_str()) {
                add(&file, value.clone(), false);
            }
        }
    }
    all
}

/// The first rule, from 1, that version 1 cannot express.
pub(super) fn inexpressible(rules: &[DeviceRule]) -> Option<usize> {
    let takes_part = |(index, rule): &(usize, &DeviceRule)| {
        let earlier = rules.get(..*index).unwrap_or_default();
        let same = |given: &DeviceRule| DeviceRule { allow: false, ..*given } == **rule;
        !rule.allow
            && !rule.is_about_all()
            && earlier.iter().any(|given| given.allow && given.overlaps(rule) && !same(given))
    };
    rules.iter().enumerate().find(takes_part).map(|(index, _)| index + 1)
}

fn io(limit: &IoLimit, unified: bool, add: &mut impl FnMut(&CStr, String, bool)) {
    let device = format!("{}:{}", limit.major, limit.minor);
    let all = [
        ("rbps", c"blkio.throttle.read_bps_device", limit.read_bytes_per_s),
        ("wbps", c"blkio.throttle.write_bps_device", limit.write_bytes_per_s),
        ("riops", c"blkio.throttle.read_iops_device", limit.reads_per_s),
        ("wiops", c"blkio.throttle.write_iops_device", limit.writes_per_s),
    ];
    for (key, file, value) in all {
        match value {
            Some(value) if unified => add(c"io.max", format!("{device} {key}={value}"), false),
            Some(value) => add(file, format!("{device} {value}"), false),
            None => {}
        }
    }
}

/// Lines as `Documentation/admin-guide/cgroup-v1/devices.rst` has them.
fn device(rule: &DeviceRule) -> Vec<String> {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let access: String = [(rule.read, 'r'), (rule.write, 'w')]
        .into_iter()
        .filter_map(|(asked, letter)| asked.then_some(letter))
        .collect();
    if access.is_empty() {
        return Vec::new();
    }
    let kinds = match rule.kind {
        None => &["b", "c"][..],
        Some(DeviceKind::Block) => &["b"],
        Some(DeviceKind::Character) => &["c"],
    };
    let line =
        |kind: &&str| format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
    kinds.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::limits::CpuQuota;
    use super::*;

    #[test]
    fn test_settings_of_v2_and_v1() {
        let limits = Limits {
            memory_bytes: Some(4096),
            cpu: Some(CpuQuota { quota_us: 5000, period_us: 100_000 }),
            pids: Some(7),
            accounting: false,
        };
        let list = |unified| -> Vec<String> {
            settings(&limits, &Resources::default(), unified, &["memory", "cpu", "pids"])
                .iter()
                .map(|s| format!("{}={}", s.file.to_string_lossy(), s.value))
                .collect()
        };
        assert_eq!(
            list(true),
            ["memory.max=4096", "memory.swap.max=0", "cpu.max=5000 100000", "pids.max=7"]
        );
        assert_eq!(
            list(false),
            [
                "memory.limit_in_bytes=4096",
                "memory.memsw.limit_in_bytes=4096",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=5000",
                "pids.max=7"
            ]
        );
    }

    #[test]
    fn test_inexpressible_is_what_takes_back_a_part() {
        let rule = |allow, minor| DeviceRule {
            allow,
            kind: Some(DeviceKind::Character),
            major: Some(1),
            minor,
            read: true,
            write: true,
        };
        assert_eq!(inexpressible(&[rule(false, Some(5)), rule(true, None)]), None);
        assert_eq!(inexpressible(&[rule(true, None), rule(false, None)]), None);
        assert_eq!(inexpressible(&[rule(true, None), rule(false, Some(5))]), Some(2));
        let all = DeviceRule { kind: None, major: None, ..rule(false, None) };
        assert_eq!(inexpressible(&[rule(true, None), all]), None);
    }

    #[test]
    fn test_settings_of_io_and_devices() {
        let io = IoLimit { major: 8, write_bytes_per_s: Some(9), ..IoLimit::default() };
        let rule = DeviceRule {
            allow: true,
            kind: None,
            major: Some(1),
            minor: None,
            read: true,
            write: false,
        };
        let resources =
            Resources { io: vec![io], devices: Some(vec![rule]), ..Resources::default() };
        let list = |unified| -> Vec<String> {
            settings(&Limits::default(), &resources, unified, &["io", "devices"])
                .iter()
                .map(|s| format!("{}={}", s.file.to_string_lossy(), s.value))
                .collect()
        };
        assert_eq!(list(true), ["io.max=8:0 wbps=9"]);
        assert_eq!(
            list(false),
            [
                "blkio.throttle.write_bps_device=8:0 9",
                "devices.deny=a",
                "devices.allow=b 1:* r",
                "devices.allow=c 1:* r",
                "devices.allow=b *:* m",
                "devices.allow=c *:* m"
            ]
        );
    }
}
