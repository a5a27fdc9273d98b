//! Our own microVM: a child of this process, forked and not exec'd, that becomes the VMM and, where
//! this process is root, goes to jail before the guest runs.
//!
//! It begins in one of four ways, each a backend of its own: `microvm` boots; `microvm:pooled` boots
//! in memory that was allocated and filled before the launch; `microvm:snapshot`
//! goes on from the files of a snapshot, which each launch opens and reads; `microvm:clone` goes
//! on from a snapshot that the harness holds open.
//!
//! The VMM stamps edges on its vCPU thread and sends them as records over a pipe; the guest's
//! serial port carries the agent's channel. A command's standard streams go over vsock: the VMM has
//! one end of a socket pair for the agent to connect to, and so needs no path in its jail.

mod kept;
mod monitor;
mod origin;
mod pool;
mod template;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tare_container::{
    Capabilities, CgroupLayout, Dev, Entrance, Jail, Limits, Namespaces, Proc, Program, Rootfs,
    Spec, Stream, User,
};
use tare_vmm::{
    BlockConfig, BlockEngine, Config, NetBackend, NetConfig, Streams, TapSource, VsockConfig,
};
use tare_workload::{
    CONVERSATION_PORT, Channel as Wire, FrameKind, Job, JobError, Line, frame_header,
};

pub use kept::{Error as KeptError, Keeping, Kept, kept_below};

use super::channel::Channel;
use super::instance::{Child, Instance, Jailed, Running};
use super::network::Network;
use super::peer::{Link, VSOCK_PORT};
use super::{Assignment, Availability, Backend, Error, Output, Prepared, Transport, Wiring};
use crate::guest_kernel::GuestKernel;
use crate::host;
use crate::kit::{GuestDisks, GuestMachine, Kit};
use monitor::become_vmm;
pub(super) use monitor::{close_all_but, leave_the_harness};
use origin::Origin;
use pool::Pool;
use template::Template;

/// The guest's CID: the device is the VMM's own, so all guests may have the same.
const GUEST_CID: u32 = 3;
/// The user and group nobody.
const NOBODY: u32 = 65534;

/// The backends; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MicroVm {
    /// Boots.
    Cold,
    /// Boots in memory that was filled before.
    Pooled,
    /// Opens a snapshot and goes on from it.
    Snapshot,
    /// Goes on from a snapshot that is open.
    Clone,
}

impl Backend for MicroVm {
    fn name(&self) -> &'static str {
        match self {
            MicroVm::Cold => "microvm",
            MicroVm::Pooled => "microvm:pooled",
            MicroVm::Snapshot => "microvm:snapshot",
            MicroVm::Clone => "microvm:clone",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            MicroVm::Cold => "our KVM microVM, booted cold",
            MicroVm::Pooled => "our KVM microVM, booted cold in memory that was filled before",
            MicroVm::Snapshot => "our KVM microVM, restored from the files of a snapshot",
            MicroVm::Clone => "our KVM microVM, one of many from a snapshot that is open",
        }
    }

    fn probe(&self, kit: &Kit) -> Availability {
        probe_virtualization(kit)
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        suits_guest(assignment)
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let name = self.name();
        let failed = Error::prepare(name);
        let disks = GuestDisks::new(kit, assignment).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Com1;
        job.parks = matches!(self, MicroVm::Snapshot | MicroVm::Clone);
        disks.name_in(&mut job);
        let link = match assignment.transport {
            Some(Transport::Vsock) => Link::unix(kit).map(Some),
            Some(Transport::Net) => Link::net(kit).map(Some),
            None if assignment.wiring.is_bridge() => Link::alone(kit).map(Some),
            None => Ok(None),
        };
        let link = link.map_err(|error| failed(&error))?;
        if let Some(link) = &link {
            link.name_in(&mut job);
        }
        let kernel = kit.kernel_for(assignment).map_err(|error| failed(&error))?;
        kit.name_modules_in(assignment, &mut job).map_err(|error| failed(&error))?;
        if assignment.output != Output::Null {
            job.stdio = Some(Line::Vsock(CONVERSATION_PORT));
        }
        if let Output::Attended { terminal } = assignment.output {
            job.terminal = terminal;
        }
        let machine = Machine {
            kernel: &kernel.elf,
            guest: kit.machine(),
            acpi: kernel.acpi,
            timer: kernel.timer,
            initramfs: kit.initramfs().map_err(|error| failed(&error))?.to_owned(),
            cmdline: command_line_of(&kernel, &job).map_err(|error| failed(&error))?,
            memory_mib: assignment.memory_mib,
            disks: &disks,
            direct: assignment.direct,
            disk_engine: kit.disk_engine(),
            has_vsock: job.stdio.is_some() || assignment.transport == Some(Transport::Vsock),
            network: link.as_ref().and_then(|link| link.network.as_ref()),
        };
        let config = machine.config();
        let prepared = tare_vmm::Prepared::new(&config).map_err(|error| failed(&error))?;
        let jail = jail_here(kit).map_err(|error| failed(&error))?;
        let captures = job.parks.then(|| kit.new_scratch_dir()).transpose();
        let captures = captures.map_err(|error| failed(&error))?;
        let origin = match self {
            MicroVm::Cold => Origin::Boot,
            MicroVm::Pooled => {
                Origin::Pooled(Pool::new(&prepared).map_err(|error| failed(&error))?)
            }
            MicroVm::Snapshot => {
                let directory = kit.new_memory_dir().map_err(|error| failed(&error))?;
                let template = Template::new(&prepared, &directory.join("snapshot"));
                let template = template.map_err(|error| failed(&error))?;
                template.snapshot.gather().map_err(|error| failed(&error))?;
                Origin::Files(template)
            }
            MicroVm::Clone => {
                let directory = kit.new_scratch_dir().map_err(|error| failed(&error))?;
                let template = Template::new(&prepared, &directory.join("snapshot"));
                let mut template = template.map_err(|error| failed(&error))?;
                template.snapshot.hold().map_err(|error| failed(&error))?;
                Origin::Open(template)
            }
        };
        let kernel = kernel.name.clone();
        Ok(Box::new(Ready {
            name,
            kernel,
            prepared,
            origin,
            captures,
            jail,
            disks,
            link_state: link.as_ref().map(|link| link.state(kit)).unwrap_or_default(),
            link,
            output: assignment.output,
        }))
    }
}

