//! Our own microVM: a child of this process, forked and not exec'd, that becomes the VMM.
//!
//! The VMM stamps edges on its vCPU thread and sends them as records over a pipe; the guest's
//! serial port carries the agent's channel.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic;
use std::path::Path;

use tare_vmm::{BlockConfig, Config, Observer, Vmm};
use tare_workload::{Channel as Wire, Decoder, Event};

use super::channel::{Channel, record};
use super::instance::{Child, Instance, Running};
use super::{Assignment, Availability, Backend, Error, Prepared};
use crate::clock::now_ns;
use crate::host;
use crate::kit::{GuestDisks, Kit};

const NAME: &str = "microvm";
/// The descriptor on which the VMM's process writes its records.
const RECORD_FD: i32 = 3;

/// The backend; see the module's text.
pub(super) struct MicroVm;

impl Backend for MicroVm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "our KVM microVM, booted cold"
    }

    fn probe(&self, kit: &Kit) -> Availability {
        probe_virtualization(kit)
    }

    fn prepare(&self, kit: &Kit, assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(NAME);
        let disks = GuestDisks::new(kit, assignment).map_err(|error| failed(&error))?;
        let mut job = assignment.job.clone();
        job.channel = Wire::Com1;
        disks.name_in(&mut job);
        let kernel = kit.guest_kernel().map_err(|error| failed(&error))?;
        let block = |path: &Path, read_only, direct| BlockConfig {
            path: path.to_owned(),
            read_only,
            direct,
        };
        let words = job.to_cmdline().map_err(|error| failed(&error))?;
        let mut blocks = Vec::new();
        blocks.extend(disks.root.as_deref().map(|path| block(path, false, false)));
        blocks.extend(disks.scratch.as_deref().map(|path| block(path, false, assignment.direct)));
        let memory_bytes = assignment.memory_mib << 20;
        let config = Config {
            kernel: kernel.path.clone(),
            initramfs: Some(kit.initramfs().map_err(|error| failed(&error))?.to_owned()),
            cmdline: format!("{} -- {words}", kernel.command_line),
            memory_bytes,
            blocks,
            ..Config::default()
        };
        Ok(Box::new(Ready { config, disks }))
    }
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

struct Ready {
    config: Config,
    disks: GuestDisks,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        let mut state = vec![
            "cold boot".to_owned(),
            "kernel and initramfs in the host's page cache".to_owned(),
            format!("guest command line: {}", self.config.cmdline),
            "the VMM is a fork of the harness: its proportional set size includes its share of the \
             harness's pages"
                .to_owned(),
        ];
        state.extend(self.disks.state());
        state
    }

    fn reset(&self) -> Result<(), Error> {
        self.disks.reset().map_err(|error| Error::prepare(NAME)(&error))
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        let failed = |error: io::Error| Error::launch(NAME)(&error);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        // SAFETY: this process has a single thread (the harness starts none), so the child may go
        // on using all of the program.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(failed(io::Error::last_os_error())),
            0 => become_vmm(&self.config, &writer),
            _ => {
                let child = Child::adopt(pid).map_err(failed)?;
                drop(writer);
                Ok(Box::new(Running {
                    child,
                    channels: vec![Channel::records(reader)],
                    guest_ram_bytes: Some(self.config.memory_bytes),
                }))
            }
        }
    }
}

/// The child's life: no return, no destructors of the parent's values.
fn become_vmm(config: &Config, writer: &OwnedFd) -> ! {
    // SAFETY: system calls on plain numbers. The child must not outlive the harness, and must not
    // hold what the harness has open; standard error stays for a panic's message.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(writer.as_raw_fd(), RECORD_FD);
        libc::syscall(libc::SYS_close_range, RECORD_FD.unsigned_abs() + 1, u32::MAX, 0);
    }
    // A panic must not unwind into the frames, and run the destructors, of the parent.
    let failure = match panic::catch_unwind(|| run_vmm(config)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the VMM panicked; standard error says where".to_owned()),
    };
    if let Some(why) = &failure {
        send(now_ns(), record::FAILURE, why.as_bytes());
    }
    let code = i32::from(failure.is_some());
    // SAFETY: ends this process at once; atexit handlers belong to the parent.
    unsafe { libc::_exit(code) }
}

fn run_vmm(config: &Config) -> Result<(), tare_vmm::Error> {
    let vmm = Vmm::new(config, Box::<Recorder>::default())?;
    let outcome = vmm.run()?;
    let exits: String =
        outcome.exits.iter().map(|(reason, count)| format!("{reason} {count}\n")).collect();
    send(now_ns(), record::EXITS, exits.as_bytes());
    Ok(())
}

/// Writes what the VMM observes to the harness.
///
/// KVM exits for each byte of a string output instruction (Linux, arch/x86/kvm/emulate.c), so
/// bytes arrive singly. A mark goes on at once; a frame, or a line of console text, when it is
/// whole.
#[derive(Default)]
struct Recorder {
    decoder: Decoder,
    pending: Vec<u8>,
}

impl Observer for Recorder {
    fn edge(&mut self, edge: tare_vmm::Edge, at_ns: u64) {
        match edge {
            tare_vmm::Edge::Enter => send(at_ns, record::ENTER, &[]),
            tare_vmm::Edge::FirstExit => send(at_ns, record::KERNEL, &[]),
            tare_vmm::Edge::End => self.flush(at_ns),
            tare_vmm::Edge::Created | tare_vmm::Edge::Loaded => {}
        }
    }

    fn serial(&mut self, at_ns: u64, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let mut is_whole = false;
        let decoded = self.decoder.push(bytes, |event| {
            is_whole |= !matches!(&event, Event::Text(text) if !text.ends_with(b"\n"));
        });
        // What cannot be decoded here cannot be there either: the harness will say so.
        if is_whole || decoded.is_err() || self.pending.len() >= record::PAYLOAD_MAX_BYTES / 2 {
            self.flush(at_ns);
        }
    }
}

impl Recorder {
    fn flush(&mut self, at_ns: u64) {
        if !self.pending.is_empty() {
            send(at_ns, record::SERIAL, &self.pending);
            self.pending.clear();
        }
    }
}

/// One record in one writev(2), from the stack. A harness that is gone is no news to its child,
/// which is about to be killed.
fn send(at_ns: u64, kind: u32, payload: &[u8]) {
    let length = payload.len().min(record::PAYLOAD_MAX_BYTES);
    let header = record::header(at_ns, kind, u32::try_from(length).unwrap_or(0));
    // SAFETY: `become_vmm` opened the descriptor for this process alone, and nothing closes it.
    let mut pipe = ManuallyDrop::new(unsafe { File::from_raw_fd(RECORD_FD) });
    let _ = write_record(&mut pipe, &header, &payload[..length]);
}

fn write_record(pipe: &mut File, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let written = pipe.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])?;
    pipe.write_all(header.get(written..).unwrap_or_default())?;
    pipe.write_all(payload.get(written.saturating_sub(header.len())..).unwrap_or_default())
}
