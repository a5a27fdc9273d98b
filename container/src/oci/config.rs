//! The whole of a configuration.

use std::path::Path;

use oci_spec::runtime;

use super::error::{OciError, invalid, unsupported};
use super::hooks::Hooks;
use super::{linux, mounts, process, resources, seccomp};
use crate::mount::{Attributes, Change, Mount};
use crate::namespace::Namespaces;
use crate::spec::{Program, Rootfs, Spec};

/// `MOUNT_ATTR_RDONLY` of linux/mount.h.
pub(super) const READ_ONLY: u64 = 1;

/// What a configuration says, of a bundle in `directory`.
pub(super) fn convert(directory: &Path, oci: &runtime::Spec) -> Result<(Spec, Hooks), OciError> {
    let Some(process) = oci.process() else {
        return Err(invalid("process", "missing: there would be nothing to run"));
    };
    let Some(root) = oci.root() else { return Err(invalid("root", "missing")) };
    let args = process.args().clone().unwrap_or_default();
    let Some(first) = args.first() else {
        return Err(invalid("process.args", "empty: there would be nothing to run"));
    };
    let mut spec = Spec::process(Program::command(first.as_str())).args(args.iter());
    spec.rootfs = Rootfs::Bind(directory.join(root.path()));
    spec.hostname = oci.hostname().as_ref().map(Into::into);
    spec.domainname = oci.domainname().as_ref().map(Into::into);
    let default = runtime::Linux::default();
    let linux = oci.linux().as_ref().unwrap_or(&default);
    linux::namespaces(linux, &mut spec)?;
    if !spec.namespaces.contains(Namespaces::MOUNT) {
        return Err(unsupported("linux.namespaces", "without a new mount namespace"));
    }
    process::process(process, &mut spec)?;
    mounts::mounts(oci.mounts().as_deref().unwrap_or_default(), &mut spec)?;
    if let Some(asked) = linux.resources() {
        resources::resources(asked, &mut spec)?;
    }
    linux::linux(linux, &mut spec)?;
    if let Some(profile) = linux.seccomp() {
        spec.seccomp = Some(seccomp::filter(profile)?);
    }
    if root.readonly().unwrap_or(false) {
        // Last: mount points are made before.
        spec.mounts.push(Mount::Change(Change {
            target: "/".into(),
            recursive: false,
            attributes: Attributes { set: READ_ONLY, clear: 0 },
            propagation: None,
        }));
    }
    Ok((spec, Hooks::new(oci.hooks().as_ref())?))
}
