//! The hierarchies that a set of limits needs, made ready before any start.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::PARENT;
use super::devices::DeviceProgram;
use super::error::CgroupError;
use super::files::{make_directory_at, remove_directory_at, write_at};
use super::layout::{CgroupLayout, CgroupMount, Membership};
use super::limits::{Limits, Resources};
use super::name::{Name, Owner};
use super::settings::{Setting, inexpressible, settings};

/// At most one hierarchy for each of memory, cpu, pids, io, devices and freezer.
pub(crate) const MOST: usize = 6;

/// Where the cgroups of boxes are made, and what is written to each.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) hierarchies: Vec<Hierarchy>,
    pub(crate) owner: Owner,
    /// An empty cgroup that keeps the common parent from being removed by another run.
    keeper: Name,
}

#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) unified: bool,
    /// The parent of all boxes' cgroups.
    pub(crate) path: PathBuf,
    pub(crate) directory: OwnedFd,
    settings: Vec<Setting>,
    /// Decides about devices (v2).
    program: Option<DeviceProgram>,
}

impl Groups {
    /// Finds the hierarchies, makes the common parent in each and passes the controllers on to
    /// it. `None` if nothing is asked for.
    pub(crate) fn prepare(
        limits: &Limits,
        resources: &Resources,
    ) -> Result<Option<Groups>, CgroupError> {
        if !limits.any() && *resources == Resources::default() {
            return Ok(None);
        }
        let layout = CgroupLayout::detect()?;
        let rules = resources.devices.as_deref().unwrap_or_default();
        let membership = Membership::own()?;
        let mut hierarchies: Vec<Hierarchy> = Vec::with_capacity(MOST);
        let owner =
            Owner::own().map_err(|source| CgroupError::Proc { path: "/proc/self/stat", source })?;
        let keeper = Name::next(&owner);
        for Choice { unified, mount, controllers } in choose(&layout, &needed(limits, resources))? {
            let own = membership.path(if unified {
                None
            } else {
                controllers.first().map(|name| v1_name(name))
            });
            let own = mount.directory_of(own);
            let passed: Vec<&'static str> =
                controllers.iter().copied().filter(|name| !is_core(name)).collect();
            let base = if unified { delegate(mount, &own, &passed)? } else { own };
            let (path, directory) = make_parent(&base, &keeper)?;
            if unified {
                enable(&path, &passed).map_err(|(controller, source)| {
                    CgroupError::NotDelegated { controller, path: path.clone(), source }
                })?;
            }
            let settings = settings(limits, resources, unified, &controllers);
            let has_devices = controllers.contains(&"devices");
            if let (false, true, Some(number)) = (unified, has_devices, inexpressible(rules)) {
                return Err(CgroupError::NotExpressible { number });
            }
            let program =
                (unified && has_devices).then(|| DeviceProgram::load(rules)).transpose()?;
            let hierarchy = Hierarchy { unified, path, directory, settings, program };
            hierarchies.push(hierarchy);
        }
        Ok(Some(Groups { hierarchies, owner, keeper }))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            let _ = remove_directory_at(hierarchy.directory.as_fd(), self.keeper.as_c_str());
            // Fails while another run uses it, as it should.
            let _ = std::fs::remove_dir(&hierarchy.path);
        }
    }
}

impl Hierarchy {
    /// Writes the limits into the new cgroup `directory`, called `name`.
    pub(crate) fn apply(&self, directory: BorrowedFd<'_>, name: &Name) -> Result<(), CgroupError> {
        for setting in &self.settings {
            match write_at(directory, &setting.file, setting.value.as_bytes()) {
                Ok(()) => {}
                Err(e) if setting.optional && e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let path = self.file(name, &setting.file);
                    return Err(CgroupError::write(path, &setting.value, source));
                }
            }
        }
        match &self.program {
            None => Ok(()),
            Some(program) => program.attach(directory).map_err(|source| CgroupError::NotWritable {
                path: self.path.join(name.as_str()),
                source,
            }),
        }
    }

    /// The path of a control file of cgroup `name`, for messages.
    pub(crate) fn file(&self, name: &Name, file: &CStr) -> PathBuf {
        self.path.join(name.as_str()).join(file.to_string_lossy().as_ref())
    }
}

/// A hierarchy that is needed, for these controllers.
struct Choice<'a> {
    unified: bool,
    mount: &'a CgroupMount,
    controllers: Vec<&'static str>,
}

/// The controllers that a cgroup must have.
fn needed(limits: &Limits, resources: &Resources) -> Vec<&'static str> {
    let files = |controller: &str| {
        let prefix = format!("{controller}.");
        resources.files.iter().any(|(file, _)| file.starts_with(&prefix))
    };
    let r = resources;
    let memory = r.memory_reservation_bytes.is_some() || r.swap_bytes.is_some();
    let cpuset = r.cpus.is_some() || r.mems.is_some();
    [
        ("memory", limits.memory_bytes.is_some() || limits.accounting || memory || files("memory")),
        ("cpu", limits.cpu.is_some() || r.cpu_weight.is_some() || files("cpu")),
        ("pids", limits.pids.is_some() || files("pids")),
        ("io", !r.io.is_empty() || files("io")),
        ("cpuset", cpuset || files("cpuset")),
        ("devices", r.devices.is_some()),
        ("freezer", r.freezer || files("cgroup")),
    ]
    .into_iter()
    .filter_map(|(name, needed)| needed.then_some(name))
    .collect()
}

