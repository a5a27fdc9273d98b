//! QEMU's microvm machine on KVM: the same kernel, initramfs and agent in another VMM.
//!
//! Its serial port is its standard output, so the agent's marks are stamped by the harness as it
//! wakes, like those of a process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tare_workload::Channel as Wire;

use super::channel::Channel;
use super::instance::{Child, Instance, Running};
use super::microvm::{probe_virtualization, suits_guest};
use super::peer::Link;
use super::{Assignment, Availability, Backend, Error, Output, Prepared, Transport};
use crate::kit::{GuestDisks, Kit};

const NAME: &str = "qemu";
const PROGRAM: &str = "qemu-system-x86_64";

/// No firmware option ROMs, no ACPI, no second I/O APIC, no clock that the guest does not use; the
/// serial port that the agent's channel needs.
const MACHINE: [&str; 13] = [
    "-M",
    "microvm,x-option-roms=off,acpi=off,ioapic2=off,rtc=off,isa-serial=on,pit=on,pic=on,\
     auto-kernel-cmdline=off",
    "-accel",
    "kvm",
    "-cpu",
    "host",
    "-no-user-config",
    "-nodefaults",
    "-no-reboot",
    "-display",
    "none",
    "-serial",
    "stdio",
];

/// Where the microvm machine without ACPI has its virtio-mmio transports, and their first
/// interrupt line (QEMU, hw/i386/microvm.c).
const VIRTIO_MMIO_BASE: usize = 0xfeb0_0000;
const VIRTIO_MMIO_BYTES: usize = 512;
const VIRTIO_MMIO_IRQ: usize = 5;

/// The backend; see the module's text.
pub(super) struct QemuMicroVm;

impl Backend for QemuMicroVm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "QEMU's microvm machine with KVM, same kernel and initramfs"
    }

    fn probe(&self, kit: &Kit) -> Availability {
        let version = Command::new(PROGRAM)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !version.is_ok_and(|status| status.success()) {
            return Availability::Unavailable {
                why: format!("{PROGRAM} is not installed"),
                remedy: "apt-get install qemu-system-x86".to_owned(),
            };
        }
        probe_virtualization(kit)
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        suits_guest(assignment)
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(NAME);
        if let Output::Attended { .. } = assignment.output {
            return Err(failed(&"it has no way in for a command's input; use the microvm"));
        }
        let disks = GuestDisks::new(kit, assignment).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Com1;
        disks.name_in(&mut job);
        let kernel = kit.kernel_for(assignment).map_err(|error| failed(&error))?;
        kit.name_modules_in(assignment, &mut job).map_err(|error| failed(&error))?;
        let initramfs = kit.initramfs().map_err(|error| failed(&error))?;
        let memory_bytes = assignment.memory_mib << 20;
        // The line ends with the agent's words, so QEMU must not append to it: devices are named
        // here. Without an i8042 the guest ends by a triple fault, on which `-no-reboot` ends QEMU.
        let mut command_line = kernel.command_line.replace("reboot=k", "reboot=t");
        let mut disk_arguments = Vec::new();
        let disk_paths = [disks.root.as_deref(), disks.scratch.as_deref()];
        let mut slot = 0;
        for (index, path) in disk_paths.into_iter().flatten().enumerate() {
            if !kernel.acpi {
                command_line += &slot_word(index);
            }
            disk_arguments.extend(disk(index, path, assignment.direct));
            slot = index + 1;
        }
        let link = match assignment.transport {
            Some(Transport::Vsock) => Link::vsock().map(Some),
            Some(Transport::Net) => Link::net(kit).map(Some),
            None if assignment.wiring.is_bridge() => Link::alone(kit).map(Some),
            None => Ok(None),
        };
        let link = link.map_err(|error| failed(&error))?;
        let mut link_arguments = Vec::new();
        if let Some(link) = &link {
            link.name_in(&mut job);
            if !kernel.acpi {
                command_line += &slot_word(slot);
            }
            link_arguments = link_device(link, slot);
        }
        let words = job.to_cmdline().map_err(|error| failed(&error))?;
        let mut arguments: Vec<String> = MACHINE.map(str::to_owned).to_vec();
        if kernel.acpi {
            arguments[1] = arguments[1].replace("acpi=off", "acpi=on");
        }
        arguments.extend(["-smp".to_owned(), kit.machine().vcpus.to_string()]);
        arguments.extend(["-m".to_owned(), assignment.memory_mib.to_string()]);
        arguments.extend(["-kernel".to_owned(), kernel.path.display().to_string()]);
        arguments.extend(["-initrd".to_owned(), initramfs.display().to_string()]);
        arguments.extend(["-append".to_owned(), format!("{command_line} -- {words}")]);
        arguments.extend(disk_arguments);
        arguments.extend(link_arguments);
        let kernel = kernel.name.clone();
        let link_state = link.as_ref().map(|link| link.state(kit)).unwrap_or_default();
        Ok(Box::new(Ready { kernel, arguments, memory_bytes, disks, link, link_state }))
    }
}

