//! Containers for real: as root, on whatever cgroup layout the machine has.
//!
//! One static binary, which also runs in a bare initramfs or tmpfs where nothing but `/proc`,
//! `/sys`, `/dev` and `/tmp` is mounted. The boxes' root file systems are made of a static busybox:
//! `TARE_TEST_BUSYBOX`, or `/bin/busybox`. Where root or busybox is missing, tests say so and are
//! skipped, or fail if `CI=true`.

#[path = "container/support.rs"]
mod support;

#[path = "container/bundle.rs"]
mod bundle;
#[path = "container/cgroups.rs"]
mod cgroups;
#[path = "container/control.rs"]
mod control;
#[path = "container/doors.rs"]
mod doors;
#[path = "container/ending.rs"]
mod ending;
#[path = "container/errors.rs"]
mod errors;
#[path = "container/escape.rs"]
mod escape;
#[path = "container/files.rs"]
mod files;
#[path = "container/identity.rs"]
mod identity;
#[path = "container/inside.rs"]
mod inside;
#[path = "container/isolation.rs"]
mod isolation;
#[path = "container/jail.rs"]
mod jail;
#[path = "container/leftovers.rs"]
mod leftovers;
#[path = "container/network.rs"]
mod network;
#[path = "container/rootless.rs"]
mod rootless;