/// The machine in plain words, for a cell's declared state.
fn machine_state(config: &Config) -> String {
    let Config { vcpus, cpu_profile, pages, prefault, protocol, acpi, timer, .. } = config;
    let described = match (acpi, vcpus) {
        (true, _) => "by ACPI",
        (false, 1) => "by the command line",
        (false, _) => "by the command line and an MP table",
    };
    let timer = if *timer { "" } else { ", no 8254 timer" };
    let prefault = if *prefault { ", all allocated at launch" } else { "" };
    format!(
        "machine: {vcpus} vCPUs (CPU profile {cpu_profile:?}), RAM in {pages:?} pages{prefault}, \
         kernel entered by {protocol:?}, described {described}{timer}"
    )
}

/// The machine of a guest.
struct Machine<'a> {
    kernel: &'a Path,
    guest: GuestMachine,
    /// It is described by ACPI.
    acpi: bool,
    /// It has an 8254 timer.
    timer: bool,
    initramfs: PathBuf,
    /// Of the kernel, with the agent's job.
    cmdline: String,
    memory_mib: u64,
    disks: &'a GuestDisks,
    direct: bool,
    disk_engine: BlockEngine,
    /// It has a vsock device, for its command's streams or for its workload.
    has_vsock: bool,
    network: Option<&'a Network>,
}

impl Machine<'_> {
    fn config(self) -> Config {
        let engine = self.disk_engine;
        let block =
            |path: &PathBuf, direct| BlockConfig { direct, engine, ..BlockConfig::new(path) };
        let mut blocks = Vec::new();
        blocks.extend(self.disks.root.as_ref().map(|path| block(path, false)));
        blocks.extend(self.disks.scratch.as_ref().map(|path| block(path, self.direct)));
        let vsock = VsockConfig { guest_cid: GUEST_CID, path: None };
        let GuestMachine { vcpus, cpu_profile, pages, prefault, protocol, net_backend } =
            self.guest;
        Config {
            kernel: self.kernel.to_owned(),
            protocol,
            vcpus,
            acpi: self.acpi,
            timer: self.timer,
            cpu_profile,
            pages,
            prefault,
            initramfs: Some(self.initramfs),
            cmdline: self.cmdline,
            memory_bytes: self.memory_mib << 20,
            blocks,
            vsock: self.has_vsock.then_some(vsock),
            nets: self.network.map(|network| net(network, net_backend)).into_iter().collect(),
            ..Config::default()
        }
    }
}

/// The command line that has a guest's agent do a job.
fn command_line_of(kernel: &GuestKernel, job: &Job) -> Result<String, JobError> {
    Ok(format!("{} -- {}", kernel.command_line, job.to_cmdline()?))
}

