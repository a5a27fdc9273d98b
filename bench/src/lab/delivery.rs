//! Has every interrupt that the lab's KVM injects delivered once.
//!
//! QEMU's emulated VMRUN remembers the vector that it has injected until the guest's next exit or
//! exception (`exception_index`, target/i386/tcg/sysemu/svm_helper.c). If its main loop is due in
//! between, for a timer of the emulated host's, it takes what it remembers for an exception that
//! is still to be delivered: the guest's handler begins a second time, inside the first. A guest
//! kernel with spinlocks then now and then waits for a lock that it holds itself.
//!
//! The remedy is to leave no time in between. A program at KVM's tracepoint `kvm_inj_virq` makes a
//! note; one at `kvm_entry`, which KVM passes with interrupts off, finds the note and sends this
//! CPU an interrupt. It is pending when VMRUN begins, so the guest exits before its handler's first
//! instruction, and QEMU forgets. Every guest in the lab pays for it alike, whoever its VMM is: one
//! exit more for each interrupt, and two dozen instructions for each entry.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd`, include/uapi/linux/bpf.h; so are all numbers below.
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
/// A note for each of so many CPUs; a power of two.
const CPUS: u32 = 8;
const NOTE_BYTES: u32 = 8;

const GET_SMP_PROCESSOR_ID: i32 = 8;
/// Signal 0 reaches nobody, but on its way with interrupts off it goes by an interrupt to this CPU.
const SEND_SIGNAL_THREAD: i32 = 117;

/// One instruction: operation, registers (target in the low half), offset, immediate.
type Instruction = (u8, u8, i16, i32);

/// The tail of a command's attributes is zero; the kernel takes any length.
#[derive(Default)]
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

#[derive(Default)]
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
}

#[derive(Default)]
#[repr(C)]
struct TracepointAttributes {
    name: u64,
    program: u32,
    padding: u32,
}

/// Puts both programs in place; they stay for as long as the descriptors are open.
///
/// # Errors
/// The kernel's, with the name of what it refused.
pub(super) fn deliver_once() -> io::Result<[OwnedFd; 2]> {
    let notes = MapAttributes {
        kind: MAP_TYPE_ARRAY,
        key_bytes: 4,
        value_bytes: CPUS * NOTE_BYTES,
        entries: 1,
    };
    let notes = bpf(MAP_CREATE, &notes).map_err(named("map"))?;
    let make_note = [(0x7a, 0x01, 0, 1)];
    let answer_note = [
        (0x79, 0x12, 0, 0), // r2 = the note
        (0x15, 0x02, 3, 0), // if there is none, skip three
        (0x7a, 0x01, 0, 0), // take it away
        (0xb7, 0x01, 0, 0), // r1 = signal 0
        (0x85, 0x00, 0, SEND_SIGNAL_THREAD),
    ];
    Ok([attach(c"kvm_inj_virq", &notes, &make_note)?, attach(c"kvm_entry", &notes, &answer_note)?])
}

/// Attaches a program that begins with r1 at this CPU's note and ends after `body`.
fn attach(tracepoint: &CStr, notes: &OwnedFd, body: &[Instruction]) -> io::Result<OwnedFd> {
    let beginning: [Instruction; 6] = [
        (0x85, 0x00, 0, GET_SMP_PROCESSOR_ID),
        (0x57, 0x00, 0, (CPUS - 1).cast_signed()),
        (0x67, 0x00, 0, NOTE_BYTES.ilog2().cast_signed()),
        // The address of the map's first value: an instruction of two halves.
        (0x18, 0x21, 0, notes.as_raw_fd()),
        (0x00, 0x00, 0, 0),
        (0x0f, 0x01, 0, 0), // r1 += r0
    ];
    let end: [Instruction; 2] = [(0xb7, 0x00, 0, 0), (0x95, 0x00, 0, 0)];
    let code: Vec<u64> = beginning.iter().chain(body).chain(&end).map(encode).collect();
    let program = ProgramAttributes {
        kind: PROG_TYPE_RAW_TRACEPOINT,
        instruction_count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr().addr() as u64,
        licence: c"GPL".as_ptr().addr() as u64,
    };
    let named = |error| named(&tracepoint.to_string_lossy())(error);
    let program = bpf(PROG_LOAD, &program).map_err(named)?;
    let point = TracepointAttributes {
        name: tracepoint.as_ptr().addr() as u64,
        program: program.as_raw_fd().cast_unsigned(),
        ..TracepointAttributes::default()
    };
    bpf(RAW_TRACEPOINT_OPEN, &point).map_err(named)
}

/// As `struct bpf_insn` lies in memory.
fn encode(&(operation, registers, offset, immediate): &Instruction) -> u64 {
    u64::from(operation)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

fn named(what: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("BPF {what}: {error}"))
}

/// Every command that is used here returns a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: bpf(2) reads `size_of::<T>()` bytes, and what the addresses among them point to,
    // which the callers keep until it returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes, std::mem::size_of::<T>()) };
    let Ok(fd @ 0..) = i32::try_from(result) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_encode_lays_out_an_instruction_as_the_kernel_does() {
        // The kernel's own example: r0 = 1 (BPF_ALU64 | BPF_MOV | BPF_K).
        assert_eq!(encode(&(0xb7, 0x00, 0, 1)).to_le_bytes(), [0xb7, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(encode(&(0x7a, 0x01, -8, -1)).to_le_bytes()[1..4], [0x01, 0xf8, 0xff]);
    }
}
