//! The end of the box.

use alloc::string::ToString;

use tare_workload::{FrameKind, Outlet};

use crate::ioport;
use crate::outlet::Port;

/// The keyboard controller's command port, and its command to pulse the processor's reset line:
/// the way to reset a PC that every VMM for Linux guests understands.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xFE;

/// Exit status of an agent that panicked, as of any error that is not the command's own.
#[cfg(panic = "abort")]
const PANICKED: i32 = 125;

/// Says why, as an error frame. The box ends with or without it.
pub(crate) fn report_error(port: Port, error: &dyn core::error::Error) {
    let _ = port.frame(FrameKind::Error, error.to_string().as_bytes());
}

/// Ends the box: a process by its exit status, a machine by a frame with the status and a reset.
pub(crate) fn end(port: Port, status: i32, has_writable_mount: bool) -> ! {
    if port.is_machine() {
        let _ = port.frame(FrameKind::Exit, &status.to_le_bytes());
        if has_writable_mount {
            // SAFETY: touches no memory.
            unsafe { libc::sync() };
        }
        reset();
    }
    // Without running what was registered for the end: there is nothing.
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Resets the machine. Returns only if neither way works; then PID 1 ends and the kernel panics.
fn reset() {
    if ioport::allow(I8042_COMMAND, 1).is_ok() {
        // SAFETY: just allowed, and a reset is what is wanted.
        unsafe { ioport::write(I8042_COMMAND, I8042_RESET) };
    }
    // SAFETY: ends the machine or fails.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}

/// Ends the box after a panic, with its message.
#[cfg(panic = "abort")]
pub(crate) fn after_panic(message: &str) -> ! {
    if let Some(port) = Port::current() {
        let _ = port.frame(FrameKind::Error, message.as_bytes());
        end(port, PANICKED, true);
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(crate::outlet::complain(message)) }
}