/// Whether a KVM guest of Linux can run here in useful time.
pub(super) fn probe_virtualization(kit: &Kit) -> Availability {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Availability::Unavailable {
            why: format!("/dev/kvm cannot be opened: {error}"),
            remedy: match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "join the group that owns /dev/kvm, or run as root".to_owned()
                }
                _ => "load kvm-intel or kvm-amd, or use the lab: --host lab".to_owned(),
            },
        };
    }
    if !host::has_hardware_virtualization() {
        return Availability::Unavailable {
            why: "the CPU shows neither VMX nor SVM; /dev/kvm here runs no Linux guest in useful time".to_owned(),
            remedy: "use the lab: --host lab".to_owned(),
        };
    }
    match kit.guest_kernel() {
        Ok(_) => Availability::Ready,
        Err(error) => Availability::Unavailable {
            why: error.to_string(),
            remedy: "run `tare kernel build`, or name a kernel with --kernel".to_owned(),
        },
    }
}

/// Whether a guest has what an assignment asks for.
pub(super) fn suits_guest(assignment: &Assignment) -> Availability {
    if assignment.limits != Limits::default() {
        return Availability::unavailable(
            "a guest is limited by its machine",
            "compare containers",
        );
    }
    if assignment.wiring == Wiring::Loopback {
        return Availability::unavailable(
            "its loopback interface stays down",
            "compare by bridge, or without",
        );
    }
    Availability::Ready
}

/// The VMM's jail, where this process may make one.
fn jail_here(kit: &Kit) -> Result<Option<Jail>, KeptError> {
    let root = kit.empty_root()?;
    Ok(nix::unistd::geteuid().is_root().then(|| jail(root)).transpose()?)
}

/// Where the VMM lives: an empty root and namespaces of its own, as nobody, without capabilities.
/// What it needs it opens before it enters.
fn jail(root: &Path) -> Result<Jail, tare_container::Error> {
    let inherit = || Stream::Inherit;
    let spec = Spec {
        // None of them has anything to do with a network: they share an empty one.
        network: Some(tare_container::empty_network()?),
        proc: Proc::None,
        dev: Dev::None,
        sys: false,
        hostname: None,
        seccomp: None,
        user: Some(User { uid: NOBODY, gid: NOBODY, groups: Vec::new() }),
        capabilities: Some(Capabilities::NONE),
        stdio: [inherit(), inherit(), inherit()],
        // Nothing there shows cgroups, so there is no view of them to change.
        namespaces: Namespaces::ALL.without(Namespaces::CGROUP),
        limits: Limits { accounting: has_cheap_cgroups(), ..Limits::default() },
        ..Spec::container(Rootfs::ReadOnly(root.to_owned()), Program::Caller)
    };
    spec.jail()
}

/// Whether a process can be born in its cgroup. In hierarchies of version 1 it has to be moved there,
/// which waits for a grace period of the kernel's: 12 ms.
fn has_cheap_cgroups() -> bool {
    matches!(CgroupLayout::detect(), Ok(CgroupLayout::V2 { .. }))
}

struct Ready {
    name: &'static str,
    kernel: String,
    prepared: tare_vmm::Prepared,
    origin: Origin,
    /// Where further snapshots are taken, where it goes on from one.
    captures: Option<PathBuf>,
    /// None where this process may not make one.
    jail: Option<Jail>,
    disks: GuestDisks,
    link: Option<Link>,
    link_state: Vec<String>,
    output: Output,
}

