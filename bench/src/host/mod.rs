//! The preflight: what this machine is, and what about it would distort results.
//!
//! Each check reads one fact of the machine, says whether it matters here, what it distorts and
//! what the user can do (METHOD rule 11). Nothing is changed.

mod checks;
mod source;

pub use checks::preflight;
pub use source::Source;

/// True where the CPU shows VMX or SVM, so that KVM runs guests in hardware.
pub fn has_hardware_virtualization() -> bool {
    checks::virtualization_flag(&Source::live()).is_some()
}
