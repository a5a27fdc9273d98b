//! Container runtimes that are not ours, measured by the same edges with the same agent.
//!
//! A runtime is a [`Tool`] of the host. It runs in an [`Enclosure`]: a mount and a pid namespace that
//! are made before any launch and end with this program, so that neither a hang nor a crash nor a
//! kill leaves a mount or a process of its boxes behind. What else it leaves is removed by its own
//! command, which has a time limit as all have.
//!
//! The agent's channel is descriptor 3, which these runtimes pass on; marks are stamped by the
//! harness as it wakes, like those of a process.

mod boxed;
mod bundle;
mod bwrap;
mod enclosure;
mod oci;
mod tool;

pub(super) use bwrap::Bwrap;
pub(super) use oci::OciRuntime;
pub(super) use tool::{Tool, finish_within};

use super::{Assignment, Availability, Wiring};

/// Whether a foreign runtime has what an assignment asks for.
fn suits(assignment: &Assignment) -> Availability {
    match assignment.wiring {
        // They turn it on unasked.
        Wiring::None | Wiring::Loopback => {}
        Wiring::Shared | Wiring::Bridge | Wiring::Pooled => {
            return Availability::unavailable(
                "a runtime brings no network but a loopback interface",
                "compare with our container",
            );
        }
    }
    if assignment.transport.is_some() || assignment.scratch_mib.is_some() {
        return Availability::unavailable(
            "only starts, and workloads without files and peers, are run in foreign runtimes",
            "compare with our container",
        );
    }
    Availability::Ready
}
