//! Our own namespace container: new pid, mount, uts, ipc, cgroup and net namespaces, an overlay
//! with a tmpfs on top as root, masked /proc, own /dev and /sys, Docker's capabilities,
//! no_new_privs and a seccomp filter. Network and limits are as they are asked for.
//!
//! `namespaces` is what any of this stands upon: the agent in the same new namespaces and nothing
//! else, by the same call. What a container takes beyond it is its own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use tare_container::{
    Descriptor, Limits, Mount, Namespaces, Program, Rootfs, Spec, Stations, Stream,
};
use tare_workload::Channel as Wire;

use super::instance::{Instance, Jailed};
use super::peer::Peer;
use super::process::{CHANNEL_FD, Pipes};
use super::scratch::ScratchDir;
use super::{Assignment, Availability, Backend, Error, Output, Prepared, Transport, Wiring};
use crate::kit::Kit;

/// Where the scratch directory appears in the box.
const SCRATCH: &str = "/scratch";

/// The backends; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// A whole container.
    Whole,
    /// New namespaces, and nothing in them changed.
    Floor,
}

impl Backend for Container {
    fn name(&self) -> &'static str {
        match self {
            Container::Whole => "container",
            Container::Floor => "namespaces",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Container::Whole => {
                "our namespace container: all namespaces but user, overlay root, seccomp"
            }
            Container::Floor => "a process in new namespaces and nothing else: a container's floor",
        }
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        if nix::unistd::geteuid().is_root() {
            return Availability::Ready;
        }
        Availability::unavailable("making namespaces and mounts needs root", "run tare as root")
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        let asks_for_more = assignment.with_rootfs
            || assignment.scratch_mib.is_some()
            || assignment.transport.is_some()
            || assignment.wiring.is_bridge()
            || assignment.limits != Limits::default();
        match assignment.transport {
            _ if *self == Container::Floor && asks_for_more => Availability::unavailable(
                "a floor has nothing that can be left out",
                "compare with a container",
            ),
            Some(Transport::Vsock) => Availability::unavailable(
                "a container has no virtual socket to its host",
                "compare by network",
            ),
            Some(Transport::Net) if !assignment.wiring.is_bridge() => Availability::unavailable(
                "its network has nothing in it but a loopback interface",
                "put it on a bridge: --network bridge",
            ),
            Some(Transport::Net) | None => Availability::Ready,
        }
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let name = self.name();
        let failed = Error::prepare(name);
        let lower = if assignment.with_rootfs {
            kit.root_layers()
        } else {
            kit.empty_root().map(|root| vec![root.to_owned()])
        };
        let lower = lower.map_err(|error| failed(&error))?;
        let agent = File::open(kit.agent()).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Fd(CHANNEL_FD);
        let program = Program::File(agent.into());
        let mut state = vec!["agent in the host's page cache".to_owned()];
        let mut spec = match self {
            Container::Whole => {
                state.push("image unpacked".to_owned());
                Spec::container(Rootfs::Overlay { lower, size_bytes: None }, program)
            }
            Container::Floor => Spec { namespaces: Namespaces::ALL, ..Spec::process(program) },
        };
        let mut stations = None;
        if *self == Container::Whole {
            stations = wire(&mut spec, kit, assignment.wiring, &mut state)
                .map_err(|error| failed(&error))?;
            spec.limits = assignment.limits;
            state.push(limits_state(assignment.limits));
        }
        let peer = match assignment.transport {
            None => None,
            Some(_) => {
                let host = kit.bridge().map_err(|error| failed(&error))?.gateway();
                Some(Peer::tcp(host).map_err(|error| failed(&error))?)
            }
        };
        job.peer = peer.as_ref().map(|peer| peer.address);
        state.extend(peer.as_ref().map(Peer::state));
        let mut scratch = None;
        if assignment.scratch_mib.is_some() {
            let directory = ScratchDir::new(kit, assignment).map_err(|error| failed(&error))?;
            let (source, target) = (directory.path().to_owned(), PathBuf::from(SCRATCH));
            spec.mounts.push(Mount::Bind { source, target, read_only: false });
            job.scratch = Some(SCRATCH.to_owned());
            scratch = Some(directory);
        }
        spec.args = std::iter::once("tare-guest".to_owned())
            .chain(job.to_words())
            .map(Into::into)
            .collect();
        spec.descriptors.push(Descriptor { number: CHANNEL_FD, source: Stream::Slot(0) });
        match assignment.output {
            Output::Null => {}
            Output::Captured => spec.stdio = [Stream::Null, Stream::Slot(1), Stream::Slot(2)],
            // Not its controlling terminal, should it be one: that stays this program's.
            Output::Attended { .. } => {
                spec.stdio = [Stream::Inherit, Stream::Inherit, Stream::Inherit];
            }
        }
        let prepared = spec.prepare().map_err(|error| failed(&error))?;
        state.extend(scratch.as_ref().map(ScratchDir::state));
        let output = assignment.output;
        Ok(Box::new(Ready { name, prepared, scratch, stations, _peer: peer, state, output }))
    }
}

