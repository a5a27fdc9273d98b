//! The suite `vmm`: what our microVM costs, in time and memory, beside QEMU's microvm machine on
//! the same kernel and initramfs.

use tare_kernels::{BARE, FULL, PRACTICAL};

use super::{Limits, Reference, Suite, Target};
use crate::harness::Act;
use crate::recipe::{ROUNDTRIP_NET, ROUNDTRIP_VSOCK, Recipe, STREAM_NET, STREAM_VSOCK, WEIGH_MS};

const MS: f64 = 1e6;
const MIB: f64 = 1_048_576.0;
/// Megabytes and not mebibytes: the limits of memory are given in these.
const MB: f64 = 1e6;

const QEMU: Option<Reference> = Some(Reference::same_in("qemu"));

/// A plain start.
const START: Recipe = Recipe::plain("start");
/// A start on a kernel of its own, whatever the round's is.
const PRACTICAL_START: Recipe =
    Recipe { variant: &[("kernel", "practical")], kernel: Some(&PRACTICAL), ..START };
const BARE_START: Recipe = Recipe { variant: &[("kernel", "bare")], kernel: Some(&BARE), ..START };
/// A snapshot of a guest.
const CAPTURE: Recipe = Recipe { variant: &[("act", "capture")], act: Act::Capture, ..START };
/// Many boxes that live at once, each having run `start`.
const HUNDRED: Recipe = Recipe { variant: &[("live", "100")], act: Act::Crowd(100), ..START };
/// A start that is weighed while it rests.
const WEIGHED: Recipe =
    Recipe { variant: &[("weighed", "idle")], weigh_ms: Some(WEIGH_MS), ..Recipe::plain("start") };
/// Reads past the page caches of guest and host, of a file in the host's memory: what they cost is
/// the way there.
const DIRECT_READS: Recipe = Recipe {
    variant: &[("direct", "1"), ("operations", "seqread,randread")],
    always: &[("direct", "1"), ("operations", "seqread,randread")],
    lab: &[("file_bytes", "4194304"), ("count", "128")],
    in_memory: true,
    is_direct: true,
    ..Recipe::plain("file")
};
/// The same at random with 32 requests in flight.
const DEEP_READS: Recipe = Recipe {
    variant: &[("depth", "32"), ("direct", "1"), ("operations", "deepread")],
    always: &[("depth", "32"), ("direct", "1"), ("operations", "deepread")],
    lab: &[("file_bytes", "4194304"), ("count", "512")],
    ..DIRECT_READS
};

/// Over a network, with a kernel that has one.
const NET_STREAM: Recipe = Recipe { kernel: Some(&FULL), ..STREAM_NET };
const NET_ROUNDTRIP: Recipe = Recipe { kernel: Some(&FULL), ..ROUNDTRIP_NET };

const VHOST: &str = "QEMU 7.2 microvm with the host kernel's own device is what is to be beaten";

// A cold boot is held against the same limits wherever its memory comes from.
const PRACTICAL_LIMITS: Limits = Limits::value(16.0 * MS, 11.0 * MS);
const BARE_LIMITS: Limits = Limits::value(12.0 * MS, 9.0 * MS);
const ENTER_LIMITS: Limits = Limits::value(3.0 * MS, 1.0 * MS);