/// What version 1 calls it.
fn v1_name(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// Whether every cgroup of version 2 has it, without it being passed on.
fn is_core(controller: &str) -> bool {
    matches!(controller, "devices" | "freezer")
}

/// For each controller needed the hierarchy that has it, v1 before v2 as the kernel does. Freezing
/// is better done by v2, which a process can be born in.
fn choose<'a>(
    layout: &'a CgroupLayout,
    needed: &[&'static str],
) -> Result<Vec<Choice<'a>>, CgroupError> {
    let offered = match layout.unified() {
        Some(unified) => offered(&unified.path)?,
        None => String::new(),
    };
    let mut chosen: Vec<Choice<'a>> = Vec::new();
    for controller in needed.iter().copied() {
        let is_v1 = |m: &&CgroupMount| m.controllers.iter().any(|name| name == v1_name(controller));
        // A cpuset of version 1 must be filled before it is joined, up to the root.
        let v1 = layout.v1().iter().find(is_v1).filter(|_| controller != "cpuset");
        let v1 = v1.filter(|_| controller != "freezer" || layout.unified().is_none());
        let (unified, mount) = match (v1, layout.unified()) {
            (Some(mount), _) => (false, mount),
            (None, Some(mount)) if is_core(controller) || offers(&offered, controller) => {
                (true, mount)
            }
            _ => return Err(CgroupError::NoController { controller }),
        };
        match chosen.iter_mut().find(|choice| choice.mount == mount) {
            Some(choice) => choice.controllers.push(controller),
            None => chosen.push(Choice { unified, mount, controllers: vec![controller] }),
        }
    }
    Ok(chosen)
}

fn offered(directory: &Path) -> Result<String, CgroupError> {
    let path = directory.join("cgroup.controllers");
    std::fs::read_to_string(&path).map_err(|source| CgroupError::Unreadable { path, source })
}

fn offers(offered: &str, controller: &str) -> bool {
    offered.split_ascii_whitespace().any(|name| name == controller)
}

/// The nearest cgroup, from `own` upwards, that passes the controllers on to its children. A
/// cgroup other than the root cannot while it holds processes itself ("no internal processes",
/// `Documentation/admin-guide/cgroup-v2.rst`).
fn delegate(
    mount: &CgroupMount,
    own: &Path,
    controllers: &[&'static str],
) -> Result<PathBuf, CgroupError> {
    let mut directory = own;
    loop {
        match enable(directory, controllers) {
            Ok(()) => return Ok(directory.to_owned()),
            Err((controller, source)) => match source.raw_os_error() {
                // EBUSY: it holds processes; ENOENT: its own parent does not pass them on;
                // EOPNOTSUPP: it is threaded.
                Some(libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP) => match directory.parent() {
                    Some(parent) if directory != mount.path => directory = parent,
                    _ => {
                        let path = directory.to_owned();
                        return Err(CgroupError::NotDelegated { controller, path, source });
                    }
                },
                _ => {
                    let path = directory.join("cgroup.subtree_control");
                    return Err(CgroupError::NotWritable { path, source });
                }
            },
        }
    }
}

/// Passes controllers on to the children of `directory`, unless it does already.
fn enable(directory: &Path, controllers: &[&'static str]) -> Result<(), (&'static str, io::Error)> {
    let path = directory.join("cgroup.subtree_control");
    for controller in controllers {
        let enabled = std::fs::read_to_string(&path).map_err(|e| (*controller, e))?;
        if !offers(&enabled, controller) {
            std::fs::write(&path, format!("+{controller}")).map_err(|e| (*controller, e))?;
        }
    }
    Ok(())
}

/// Makes the common parent in `base`, held by `keeper`.
fn make_parent(base: &Path, keeper: &Name) -> Result<(PathBuf, OwnedFd), CgroupError> {
    let path = base.join(PARENT);
    let not_writable = |source| CgroupError::NotWritable { path: path.clone(), source };
    // Another run that ends at this moment may remove the parent in between.
    let mut attempts = 0;
    loop {
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(not_writable(e)),
        }
        let made = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&path)
            .map(OwnedFd::from)
            .and_then(|directory| {
                make_directory_at(directory.as_fd(), keeper.as_c_str())?;
                Ok(directory)
            });
        match made {
            Ok(directory) => return Ok((path, directory)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < 100 => attempts += 1,
            Err(e) => return Err(not_writable(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::CpuQuota;
    use super::*;

    #[test]
    fn test_prepare_without_limits_returns_none() {
        assert!(Groups::prepare(&Limits::default(), &Resources::default()).unwrap().is_none());
    }

    #[test]
    fn test_choose_without_controller_returns_its_name() {
        let mount = |name: &str| CgroupMount {
            path: "/nowhere".into(),
            root: "/".into(),
            controllers: vec![name.into()],
        };
        let layout = CgroupLayout::V1 { controllers: vec![mount("cpu"), mount("memory")] };
        let limits = Limits { pids: Some(1), ..Limits::default() };
        let error = choose(&layout, &needed(&limits, &Resources::default())).err().unwrap();
        assert!(matches!(error, CgroupError::NoController { controller: "pids" }), "{error}");
        let limits = Limits {
            accounting: true,
            cpu: Some(CpuQuota { quota_us: 1, period_us: 2 }),
            ..Limits::default()
        };
        assert_eq!(choose(&layout, &needed(&limits, &Resources::default())).unwrap().len(), 2);
    }
}