/// Gives a box its network. Returns what has to be filled before each launch.
fn wire(
    spec: &mut Spec,
    kit: &Kit,
    wiring: Wiring,
    state: &mut Vec<String>,
) -> Result<Option<Stations>, WireError> {
    state.push(
        match wiring {
            Wiring::None => "fresh network namespace, lo down",
            Wiring::Shared => "network namespace made once and shared, lo down",
            Wiring::Loopback => "fresh network namespace, lo up",
            Wiring::Bridge => "network namespace made at the launch, on a bridge; lo up",
            Wiring::Pooled => "network namespace ready before the launch, on a bridge; lo up",
        }
        .to_owned(),
    );
    match wiring {
        Wiring::None => {}
        Wiring::Shared => spec.network = Some(tare_container::empty_network()?),
        Wiring::Loopback => spec.loopback = true,
        Wiring::Bridge | Wiring::Pooled => {
            let stations = Stations::new(kit.bridge()?);
            state.push(kit.bridge_state());
            spec.stations = Some(stations.clone());
            return Ok((wiring == Wiring::Pooled).then_some(stations));
        }
    }
    Ok(None)
}

/// A box gets no network.
#[derive(Debug, thiserror::Error)]
enum WireError {
    /// No namespace.
    #[error(transparent)]
    Container(#[from] tare_container::Error),
    /// No bridge.
    #[error(transparent)]
    Kit(#[from] crate::kit::Error),
}

fn limits_state(limits: Limits) -> String {
    let Limits { memory_bytes, cpu, pids, accounting } = limits;
    if limits == Limits::default() {
        return "no limits, no cgroup joined".to_owned();
    }
    let memory = memory_bytes.map(|bytes| format!("memory {} MiB", bytes >> 20));
    let pids = pids.map(|pids| format!("{pids} processes"));
    let cpu = cpu.map(|cpu| format!("CPU {} of {} µs", cpu.quota_us, cpu.period_us));
    let accounting = accounting.then(|| "accounting".to_owned());
    let all: Vec<String> = [memory, pids, cpu, accounting].into_iter().flatten().collect();
    format!("cgroup made at the launch, with limits: {}", all.join(", "))
}

struct Ready {
    name: &'static str,
    prepared: tare_container::Prepared,
    scratch: Option<ScratchDir>,
    /// To be filled before each launch.
    stations: Option<Stations>,
    _peer: Option<Peer>,
    state: Vec<String>,
    output: Output,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        self.state.clone()
    }

    fn reset(&self) -> Result<(), Error> {
        let emptied = self.scratch.as_ref().map_or(Ok(()), ScratchDir::empty);
        let failed = Error::prepare(self.name);
        emptied.map_err(|error| failed(&error))?;
        let filled = self.stations.as_ref().map_or(Ok(()), |stations| stations.fill(1));
        filled.map_err(|error| failed(&error))
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let pipes = Pipes::new(self.output).map_err(|error| Error::launch(self.name)(&error))?;
        let slots = match pipes.output() {
            None => vec![pipes.channel()],
            Some([stdout, stderr]) => vec![pipes.channel(), stdout.as_fd(), stderr.as_fd()],
        };
        let container =
            self.prepared.spawn_with(&slots).map_err(|error| Error::launch(self.name)(&error))?;
        drop(slots);
        let channels = pipes.into_channels();
        Ok(Box::new(Jailed { container, channels, guest_ram_bytes: None }))
    }
}
