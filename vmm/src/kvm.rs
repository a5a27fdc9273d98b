//! Opening /dev/kvm and asking it for what a microVM needs.

use std::ffi::CStr;
use std::io;

use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;

/// Where the kernel offers KVM.
const PATH: &CStr = c"/dev/kvm";
/// The one stable version of the interface since Linux 2.6.22 (Documentation/virt/kvm/api.rst).
const API_VERSION: i32 = 12;
/// What a microVM cannot do without, and its name in the documentation.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why KVM cannot be used, or a request it refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// There is no /dev/kvm.
    #[error(
        "/dev/kvm does not exist: load the module kvm_intel or kvm_amd; if the CPU shows neither \
         VMX nor SVM, enable virtualization in the firmware, or nesting on the outer hypervisor"
    )]
    Missing,
    /// It may not be opened.
    #[error(
        "/dev/kvm may not be opened (permission denied): run as root, or join its group (`usermod -aG kvm $USER`) and log in again"
    )]
    Denied,
    /// It could not be opened for another reason.
    #[error("/dev/kvm could not be opened: {0}; see the kernel's log (`dmesg | grep kvm`)")]
    Open(#[source] io::Error),
    /// The kernel speaks another version of the interface.
    #[error(
        "/dev/kvm has API version {found}, but 12 is needed: run Linux 2.6.22 or later and its own KVM module"
    )]
    Version {
        /// What `KVM_GET_API_VERSION` said.
        found: i32,
    },
    /// The kernel's KVM lacks a capability.
    #[error(
        "KVM on this host lacks {capability}: run Linux 4.13 or later on an x86-64 host with its in-kernel interrupt controllers enabled"
    )]
    Capability {
        /// The capability's name in the kernel's documentation.
        capability: &'static str,
    },
    /// A register of a snapshot cannot be set.
    #[error(
        "KVM on this host does not take {value:#x} for the model-specific register {index:#x} of the snapshot: restore it on the kind of host it was taken on"
    )]
    Register {
        /// Which.
        index: u32,
        /// Its value.
        value: u64,
    },
    /// A request failed.
    #[error(
        "KVM refused {request}: {error}; see the kernel's log (`dmesg | grep kvm`) and the limits on memory and descriptors (`ulimit -a`)"
    )]
    Request {
        /// The request's name in the kernel's documentation.
        request: &'static str,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

impl KvmError {
    /// For `map_err` of an ioctl.
    pub(crate) fn request(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
        move |error| KvmError::Request { request, error: error.into() }
    }
}

/// Opens /dev/kvm and checks its version and capabilities.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    open_at(PATH)
}

/// Opens it once more: what [`open`] checks does not change while the system runs.
pub(crate) fn reopen() -> Result<Kvm, KvmError> {
    Kvm::new_with_path(PATH).map_err(not_opened)
}

fn open_at(path: &CStr) -> Result<Kvm, KvmError> {
    let kvm = Kvm::new_with_path(path).map_err(not_opened)?;
    check_version(kvm.get_api_version())?;
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(KvmError::Capability { capability: name });
        }
    }
    Ok(kvm)
}

/// Creates a VM. `EINTR` is answered by trying again: a signal may arrive while the kernel waits
/// for a lock, and says nothing about KVM.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other.map_err(KvmError::request("KVM_CREATE_VM")),
        }
    }
}

fn not_opened(error: kvm_ioctls::Error) -> KvmError {
    match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Denied,
        _ => KvmError::Open(error.into()),
    }
}

fn check_version(found: i32) -> Result<(), KvmError> {
    if found == API_VERSION { Ok(()) } else { Err(KvmError::Version { found }) }
}

/// Whether a test may use /dev/kvm. Without it the test says so and passes, except where a
/// complete machine is promised (`CI=true`).
#[cfg(test)]
pub(crate) fn available(test: &str) -> bool {
    let there = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: no /dev/kvm");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!("SKIPPED {test}: no /dev/kvm\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_check_version_other_than_12_returns_version_error() {
        assert!(check_version(12).is_ok());
        let message = check_version(11).unwrap_err().to_string();
        assert!(message.contains("11") && message.contains("12"), "{message}");
    }

    #[test]
    fn test_open_on_this_host_succeeds() {
        if available("test_open_on_this_host_succeeds") {
            assert!(open().is_ok());
        }
    }

    #[test]
    fn test_open_missing_or_foreign_device_returns_error() {
        let error = open_at(c"/nonexistent/kvm").unwrap_err();
        assert!(matches!(error, KvmError::Missing), "{error}");
        let error = open_at(c"/tmp").unwrap_err();
        assert!(matches!(error, KvmError::Open(_)), "{error}");
        let error = open_at(c"/dev/null").unwrap_err();
        assert!(matches!(error, KvmError::Version { found: -1 }), "{error}");
    }

    #[test]
    fn test_not_opened_without_permission_names_group() {
        for errno in [libc::EACCES, libc::EPERM] {
            let error = not_opened(kvm_ioctls::Error::new(errno));
            assert!(matches!(error, KvmError::Denied), "{error}");
            assert!(error.to_string().contains("usermod -aG kvm"), "{error}");
        }
    }
}