fn net(network: &Network, backend: Option<NetBackend>) -> NetConfig {
    let backend = backend.unwrap_or_default();
    NetConfig { tap: TapSource::Fd(network.as_raw_fd()), backend, mac: network.guest.mac }
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = self.origin.state();
        state.extend([
            "kernel, initramfs and boot data checked and laid out, in memory".to_owned(),
            machine_state(self.prepared.config()),
            format!("guest kernel {}", self.kernel),
            format!("guest command line: {}", self.prepared.config().cmdline),
            "the VMM is a fork of the harness: its proportional set size includes its share of the \
             harness's pages"
                .to_owned(),
        ]);
        state.push(match self.jail {
            Some(_) => {
                "the VMM is jailed: namespaces with an empty root and no network (made once, \
                        entered by each VMM), own process ids, user nobody, no capabilities, \
                        seccomp"
                    .to_owned()
            }
            None => {
                "the VMM has its seccomp filter but no jail: tare does not run as root".to_owned()
            }
        });
        state.extend(self.jail.as_ref().map(|_| {
            if has_cheap_cgroups() {
                "the VMM has a cgroup of its own, made before its launch".to_owned()
            } else {
                "the VMM has no cgroup of its own: in hierarchies of version 1 that would take \
                 milliseconds of the launch"
                    .to_owned()
            }
        }));
        state.extend(self.prepared.config().blocks.first().map(|block| match block.engine {
            BlockEngine::Sync => "disks: synchronous, on the vCPU's thread".to_owned(),
            BlockEngine::IoUring => "disks: by io_uring".to_owned(),
        }));
        state.extend(self.prepared.config().nets.first().map(|net| match net.backend {
            NetBackend::User => "network: packets moved by the VMM".to_owned(),
            NetBackend::Vhost => {
                "network: packets moved by the host's kernel (vhost-net)".to_owned()
            }
        }));
        state.extend(self.disks.state());
        state.extend(self.link_state.iter().cloned());
        state
    }

    fn reset(&self) -> Result<(), Error> {
        let failed = Error::prepare(self.name);
        self.disks.reset().map_err(|error| failed(&error))?;
        if let Origin::Pooled(pool) = &self.origin {
            pool.refill(&self.prepared).map_err(|error| failed(&error))?;
        }
        self.jail.as_ref().map_or(Ok(()), Jail::ready).map_err(|error| failed(&error))
    }

    fn capture(&self) -> Result<u64, Error> {
        let directory = self.captures.as_ref().ok_or(Error::NoSnapshots)?.join("another");
        let template = Template::new(&self.prepared, &directory);
        // What is left goes with the run's directory, or is in the way of the next.
        let removed = fs::remove_dir_all(&directory);
        let template = template.map_err(|error| Error::launch(self.name)(&error))?;
        removed.map_err(|error| Error::launch(self.name)(&error))?;
        Ok(template.capture_ns)
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let failed = |error: io::Error| Error::launch(self.name)(&error);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        let prepared = &self.prepared;
        let guest_ram_bytes = Some(prepared.config().memory_bytes);
        let mut channels = vec![Channel::records(reader)];
        let mut streams = Streams::new();
        let mut kept = vec![writer.as_raw_fd(), prepared.as_fd().as_raw_fd()];
        kept.extend(self.origin.fd());
        let filled = match &self.origin {
            Origin::Pooled(pool) => Some(pool.take(prepared)),
            _ => None,
        };
        let filled = filled.transpose().map_err(|error| Error::launch(self.name)(&error))?;
        kept.extend(filled.as_ref().map(|filled| filled.as_fd().as_raw_fd()));
        if let Some(link) = &self.link {
            kept.extend(link.network.as_ref().map(AsRawFd::as_raw_fd));
            if let Some(stream) = link.connect().map_err(failed)? {
                kept.push(stream.as_raw_fd());
                streams.insert(VSOCK_PORT, stream);
            }
        }
        if self.output != Output::Null {
            let (ours, guests) = self.converse().map_err(failed)?;
            kept.push(guests.as_raw_fd());
            streams.insert(CONVERSATION_PORT, guests);
            channels.push(Channel::conversing(ours.into()));
        }
        let Some(jail) = &self.jail else {
            // SAFETY: this process has a single thread (the harness starts none), so the child may
            // go on using all of the program.
            return match unsafe { libc::fork() } {
                -1 => Err(failed(io::Error::last_os_error())),
                0 => {
                    leave_the_harness();
                    close_all_but(kept);
                    let code = become_vmm(&self.origin, prepared, filled, streams, &writer, None);
                    // SAFETY: ends this process at once; atexit handlers belong to the parent.
                    unsafe { libc::_exit(code) }
                }
                pid => {
                    let child = Child::adopt(pid).map_err(failed)?;
                    Ok(Box::new(Running { child, channels, guest_ram_bytes }))
                }
            };
        };
        let child = |entrance: Entrance<'_>| {
            leave_the_harness();
            // SAFETY: the VMM uses what is kept and what it opens itself, nothing else.
            unsafe { entrance.close_all_but(&kept) };
            become_vmm(&self.origin, prepared, filled, streams, &writer, Some(entrance))
        };
        // SAFETY: as above.
        let container = unsafe { jail.fork(child) };
        let container = container.map_err(|error| Error::launch(self.name)(&error))?;
        Ok(Box::new(Jailed { container, channels, guest_ram_bytes }))
    }
}

impl Ready {
    /// The two ends of a command's conversation. Where nobody attends it, its input ends here.
    fn converse(&self) -> io::Result<(UnixStream, UnixStream)> {
        let (mut ours, guests) = UnixStream::pair()?;
        if self.output == Output::Captured {
            ours.write_all(&frame_header(FrameKind::Stdin, 0))?;
        }
        Ok((ours, guests))
    }
}
