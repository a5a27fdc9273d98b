//! The channel to the host: a descriptor or the first serial port.

use core::hint;
use core::sync::atomic::{AtomicI32, Ordering};

use tare_workload::{
    Channel, Errno, FRAME_PAYLOAD_MAX_BYTES, FrameKind, Mark, Outlet, frame_header,
};

use crate::{ioport, renewal};

/// COM1's data register; its line status register is 5 above.
const COM1: u16 = 0x3F8;
const LINE_STATUS: u16 = COM1 + 5;
/// The transmitter has room (16550 data sheet, line status bit 5).
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// So often the transmitter is asked before the bytes are written all the same: a host that does
/// not empty its end must not keep the box alive.
const TRANSMITTER_PATIENCE: u32 = 1_000_000;
/// Bytes per string instruction. KVM's emulator still leaves for user space at every byte (`em_out`,
/// arch/x86/kvm/emulate.c), but enters the guest only once in a thousand; other hypervisors take up
/// to a page at once.
const CHUNK_BYTES: usize = 4096;

/// Where a panic reports to: a descriptor, or one of the two values below.
static CURRENT: AtomicI32 = AtomicI32::new(NONE);
const NONE: i32 = -1;
const SERIAL: i32 = -2;

/// An open channel. `init` has been pushed on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port(Channel);

impl Port {
    /// Opens the channel and pushes `init`, before anything else; a template of guests parks before
    /// that, so that each of its copies pushes its own.
    pub(crate) fn open(channel: Channel, parks: bool) -> Result<Port, &'static str> {
        if channel == Channel::Com1 {
            // A box that ends resets the machine. Only the init of a machine may do that.
            // SAFETY: always succeeds.
            if unsafe { libc::getpid() } != 1 {
                return Err("tare-guest: channel=com1 is for the first process of a microVM");
            }
            if ioport::allow(COM1, 8).is_err() {
                return Err("tare-guest: no access to I/O port 0x3f8; \
                            the kernel needs CONFIG_X86_IOPL_IOPERM=y");
            }
            if parks && renewal::park().is_err() {
                return Err("tare-guest: no access to I/O port 0xe00 of our VMM");
            }
        }
        let port = Port(channel);
        port.mark(Mark::Init);
        CURRENT.store(if let Channel::Fd(fd) = channel { fd } else { SERIAL }, Ordering::Relaxed);
        Ok(port)
    }

    /// The channel that was opened, if any.
    #[cfg(panic = "abort")]
    pub(crate) fn current() -> Option<Port> {
        match CURRENT.load(Ordering::Relaxed) {
            NONE => None,
            SERIAL => Some(Port(Channel::Com1)),
            fd => Some(Port(Channel::Fd(fd))),
        }
    }

    /// True if the box is a virtual machine, which this process ends.
    pub(crate) fn is_machine(self) -> bool {
        self.0 == Channel::Com1
    }

    fn write(self, bytes: &[u8]) -> Result<(), Errno> {
        match self.0 {
            Channel::Fd(fd) => write_all(fd, bytes),
            Channel::Com1 => {
                bytes.chunks(CHUNK_BYTES).for_each(write_serial);
                Ok(())
            }
        }
    }
}

impl Outlet for Port {
    fn mark(&self, mark: Mark) {
        match self.0 {
            // SAFETY: `open` was allowed the port, and this is what it is for.
            Channel::Com1 => unsafe { ioport::write(COM1, mark.byte()) },
            // A channel whose reader is gone raises SIGPIPE, which ends this process.
            Channel::Fd(fd) => drop(write_all(fd, &[mark.byte()])),
        }
    }

    fn frame(&self, kind: FrameKind, payload: &[u8]) -> Result<(), Errno> {
        let payload = payload.get(..FRAME_PAYLOAD_MAX_BYTES).unwrap_or(payload);
        // It fits: the limit is far below.
        let header = frame_header(kind, payload.len() as u32);
        self.write(&header)?;
        self.write(payload)
    }

    fn seal(&self) -> Result<(), Errno> {
        match self.0 {
            Channel::Com1 => Ok(()),
            // SAFETY: touches no memory.
            Channel::Fd(fd) => match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
                -1 => Err(Errno::last()),
                _ => Ok(()),
            },
        }
    }
}

fn write_serial(bytes: &[u8]) {
    // SAFETY: `open` was allowed the ports, and this is what they are for.
    unsafe {
        for _ in 0..TRANSMITTER_PATIENCE {
            if ioport::read(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                break;
            }
            hint::spin_loop();
        }
        ioport::write_all(COM1, bytes);
    }
}

fn write_all(fd: i32, bytes: &[u8]) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the bytes are valid for reading of their length.
        let written = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(written) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(_) => match Errno::last() {
                Errno(libc::EINTR) => {}
                errno => return Err(errno),
            },
        }
    }
    Ok(())
}

/// Says on standard error why there is no channel to say it on; returns the exit status.
pub(crate) fn complain(why: &str) -> i32 {
    let _ = write_all(2, why.as_bytes());
    let _ = write_all(2, b"\n");
    125
}
