//! The ports by which bytes leave the lab.
//!
//! QEMU's `isa-debugcon` takes any byte written to its port and appends it to a file or stream;
//! `isa-debug-exit` ends the machine at the instruction that writes to it. Both are instantaneous
//! in virtual time, unlike a serial port with its FIFO and interrupts.

use std::arch::asm;
use std::io::{self, Write};

/// Standard output of the order.
pub(crate) const STDOUT: u16 = 0xe9;
/// Standard error of the order.
pub(crate) const STDERR: u16 = 0xea;
/// The archive of what the order left in the output directory.
pub(crate) const ARCHIVE: u16 = 0xeb;
/// Ends the machine.
pub(crate) const EXIT: u16 = 0xf4;

/// Asks the kernel to let this process use the four ports.
///
/// # Errors
/// What ioperm(2) says: without CAP_SYS_RAWIO it is refused.
pub(crate) fn allow() -> io::Result<()> {
    for port in [STDOUT, STDERR, ARCHIVE, EXIT] {
        // SAFETY: ioperm takes plain numbers and changes only this thread's I/O permissions.
        if unsafe { libc::ioperm(u64::from(port), 1, 1) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A writer to one of the ports; [`allow`] must have succeeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port(pub(crate) u16);

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `rep outsb` reads `bytes.len()` bytes from `bytes` and writes no memory. A port
        // that is not allowed faults this process instead of harming another.
        unsafe {
            asm!(
                "rep outsb",
                in("dx") self.0,
                inout("rcx") bytes.len() => _,
                inout("rsi") bytes.as_ptr() => _,
                options(nostack, readonly)
            );
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends the machine; QEMU's own exit status becomes 1. The order's exit code is in the archive,
/// since this port has room for seven bits only.
pub(crate) fn exit() -> ! {
    loop {
        // SAFETY: as in `Port::write`; the device ends the machine at this instruction.
        unsafe { asm!("out dx, al", in("dx") EXIT, in("al") 0u8, options(nostack, nomem)) };
    }
}
