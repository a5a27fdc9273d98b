//! Which devices a cgroup of version 2 may use: a program that the kernel asks at each opening and
//! making of a node (`Documentation/admin-guide/cgroup-v2.rst`, "Device controller").

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::CgroupError;
use super::limits::{DeviceKind, DeviceRule};

/// A loaded program.
#[derive(Debug)]
pub(super) struct DeviceProgram(OwnedFd);

// linux/bpf.h
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
/// Bits of an access: in the upper half of the first field of `struct bpf_cgroup_dev_ctx`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Registers: the program's answer and what it is called with,
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
/// what is asked,
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// and a copy to compare.
const SCRATCH: u8 = 6;

impl DeviceProgram {
    pub(super) fn load(rules: &[DeviceRule]) -> Result<DeviceProgram, CgroupError> {
        let code = code(rules);
        let license = c"Apache-2.0";
        // The first fields of the command's union: type, count, instructions, license.
        let attributes: [u64; 6] = [
            u64::from(BPF_PROG_TYPE_CGROUP_DEVICE) | (code.len() as u64) << 32,
            code.as_ptr().expose_provenance() as u64,
            license.as_ptr().expose_provenance() as u64,
            0,
            0,
            0,
        ];
        // SAFETY: instructions and license outlive the call.
        let fd = unsafe { bpf(BPF_PROG_LOAD, &attributes) };
        if fd < 0 {
            return Err(CgroupError::NoDeviceProgram { source: io::Error::last_os_error() });
        }
        // SAFETY: `fd` is open and ours alone.
        Ok(DeviceProgram(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Lets it decide for the cgroup whose directory this is, for as long as that exists.
    pub(super) fn attach(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let (target, program) = (directory.as_raw_fd() as u64, self.0.as_raw_fd() as u64);
        // Target, program, type, flags.
        let attributes = [target | program << 32, u64::from(BPF_CGROUP_DEVICE), 0, 0, 0, 0];
        // SAFETY: plain numbers.
        match unsafe { bpf(BPF_PROG_ATTACH, &attributes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// # Safety
/// What the attributes point at is as the command wants it.
unsafe fn bpf(command: i32, attributes: &[u64; 6]) -> i32 {
    // SAFETY: by the caller's promise; the size is that of the attributes.
    unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) as i32
    }
}

/// The last rule that fits decides, so they are asked from the last on. Making a node is not asked
/// about.
fn code(rules: &[DeviceRule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, KIND, ACCESS, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND, ACCESS, 0, 0, !MKNOD),
        instruction(JUMP_NOT_EQUAL, ACCESS, 0, 2, 0),
        instruction(MOVE, ANSWER, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests: Vec<(u8, i32)> = Vec::new();
        let kind = match rule.kind {
            Some(DeviceKind::Block) => Some(1),
            Some(DeviceKind::Character) => Some(2),
            None => None,
        };
        tests.extend(kind.map(|kind| (KIND, kind)));
        tests.extend(rule.major.map(|major| (MAJOR, major as i32)));
        tests.extend(rule.minor.map(|minor| (MINOR, minor as i32)));
        let asked = [(rule.read, READ), (rule.write, WRITE)];
        let bits = asked.iter().filter(|(asked, _)| *asked).map(|(_, bit)| bit).sum::<i32>();
        // An access is allowed by a rule that has all of it, and refused by one that has some.
        let mask = if rule.allow { !bits & 7 } else { bits };
        let mut body = vec![
            instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
            instruction(AND, SCRATCH, 0, 0, mask),
        ];
        let verdict =
            [instruction(MOVE, ANSWER, 0, 0, i32::from(rule.allow)), instruction(EXIT, 0, 0, 0, 0)];
        if rule.allow {
            body.push(instruction(JUMP_NOT_EQUAL, SCRATCH, 0, verdict.len() as i16, 0));
        } else {
            // Something of it is refused: not over the verdict.
            body.push(instruction(JUMP_NOT_EQUAL, SCRATCH, 0, 1, 0));
            body.push(instruction(JUMP, 0, 0, verdict.len() as i16, 0));
        }
        body.extend(verdict);
        let total = tests.len() + body.len();
        for (index, (register, value)) in tests.into_iter().enumerate() {
            let rest = (total - index - 1) as i16;
            code.push(instruction(JUMP_NOT_EQUAL, register, 0, rest, value));
        }
        code.extend(body);
    }
    code.push(instruction(MOVE, ANSWER, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA

/// `struct bpf_insn`: code, registers, offset, constant.
fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(constant as u32) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine for these programs; `None` for what the kernel would refuse.
    fn run(code: &[u64], kind: u32, access: i32, major: u32, minor: u32) -> Option<u32> {
        let context = [kind | (access as u32) << 16, major, minor];
        let (mut registers, mut at) = ([0u32; 7], 0usize);
        loop {
            let word = *code.get(at)?;
            let (operation, to, from) =
                (word as u8, (word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, constant) = ((word >> 16) as i16, (word >> 32) as u32);
            at += 1;
            match operation {
                LOAD_WORD => registers[to] = context[offset as usize / 4],
                MOVE => registers[to] = constant,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= constant,
                SHIFT_RIGHT => registers[to] >>= constant,
                JUMP => at += offset as usize,
                JUMP_NOT_EQUAL if registers[to] != constant => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return Some(registers[usize::from(ANSWER)]),
                _ => return None,
            }
        }
    }

    #[test]
    fn test_code_lets_the_last_rule_that_fits_decide() {
        let rule = |allow, kind, major, minor, read, write| DeviceRule {
            allow,
            kind,
            major,
            minor,
            read,
            write,
        };
        let code = code(&[
            rule(true, Some(DeviceKind::Character), Some(1), None, true, true),
            rule(false, None, Some(1), Some(5), false, true),
        ]);
        for (kind, access, major, minor, expected) in [
            (2, READ | WRITE, 1, 3, 1),
            (2, READ, 1, 5, 1),
            (2, WRITE, 1, 5, 0),
            (2, READ | WRITE, 1, 5, 0),
            (1, READ, 1, 3, 0),
            (2, READ, 5, 0, 0),
            (1, MKNOD, 8, 0, 1),
        ] {
            let got = run(&code, kind, access, major, minor);
            assert_eq!(got, Some(expected), "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn test_load_is_taken_by_the_kernel() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "not root, and CI=true");
            eprintln!("SKIPPED test_load_is_taken_by_the_kernel: not root");
            return;
        }
        let rule = DeviceRule {
            allow: false,
            kind: Some(DeviceKind::Block),
            major: Some(8),
            minor: None,
            read: true,
            write: false,
        };
        for rules in [vec![], vec![rule], vec![DeviceRule { allow: true, ..rule }; 40]] {
            match DeviceProgram::load(&rules) {
                Ok(_) => {}
                // A kernel without such programs cannot take any.
                Err(CgroupError::NoDeviceProgram { source })
                    if source.raw_os_error() == Some(libc::ENOSYS) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}