const START_NS: &str = "launch_to_init_ns";

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "vmm",
    about: "the microVM: start-up, restore, memory, block I/O and sockets, beside QEMU's microvm machine",
    targets: &[
        Target {
            name: "start-same-kernel",
            what: "cold boot, launch → init, on the kernel and initramfs that QEMU has",
            backend: "microvm",
            recipe: &START,
            metric: START_NS,
            reference: QEMU,
            limits: Limits::ratio(0.30, 0.25),
            source: "Firecracker 1.16 takes 0.32 × QEMU 7.2 microvm, in the lab",
        },
        Target {
            name: "start-practical",
            what: "cold boot, launch → init, on the practical kernel (block, vsock)",
            backend: "microvm",
            recipe: &PRACTICAL_START,
            metric: START_NS,
            reference: None,
            limits: PRACTICAL_LIMITS,
            source: "Firecracker 1.16 takes 17 to 21 ms on such a kernel, in the lab",
        },
        Target {
            name: "start-bare",
            what: "cold boot, launch → init, on the bare kernel (nothing but start-up)",
            backend: "microvm",
            recipe: &BARE_START,
            metric: START_NS,
            reference: None,
            limits: BARE_LIMITS,
            source: "Firecracker 1.16 takes 13 to 15.5 ms on such a kernel, in the lab",
        },
        Target {
            name: "launch-to-enter",
            what: "the VMM's own share of a cold boot: launch → enter, its first KVM_RUN",
            backend: "microvm",
            recipe: &START,
            metric: "launch_to_enter_ns",
            reference: None,
            limits: ENTER_LIMITS,
            source: "of Firecracker's start 5 ms are its own: start, loading, zeroing pages, in the lab",
        },
        Target {
            name: "start-practical-pooled",
            what: "as start-practical, in memory that was allocated and filled before the launch",
            backend: "microvm:pooled",
            recipe: &PRACTICAL_START,
            metric: START_NS,
            reference: None,
            limits: PRACTICAL_LIMITS,
            source: "Firecracker 1.16 takes 17 to 21 ms on such a kernel, loading it, in the lab",
        },
        Target {
            name: "start-bare-pooled",
            what: "as start-bare, in memory that was allocated and filled before the launch",
            backend: "microvm:pooled",
            recipe: &BARE_START,
            metric: START_NS,
            reference: None,
            limits: BARE_LIMITS,
            source: "Firecracker 1.16 takes 13 to 15.5 ms on such a kernel, loading it, in the lab",
        },
        Target {
            name: "launch-to-enter-pooled",
            what: "as launch-to-enter, in memory that was allocated and filled before the launch",
            backend: "microvm:pooled",
            recipe: &START,
            metric: "launch_to_enter_ns",
            reference: None,
            limits: ENTER_LIMITS,
            source: "of Firecracker's start 5 ms are its own: start, loading, zeroing pages, in the lab",
        },
        Target {
            name: "restore",
            what: "restored from the files of a snapshot, launch → init",
            backend: "microvm:snapshot",
            recipe: &START,
            metric: START_NS,
            reference: None,
            limits: Limits::value(3.0 * MS, 1.0 * MS),
            source: "Firecracker 1.16 takes 4.66 ms from fork to the restored guest's first byte, in the lab",
        },
        Target {
            name: "capture",
            what: "a snapshot of a guest whose agent is about to begin: how long the guest stands still",
            backend: "microvm:snapshot",
            recipe: &CAPTURE,
            metric: "capture_ns",
            reference: None,
            limits: Limits::value(100.0 * MS, 30.0 * MS),
            source: "Firecracker 1.16 takes 216 ms for a full snapshot of 128 MiB, in the lab",
        },
        Target {
            name: "memory-rss",
            what: "resident set of the idle VMM without the guest's RAM",
            backend: "microvm",
            recipe: &WEIGHED,
            metric: "memory_rss_bytes",
            reference: QEMU,
            limits: Limits::value(4.0 * MB, 2.5 * MB),
            source: "Firecracker 1.16 has 3.9 MB",
        },
        Target {
            name: "memory-private",
            what: "private dirty pages of the idle VMM without the guest's RAM",
            backend: "microvm",
            recipe: &WEIGHED,
            metric: "memory_private_dirty_bytes",
            reference: QEMU,
            limits: Limits::value(0.5 * MB, 0.3 * MB),
            source: "Firecracker 1.16 has 0.3 MB",
        },
        Target {
            name: "memory-clone",
            what: "each of 100 clones that live at once and have run start: the host's used memory",
            backend: "microvm:clone",
            recipe: &HUNDRED,
            metric: "each_system_bytes",
            reference: None,
            limits: Limits::value(1.5 * MIB, 0.6 * MIB),
            source: "published clones have 3 MiB of private dirty pages each",
        },
        Target {
            name: "block-random",
            what: "random 4 KiB O_DIRECT read, one at a time, each",
            backend: "microvm",
            recipe: &DIRECT_READS,
            metric: "randread_ns",
            reference: QEMU,
            limits: Limits::ratio(0.55, 0.35),
            source: "Firecracker 1.16 takes 0.58 × QEMU 7.2 microvm, in the lab",
        },
        Target {
            name: "block-sequential",
            what: "sequential 128 KiB O_DIRECT read, one at a time",
            backend: "microvm",
            recipe: &DIRECT_READS,
            metric: "seqread_bytes_per_s",
            reference: QEMU,
            limits: Limits::ratio(1.0, 0.6),
            source: "QEMU 7.2 microvm is the fastest measured: Firecracker 1.16 takes 2.2 times as long, in the lab",
        },
        Target {
            name: "block-deep",
            what: "random 4 KiB O_DIRECT read, 32 in flight, each",
            backend: "microvm",
            recipe: &DEEP_READS,
            metric: "deepread_ns",
            reference: QEMU,
            limits: Limits::ratio(1.0, 0.6),
            source: "one synchronous thread is where Firecracker falls far behind at depth (NSDI'20)",
        },
        Target {
            name: "vsock-send",
            what: "bulk data to the host by virtual socket; QEMU's by vhost-vsock",
            backend: "microvm",
            recipe: &STREAM_VSOCK,
            metric: "send_bytes_per_s",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
        Target {
            name: "vsock-receive",
            what: "bulk data from the host by virtual socket; QEMU's by vhost-vsock",
            backend: "microvm",
            recipe: &STREAM_VSOCK,
            metric: "receive_bytes_per_s",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
        Target {
            name: "vsock-roundtrip",
            what: "a message of 64 bytes to the host and back by virtual socket; QEMU's by vhost-vsock",
            backend: "microvm",
            recipe: &ROUNDTRIP_VSOCK,
            metric: "roundtrip_ns",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
        Target {
            name: "net-send",
            what: "bulk data to the host over TCP; QEMU's by vhost-net",
            backend: "microvm",
            recipe: &NET_STREAM,
            metric: "send_bytes_per_s",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
        Target {
            name: "net-receive",
            what: "bulk data from the host over TCP; QEMU's by vhost-net",
            backend: "microvm",
            recipe: &NET_STREAM,
            metric: "receive_bytes_per_s",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
        Target {
            name: "net-roundtrip",
            what: "a message of 64 bytes to the host and back over TCP; QEMU's by vhost-net",
            backend: "microvm",
            recipe: &NET_ROUNDTRIP,
            metric: "roundtrip_ns",
            reference: QEMU,
            limits: Limits::ratio(1.0, 1.0),
            source: VHOST,
        },
    ],
};
