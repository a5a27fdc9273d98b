//! Our own namespace container: new pid, mount, uts, ipc, cgroup and net namespaces, an overlay
//! with a tmpfs on top as root, masked /proc, own /dev and /sys, Docker's capabilities,
//! no_new_privs and a seccomp filter. No network set-up and no limits: nothing asks for them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use tare_container::{Descriptor, Mount, Program, Rootfs, Spec, Stream};
use tare_workload::Channel as Wire;

use super::instance::{Instance, Jailed};
use super::process::{CHANNEL_FD, Pipes};
use super::scratch::ScratchDir;
use super::{Assignment, Availability, Backend, Error, Output, Prepared};
use crate::kit::Kit;

const NAME: &str = "container";
/// Where the scratch directory appears in the box.
const SCRATCH: &str = "/scratch";

/// The backend; see the module's text.
pub(super) struct Container;

impl Backend for Container {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "our namespace container: all namespaces but user, overlay root, seccomp"
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        if nix::unistd::geteuid().is_root() {
            return Availability::Ready;
        }
        Availability::Unavailable {
            why: "making namespaces and mounts needs root".to_owned(),
            remedy: "run tare as root".to_owned(),
        }
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        if assignment.transport.is_none() {
            return Availability::Ready;
        }
        Availability::Unavailable {
            why: "its network namespace has nothing in it but a loopback interface".to_owned(),
            remedy: "compare with a process, which has the host's network".to_owned(),
        }
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(NAME);
        let lower = if assignment.with_rootfs {
            kit.root_layers()
        } else {
            kit.empty_root().map(|root| vec![root.to_owned()])
        };
        let lower = lower.map_err(|error| failed(&error))?;
        let agent = File::open(kit.agent()).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Fd(CHANNEL_FD);
        let mut spec = Spec::container(
            Rootfs::Overlay { lower, size_bytes: None },
            Program::File(agent.into()),
        );
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
        Ok(Box::new(Ready { prepared, scratch, output: assignment.output }))
    }
}

struct Ready {
    prepared: tare_container::Prepared,
    scratch: Option<ScratchDir>,
    output: Output,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = vec![
            "image unpacked; agent in the host's page cache".to_owned(),
            "fresh network namespace, lo down; no limits, no cgroup joined".to_owned(),
        ];
        state.extend(self.scratch.as_ref().map(ScratchDir::state));
        state
    }

    fn reset(&self) -> Result<(), Error> {
        let emptied = self.scratch.as_ref().map_or(Ok(()), ScratchDir::empty);
        emptied.map_err(|error| Error::prepare(NAME)(&error))
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let pipes = Pipes::new(self.output).map_err(|error| Error::launch(NAME)(&error))?;
        let slots = match pipes.output() {
            None => vec![pipes.channel()],
            Some([stdout, stderr]) => vec![pipes.channel(), stdout.as_fd(), stderr.as_fd()],
        };
        let container =
            self.prepared.spawn_with(&slots).map_err(|error| Error::launch(NAME)(&error))?;
        drop(slots);
        let channels = pipes.into_channels();
        Ok(Box::new(Jailed { container, channels, guest_ram_bytes: None }))
    }
}
