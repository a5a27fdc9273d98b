//! I/O ports from user space, by leave of ioperm(2).

use core::arch::asm;

use tare_workload::Errno;

/// Asks the kernel for `count` ports from `first`.
///
/// # Errors
/// `EPERM` without CAP_SYS_RAWIO, `ENOSYS` in a kernel without `CONFIG_X86_IOPL_IOPERM`.
pub(crate) fn allow(first: u16, count: u16) -> Result<(), Errno> {
    // SAFETY: grants access and touches no memory.
    match unsafe { ioperm(first.into(), count.into(), 1) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

unsafe extern "C" {
    fn ioperm(first: libc::c_ulong, count: libc::c_ulong, turn_on: libc::c_int) -> libc::c_int;
}

/// Writes a byte to a port.
///
/// # Safety
/// The port must have been [allowed](allow), or this is a general protection fault; and what the
/// device behind it does must be wanted.
pub(crate) unsafe fn write(port: u16, byte: u8) {
    // SAFETY: the caller's.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags))
    };
}

/// Reads a byte from a port.
///
/// # Safety
/// As [`write()`].
pub(crate) unsafe fn read(port: u16) -> u8 {
    let byte;
    // SAFETY: the caller's.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags))
    };
    byte
}

/// Reads bytes from a port, one after the other, by a single instruction.
///
/// # Safety
/// As [`write()`].
pub(crate) unsafe fn read_all(port: u16, bytes: &mut [u8]) {
    // SAFETY: fills exactly `bytes`; the direction flag is clear by the calling convention. The
    // rest is the caller's.
    unsafe {
        asm!(
            "rep insb",
            in("dx") port,
            inout("rdi") bytes.as_mut_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes bytes to a port, one after the other, by a single instruction.
///
/// # Safety
/// As [`write()`].
pub(crate) unsafe fn write_all(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly `bytes`; the direction flag is clear by the calling convention. The
    // rest is the caller's.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        );
    }
}
