//! The preflight: what this machine is, and what about it would distort results.
//!
//! Each [`Probe`] reads one fact of the machine, says whether it matters here, what it distorts, by
//! how much where that is known, and what the user can do (METHOD rule 11). Nothing is changed.

mod cpu;
mod kernel;
mod limits;
mod memory;
mod neighbours;
mod probe;
mod source;
#[cfg(test)]
mod tests;
mod virtualization;

pub use probe::Probe;
pub use source::Source;

use crate::results::Check;

/// Looks at everything.
pub fn preflight(source: &Source) -> Vec<Check> {
    probes().map(|probe| probe.check(source)).collect()
}

/// Everything that is looked at, in the order of tables.
pub fn probes() -> impl Iterator<Item = &'static Probe> {
    let groups: [&'static [Probe]; 6] = [
        virtualization::PROBES,
        cpu::PROBES,
        memory::PROBES,
        kernel::PROBES,
        limits::PROBES,
        neighbours::PROBES,
    ];
    groups.into_iter().flatten()
}

/// True where the CPU shows VMX or SVM, so that KVM runs guests in hardware.
pub fn has_hardware_virtualization() -> bool {
    virtualization::flag(&Source::live()).is_some()
}