/// What the guest's kernel must know of a device in that slot.
fn slot_word(slot: usize) -> String {
    let address = VIRTIO_MMIO_BASE + slot * VIRTIO_MMIO_BYTES;
    let irq = VIRTIO_MMIO_IRQ + slot;
    format!(" virtio_mmio.device={VIRTIO_MMIO_BYTES}@{address:#x}:{irq}")
}

fn disk(index: usize, path: &Path, direct: bool) -> [String; 4] {
    // Past the page cache its best: in the lab 124 µs a random read of 4 KiB, against 126 with
    // aio=native, 148 with threads, and 145 with aio=native in an I/O thread of its own.
    let cache = if direct { "cache.direct=on,aio=io_uring" } else { "cache.direct=off" };
    // A comma in a QEMU option is written twice.
    let path = path.display().to_string().replace(',', ",,");
    [
        "-drive".to_owned(),
        format!("id=disk{index},file={path},format=raw,if=none,{cache}"),
        "-device".to_owned(),
        format!("virtio-blk-device,drive=disk{index},bus=virtio-mmio-bus.{index}"),
    ]
}

/// The guest's address at the host's virtual sockets; no other guest runs meanwhile.
const GUEST_CID: u32 = 0x7a7e;

/// The device by which a guest reaches its peer, in QEMU's best setting: the host's kernel moves
/// the data (vhost), and the device is a modern one.
fn link_device(link: &Link, slot: usize) -> Vec<String> {
    let modern = ["-global", "virtio-mmio.force-legacy=false"].map(str::to_owned);
    let bus = format!("bus=virtio-mmio-bus.{slot}");
    let device = match &link.network {
        None => {
            vec!["-device".to_owned(), format!("vhost-vsock-device,guest-cid={GUEST_CID},{bus}")]
        }
        Some(network) => vec![
            "-netdev".to_owned(),
            format!("tap,id=net,fd={},vhost=on", network.as_raw_fd()),
            "-device".to_owned(),
            format!("virtio-net-device,netdev=net,mac={},{bus}", network.mac_text()),
        ],
    };
    modern.into_iter().chain(device).collect()
}

struct Ready {
    kernel: String,
    arguments: Vec<String>,
    memory_bytes: u64,
    disks: GuestDisks,
    link: Option<Link>,
    link_state: Vec<String>,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = vec![
            "cold boot".to_owned(),
            "QEMU, kernel and initramfs in the host's page cache".to_owned(),
            format!("guest kernel {}", self.kernel),
            format!("{PROGRAM} {}", self.arguments.join(" ")),
        ];
        state.extend(self.disks.state());
        state.extend(self.link_state.iter().cloned());
        state
    }

    fn reset(&self) -> Result<(), Error> {
        self.disks.reset().map_err(|error| Error::prepare(NAME)(&error))
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let failed = |error: io::Error| Error::launch(NAME)(&error);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new(PROGRAM);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
        let network = self.link.as_ref().and_then(|link| link.network.as_ref());
        let tap = network.map(AsRawFd::as_raw_fd);
        // SAFETY: prctl and fcntl with plain numbers are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let dies = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0;
                // QEMU inherits it, under its own number.
                let has_tap = tap.is_none_or(|tap| libc::fcntl(tap, libc::F_SETFD, 0) == 0);
                if dies && has_tap { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
        let pid = command.spawn().map_err(failed)?.id();
        drop(command);
        let pid = i32::try_from(pid).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
        Ok(Box::new(Running {
            child: Child::adopt(pid).map_err(failed)?,
            channels: vec![Channel::raw(OwnedFd::from(reader))],
            guest_ram_bytes: Some(self.memory_bytes),
        }))
    }
}
