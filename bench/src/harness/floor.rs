//! Physical floors: the least that a box of each kind must do, measured in the same run.

use std::fs::File;

use tare_container::Floor as ProcessFloor;

use crate::clock::now_ns;
use crate::kit::Kit;
use crate::results::Floor;

/// Measures every floor that this machine permits, `replicates` times each, interleaved.
///
/// A floor that cannot be measured here is left out: nothing is made up for it.
pub fn measure(kit: &Kit, replicates: u32) -> Vec<Floor> {
    let mut tries = tries(kit);
    for _ in 0..replicates {
        for (floor, action) in &mut tries {
            let started_ns = now_ns();
            if action() {
                floor.samples_ns.push(now_ns() - started_ns);
            }
        }
    }
    tries.into_iter().map(|(floor, _)| floor).filter(|floor| !floor.samples_ns.is_empty()).collect()
}

type Try = (Floor, Box<dyn FnMut() -> bool>);

fn tries(kit: &Kit) -> Vec<Try> {
    let mut tries: Vec<Try> = Vec::new();
    let mut add = |name: &str, what: &str, action: Box<dyn FnMut() -> bool>| {
        let floor = Floor { name: name.to_owned(), what: what.to_owned(), samples_ns: Vec::new() };
        tries.push((floor, action));
    };
    if let Some(floor) = process_floor(kit) {
        let action = Box::new(move || floor.vfork_exec().is_ok_and(|exit| exit.success()));
        add(
            "vfork_exec",
            "vfork and exec of a static program that exits, until it is reaped",
            action,
        );
    }
    if let Some(floor) = process_floor(kit) {
        let action =
            Box::new(move || floor.clone3_all_namespaces().is_ok_and(|exit| exit.success()));
        add(
            "clone3_namespaces",
            "the same in new pid, mount, uts, ipc, cgroup and net namespaces",
            action,
        );
    }
    add(
        "kvm_hlt",
        "a KVM guest of one instruction: VM, memory and vCPU made, run to its halt, torn down",
        Box::new(|| tare_vmm::floor::run().is_ok()),
    );
    tries
}

/// The agent in its smallest form: `tare-guest exit` ends at once.
pub(crate) fn process_floor(kit: &Kit) -> Option<ProcessFloor> {
    let program = File::open(kit.agent()).ok()?;
    ProcessFloor::new(program.into(), &["tare-guest".into(), "exit".into()]).ok()
}
