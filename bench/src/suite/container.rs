//! The suite `container`: what our container costs beside other runtimes, and beside the least that
//! its namespaces cost.

use tare_container::Limits as BoxLimits;

use super::{Limits, Reference, Suite, Target};
use crate::backend::Wiring;
use crate::harness::{Act, Lifecycle};
use crate::recipe::Recipe;

const MS: f64 = 1e6;
/// The limits of memory are given in these.
const KB: f64 = 1e3;

/// Between what is to know nothing of each other.
const REST_MS: u32 = 60;

/// One start after the other, each with a fresh network namespace with lo, when what others left
/// has been taken apart.
const LOOPBACK: Recipe = Recipe {
    variant: &[("series", "10"), ("network", "loopback")],
    wiring: Wiring::Loopback,
    act: Act::Series(10),
    gap_ms: Some(REST_MS),
    ..Recipe::plain("start")
};
/// What one user sees who starts a box now and then.
const ISOLATED: Recipe = Recipe {
    variant: &[("gap", "60ms"), ("network", "loopback")],
    act: Act::Lifecycle(Lifecycle::Isolated(REST_MS)),
    ..LOOPBACK
};
/// In a cgroup that limits it.
const LIMITED: Recipe = Recipe {
    variant: &[("series", "10"), ("limits", "memory,pids"), ("network", "loopback")],
    limits: BoxLimits {
        memory_bytes: Some(256 << 20),
        pids: Some(64),
        cpu: None,
        accounting: false,
    },
    ..LOOPBACK
};
/// On a bridge, in a network namespace that is ready.
const POOLED: Recipe = Recipe {
    variant: &[("series", "10"), ("network", "bridge:pooled")],
    wiring: Wiring::Pooled,
    ..LOOPBACK
};
/// Many that live at once.
const THOUSAND: Recipe = Recipe {
    variant: &[("live", "1000"), ("network", "loopback")],
    act: Act::Crowd(1000),
    ..LOOPBACK
};
const HUNDRED: Recipe = Recipe {
    variant: &[("live", "100"), ("network", "loopback")],
    act: Act::Crowd(100),
    ..LOOPBACK
};
const HUNDRED_SHARED: Recipe = Recipe {
    variant: &[("live", "100"), ("network", "shared")],
    act: Act::Crowd(100),
    wiring: Wiring::Shared,
    ..LOOPBACK
};

/// An image, from its layout to where a box can have it as its root.
const UNPACK: Recipe =
    Recipe { variant: &[("act", "unpack")], act: Act::Unpack, ..Recipe::plain("start") };

const CRUN: Option<Reference> = Some(Reference::same_in("crun"));
const CRUN_WITHOUT_CGROUP: Option<Reference> = Some(Reference::same_in("crun:nocgroup"));
const RUNC: Option<Reference> = Some(Reference::same_in("runc"));
const BWRAP: Option<Reference> = Some(Reference::same_in("bwrap"));
const FLOOR: Option<Reference> = Some(Reference::same_in("namespaces"));
const LOOPBACK_ALONE: Option<Reference> =
    Some(Reference { backend: "container", recipe: Some(&LOOPBACK) });

/// Of series: launch → init, and launch → exit.
const START_NS: &str = "start_ns";
const RUN_NS: &str = "run_ns";

