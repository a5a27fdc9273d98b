//! The process that is the VMM, from the fork on.

use std::error;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicI32, Ordering};

use tare_container::Entrance;
use tare_vmm::{Filled, Observer, Streams, Times};
use tare_workload::{Decoder, Event};

use super::super::channel::record;
use super::origin::Origin;
use crate::clock::now_ns;
use crate::interrupt;

/// The descriptor on which the VMM's process writes its records, once it is that process.
static RECORD_FD: AtomicI32 = AtomicI32::new(-1);

/// The harness's end is the VMM's. The harness's handlers are not, nor what the user types at its
/// terminal.
pub(in crate::backend) fn leave_the_harness() {
    // SAFETY: plain numbers, and no handler is installed.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for signal in interrupt::FORWARDED {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
    }
}

/// The child's life; its result is its exit status.
pub(super) fn become_vmm(
    origin: &Origin,
    prepared: &tare_vmm::Prepared,
    filled: Option<Filled>,
    streams: Streams,
    writer: &OwnedFd,
    entrance: Option<Entrance<'_>>,
) -> i32 {
    RECORD_FD.store(writer.as_raw_fd(), Ordering::Relaxed);
    // A panic must not unwind into the frames, and run the destructors, of the parent.
    let run = AssertUnwindSafe(|| run_vmm(origin, prepared, filled, streams, entrance));
    let failure = match panic::catch_unwind(run) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the VMM panicked; standard error says where".to_owned()),
    };
    if let Some(why) = &failure {
        send(now_ns(), record::FAILURE, why.as_bytes());
    }
    i32::from(failure.is_some())
}

/// Closes what the harness has open, except these descriptors and the standard ones: standard error
/// is for a panic's message.
pub(in crate::backend) fn close_all_but(mut kept: Vec<i32>) {
    kept.sort_unstable();
    let mut first = 3;
    for kept in kept.into_iter().map(i32::unsigned_abs).chain([u32::MAX]) {
        if kept > first {
            // SAFETY: plain numbers; nothing in this process uses the parent's descriptors.
            unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) };
        }
        first = first.max(kept.saturating_add(1));
    }
}

fn run_vmm(
    origin: &Origin,
    prepared: &tare_vmm::Prepared,
    filled: Option<Filled>,
    streams: Streams,
    entrance: Option<Entrance<'_>>,
) -> Result<(), Box<dyn error::Error>> {
    let mut vmm = origin.launch(prepared, filled, streams)?;
    if let Some(entrance) = entrance {
        entrance.enter()?;
    }
    vmm.confine();
    let outcome = vmm.run()?;
    drop(vmm);
    let exits: String =
        outcome.exits.iter().map(|(reason, count)| format!("{reason} {count}\n")).collect();
    send(now_ns(), record::EXITS, exits.as_bytes());
    let Times { guest_ns, vmm_ns } = outcome.times;
    let times = format!("guest {guest_ns}\nvmm {vmm_ns}\n");
    send(now_ns(), record::TIMES, times.as_bytes());
    Ok(())
}

/// Writes what the VMM observes to the harness.
///
/// KVM exits for each byte of a string output instruction (Linux, arch/x86/kvm/emulate.c), so
/// bytes arrive singly. A mark goes on at once; a frame, or a line of console text, when it is
/// whole.
#[derive(Default)]
pub(super) struct Recorder {
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
    // SAFETY: `become_vmm` keeps the descriptor for this process alone, and nothing closes it.
    let mut pipe =
        ManuallyDrop::new(unsafe { File::from_raw_fd(RECORD_FD.load(Ordering::Relaxed)) });
    let _ = write_record(&mut pipe, &header, &payload[..length]);
}

fn write_record(pipe: &mut File, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let written = pipe.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])?;
    pipe.write_all(header.get(written..).unwrap_or_default())?;
    pipe.write_all(payload.get(written.saturating_sub(header.len())..).unwrap_or_default())
}
