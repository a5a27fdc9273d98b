//! The init of a box, for programs that are none: it passes signals on, reaps, and ends as they do.
//!
//! It is a program of its own, of some 200 bytes, so that a box holds nothing of its maker's memory:
//! an executable made here, of the machine code below, and kept in a sealed memory file.

use std::arch::global_asm;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::Error;

// Its arguments: its own name, the paths where the program may be, an empty one, then the program's
// arguments. All signals are blocked, and taken one by one (rt_sigtimedwait(2)). The program gets a
// process group of its own, and the terminal if there is one, so that what the terminal's user types
// reaches it once. It ends with 127 where no program was found, with 126 where none could be
// executed.
global_asm!(
    ".pushsection .rodata.tare_init, \"a\", @progbits",
    ".globl tare_init_begin",
    ".globl tare_init_end",
    "tare_init_begin:",
    "mov r12, [rsp]",
    "lea r13, [rsp + 16]",         // the first path
    "lea r15, [rsp + r12*8 + 16]", // the environment
    "mov r14, r13",
    "2:",
    "mov rax, [r14]",
    "add r14, 8", // at last: the program's arguments
    "cmp byte ptr [rax], 0",
    "jne 2b",
    "sub rsp, 32",
    "mov qword ptr [rsp], -1",
    "call 10f",
    "mov eax, 57", // fork
    "syscall",
    "test eax, eax",
    "jz 6f",
    "mov edi, 126",
    "js 5f",
    "mov ebp, eax",
    "3:",
    "mov eax, 128", // rt_sigtimedwait
    "mov rdi, rsp",
    "xor esi, esi",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "cmp eax, 17", // SIGCHLD
    "je 4f",
    "test eax, eax",
    "js 3b",
    "mov esi, eax",
    "mov edi, ebp",
    "mov eax, 62", // kill
    "syscall",
    "jmp 3b",
    "4:",
    "mov eax, 61", // wait4, without waiting
    "mov edi, -1",
    "lea rsi, [rsp + 8]",
    "mov edx, 1",
    "xor r10d, r10d",
    "syscall",
    "test eax, eax",
    "jle 3b",
    "cmp eax, ebp",
    "jne 4b",
    "mov eax, [rsp + 8]",
    "movzx edi, ah", // exit status
    "and eax, 0x7f",
    "jz 5f",
    "lea edi, [rax + 128]",
    "5:",
    "mov eax, 231", // exit_group
    "syscall",
    "6:", // the program's process
    "xor edi, edi",
    "xor esi, esi",
    "mov eax, 109", // setpgid
    "syscall",
    "mov eax, 39", // getpid
    "syscall",
    "mov [rsp + 8], eax",
    "xor edi, edi",
    "mov esi, 0x5410", // TIOCSPGRP
    "lea rdx, [rsp + 8]",
    "mov eax, 16", // ioctl
    "syscall",
    "mov qword ptr [rsp], 0",
    "call 10f",
    "mov r12d, 127",
    "7:",
    "mov rdi, [r13]",
    "cmp byte ptr [rdi], 0",
    "je 9f",
    "mov rsi, r14",
    "mov rdx, r15",
    "mov eax, 59", // execve
    "syscall",
    "cmp eax, -2", // ENOENT
    "je 8f",
    "cmp eax, -20", // ENOTDIR
    "je 8f",
    "mov r12d, 126",
    "8:",
    "add r13, 8",
    "jmp 7b",
    "9:",
    "mov edi, r12d",
    "jmp 5b",
    "10:",         // blocks the signals of the set above the return address
    "mov eax, 14", // rt_sigprocmask
    "mov edi, 2",
    "lea rsi, [rsp + 8]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "ret",
    "tare_init_end:",
    ".popsection",
);

unsafe extern "C" {
    static tare_init_begin: u8;
    static tare_init_end: u8;
}

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Of the ELF header and its two program headers (elf(5)).
const HEADERS_BYTES: u64 = 64 + 2 * 56;

/// What it is called with.
pub(super) fn arguments(paths: Vec<OsString>, args: &[OsString]) -> Vec<OsString> {
    let first = std::iter::once(OsString::from("init"));
    first.chain(paths).chain([OsString::new()]).chain(args.iter().cloned()).collect()
}

/// The program, in a file that nobody can change.
pub(super) fn program() -> Result<OwnedFd, Error> {
    let failed = |source| Error::System { action: "make the program of the box's init", source };
    // SAFETY: a C string and flags.
    let fd = unsafe {
        libc::memfd_create(c"tare-init".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    if fd < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    // SAFETY: `fd` is open and ours alone.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&image()).map_err(failed)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain numbers.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(file.into())
}

/// An executable of one segment.
fn image() -> Vec<u8> {
    let (begin, end) = (&raw const tare_init_begin, &raw const tare_init_end);
    // SAFETY: the two labels are the ends of one piece of read-only data.
    let code = unsafe { std::slice::from_raw_parts(begin, end.offset_from(begin) as usize) };
    let size = HEADERS_BYTES + code.len() as u64;
    let mut image = Vec::with_capacity(size as usize);
    // 64-bit, little-endian, version 1; then executable, x86-64.
    image.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS_BYTES, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    // Flags; sizes of this header and of a program header, two of those, no sections.
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let mut segment = |kind: u32, flags: u32, words: [u64; 6]| {
        image.extend(kind.to_le_bytes());
        image.extend(flags.to_le_bytes());
        words.iter().for_each(|word| image.extend(word.to_le_bytes()));
    };
    let (load, stack, read_execute, read_write) = (1, 0x6474_e551, 5, 6);
    segment(load, read_execute, [0, BASE, BASE, size, size, 0x1000]);
    segment(stack, read_write, [0, 0, 0, 0, 0, 16]);
    image.extend(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_image_is_small_and_its_sizes_are_right() {
        let image = image();
        assert!((300..600).contains(&image.len()), "{}", image.len());
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        assert_eq!(word(64 + 32), image.len() as u64);
        assert_eq!(word(24), BASE + HEADERS_BYTES);
    }

    #[test]
    fn test_arguments_end_the_paths_with_an_empty_one() {
        let words = arguments(vec!["/a/x".into(), "/b/x".into()], &["x".into(), "1".into()]);
        assert_eq!(words, ["init", "/a/x", "/b/x", "", "x", "1"]);
    }
}