const BEATEN: &str = "what is to be beaten; no factor was set";

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "container",
    about: "the container: start-up, network and memory, beside crun, runc, bwrap and its floor",
    targets: &[
        Target {
            name: "run-crun",
            what: "back to back, fresh network namespace with lo: launch → exit",
            backend: "container",
            recipe: &LOOPBACK,
            metric: RUN_NS,
            reference: CRUN,
            limits: Limits::ratio(1.0 / 6.0, 0.1),
            source: "six times faster than crun as it comes must be, ten times is the aim",
        },
        Target {
            name: "start-crun",
            what: "the same: launch → init",
            backend: "container",
            recipe: &LOOPBACK,
            metric: START_NS,
            reference: CRUN,
            limits: Limits::ratio(1.0 / 6.0, 0.1),
            source: "six times faster than crun as it comes must be, ten times is the aim",
        },
        Target {
            name: "run-floor",
            what: "the same, beside the agent in new namespaces and nothing else: launch → exit",
            backend: "container",
            recipe: &LOOPBACK,
            metric: RUN_NS,
            reference: FLOOR,
            limits: Limits::ratio(2.0, 1.2),
            source: "what new namespaces cost cannot be saved; all else must cost no more than they",
        },
        Target {
            name: "isolated-crun",
            what: "60 ms after the one before, fresh network namespace with lo: launch → exit",
            backend: "container",
            recipe: &ISOLATED,
            metric: "launch_to_exit_ns",
            reference: CRUN,
            limits: Limits::ratio(1.0 / 8.0, 1.0 / 15.0),
            source: "eight times faster than crun as it comes must be, fifteen times is the aim",
        },
        Target {
            name: "limited-crun",
            what: "back to back, in a cgroup (version 2) that limits memory and processes: launch → exit",
            backend: "container",
            recipe: &LIMITED,
            metric: RUN_NS,
            reference: CRUN,
            limits: Limits::ratio(0.2, 0.1),
            source: "a fifth of crun's time, in the lab; a tenth is the aim",
        },
        Target {
            name: "run-crun-nocgroup",
            what: "as run-crun, beside crun that is told to leave cgroups alone, as ours does without limits",
            backend: "container",
            recipe: &LOOPBACK,
            metric: RUN_NS,
            reference: CRUN_WITHOUT_CGROUP,
            limits: Limits::ratio(1.0, 1.0 / 6.0),
            source: BEATEN,
        },
        Target {
            name: "run-runc",
            what: "as run-crun, beside runc",
            backend: "container",
            recipe: &LOOPBACK,
            metric: RUN_NS,
            reference: RUNC,
            limits: Limits::ratio(1.0, 0.1),
            source: BEATEN,
        },
        Target {
            name: "run-bwrap",
            what: "as run-crun, beside bwrap",
            backend: "container",
            recipe: &LOOPBACK,
            metric: RUN_NS,
            reference: BWRAP,
            limits: Limits::ratio(1.0, 0.5),
            source: BEATEN,
        },
        Target {
            name: "pooled-loopback",
            what: "on a bridge, its network namespace ready before: launch → exit",
            backend: "container",
            recipe: &POOLED,
            metric: RUN_NS,
            reference: LOOPBACK_ALONE,
            limits: Limits::ratio(1.0, 0.8),
            source: "a network that is ready must cost no more than a fresh one with lo",
        },
        Target {
            name: "pooled",
            what: "the same: launch → exit",
            backend: "container",
            recipe: &POOLED,
            metric: RUN_NS,
            reference: None,
            limits: Limits::value(1.0 * MS, 1.0 * MS),
            source: "1 ms is the aim, and nothing less will do",
        },
        Target {
            name: "thousand",
            what: "launch → init, the last twenty of 1,000 that live at once over the first twenty",
            backend: "container",
            recipe: &THOUSAND,
            metric: "last_start_to_first",
            reference: None,
            limits: Limits::value(1.5, 1.1),
            source: "users ask how latency grows with the number of boxes (kata#12007)",
        },
        Target {
            name: "memory-network",
            what: "each of 100 idle ones with a network namespace with lo: the host's used memory",
            backend: "container",
            recipe: &HUNDRED,
            metric: "each_system_bytes",
            reference: None,
            limits: Limits::value(420.0 * KB, 300.0 * KB),
            source: "an idle container was seen to cost 300 to 370 kB with a network namespace",
        },
        Target {
            name: "memory-shared",
            what: "each of 100 idle ones that share an empty network: the host's used memory",
            backend: "container",
            recipe: &HUNDRED_SHARED,
            metric: "each_system_bytes",
            reference: None,
            limits: Limits::value(180.0 * KB, 134.0 * KB),
            source: "an idle container was seen to cost 134 kB without a network namespace",
        },
        Target {
            name: "unpack-umoci",
            what: "an image of 5 layers, 300 MB, from its OCI layout until it is unpacked",
            backend: "images",
            recipe: &UNPACK,
            metric: "unpack_ns",
            reference: Some(Reference::same_in("umoci")),
            limits: Limits::ratio(1.0, 0.5),
            source: "not slower than umoci; half of its time is the aim",
        },
    ],
};
