//! `linux.resources`.

use oci_spec::runtime;

use super::error::{OciError, invalid, unsupported};
use crate::cgroup::{CpuQuota, DeviceKind, DeviceRule, IoLimit};
use crate::spec::Spec;

pub(super) fn resources(asked: &runtime::LinuxResources, spec: &mut Spec) -> Result<(), OciError> {
    if let Some(memory) = asked.memory() {
        memory_of(memory, spec)?;
    }
    if let Some(cpu) = asked.cpu() {
        cpu_of(cpu, spec)?;
    }
    if let Some(pids) = asked.pids() {
        // 0 and less are no limit.
        spec.limits.pids = u64::try_from(pids.limit()).ok().filter(|limit| *limit > 0);
    }
    if let Some(io) = asked.block_io() {
        io_of(io, spec)?;
    }
    if let Some(rules) = asked.devices() {
        spec.resources.devices = Some(rules.iter().map(device).collect::<Result<_, _>>()?);
    }
    for (file, value) in asked.unified().iter().flatten() {
        let plain = |c: char| c.is_ascii_lowercase() || matches!(c, '.' | '_');
        if !file.contains('.') || file.contains("..") || !file.chars().all(plain) {
            let problem = format!("{file:?} is no control file");
            return Err(invalid("linux.resources.unified", problem));
        }
        spec.resources.files.push((file.clone(), value.clone()));
    }
    spec.resources.files.sort();
    Ok(())
}

/// -1 and less is no limit.
fn limit(value: Option<i64>) -> Option<u64> {
    value.and_then(|value| u64::try_from(value).ok())
}

fn memory_of(memory: &runtime::LinuxMemory, spec: &mut Spec) -> Result<(), OciError> {
    spec.limits.memory_bytes = limit(memory.limit()).filter(|bytes| *bytes > 0);
    spec.resources.memory_reservation_bytes = limit(memory.reservation());
    // Memory and swap together, as version 1 has it.
    if let Some(both) = limit(memory.swap()) {
        let Some(bytes) = spec.limits.memory_bytes else {
            return Err(invalid("linux.resources.memory.swap", "memory.limit is missing"));
        };
        let Some(swap) = both.checked_sub(bytes) else {
            return Err(invalid("linux.resources.memory.swap", "it is below memory.limit"));
        };
        spec.resources.swap_bytes = Some(swap);
    }
    Ok(())
}

fn cpu_of(cpu: &runtime::LinuxCpu, spec: &mut Spec) -> Result<(), OciError> {
    let period_us = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
    spec.limits.cpu = limit(cpu.quota())
        .filter(|quota| *quota > 0)
        .map(|quota_us| CpuQuota { quota_us, period_us });
    if spec.limits.cpu.is_none() && cpu.period().is_some_and(|period| period > 0) {
        return Err(unsupported("linux.resources.cpu.period", "without a quota"));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        // 1024 is what others have, which is 100 here.
        spec.resources.cpu_weight = Some((shares.saturating_mul(100) / 1024).clamp(1, 10_000));
    }
    let list = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    spec.resources.cpus = list(cpu.cpus());
    spec.resources.mems = list(cpu.mems());
    Ok(())
}

fn io_of(io: &runtime::LinuxBlockIo, spec: &mut Spec) -> Result<(), OciError> {
    let mut add = |devices: &Option<Vec<runtime::LinuxThrottleDevice>>,
                   set: fn(&mut IoLimit, u64)| {
        for device in devices.iter().flatten() {
            let number = |n: i64| {
                let problem = || invalid("linux.resources.blockIO", format!("device number {n}"));
                u32::try_from(n).map_err(|_| problem())
            };
            let mut limit = IoLimit {
                major: number(device.major())?,
                minor: number(device.minor())?,
                ..IoLimit::default()
            };
            set(&mut limit, device.rate());
            spec.resources.io.push(limit);
        }
        Ok::<(), OciError>(())
    };
    add(io.throttle_read_bps_device(), |limit, rate| limit.read_bytes_per_s = Some(rate))?;
    add(io.throttle_write_bps_device(), |limit, rate| limit.write_bytes_per_s = Some(rate))?;
    add(io.throttle_read_iops_device(), |limit, rate| limit.reads_per_s = Some(rate))?;
    add(io.throttle_write_iops_device(), |limit, rate| limit.writes_per_s = Some(rate))
}

fn device(rule: &runtime::LinuxDeviceCgroup) -> Result<DeviceRule, OciError> {
    use runtime::LinuxDeviceType as Kind;
    let property = "linux.resources.devices";
    let kind = match rule.typ() {
        None | Some(Kind::A) => None,
        Some(Kind::B) => Some(DeviceKind::Block),
        Some(Kind::C | Kind::U) => Some(DeviceKind::Character),
        Some(Kind::P) => return Err(invalid(property, "a FIFO is no device")),
    };
    // -1 is all.
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => {
            u32::try_from(n).map(Some).map_err(|_| invalid(property, format!("device number {n}")))
        }
    };
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    if let Some(letter) = access.chars().find(|letter| !"rwm".contains(*letter)) {
        return Err(invalid(property, format!("there is no access {letter:?}")));
    }
    Ok(DeviceRule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        read: access.contains('r'),
        write: access.contains('w'),
    })
}
