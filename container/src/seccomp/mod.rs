//! The system-call filter: which calls the box may not make, compiled to classic BPF.
//!
//! A filter is a program that the kernel runs at every system call
//! (`Documentation/userspace-api/seccomp_filter.rst`). The usual linear list of comparisons makes
//! every call pay for the whole list, and so does loading, for the kernel runs the filter once for
//! each call number to learn which are always allowed. Here call numbers are cut into intervals of
//! equal verdict and searched by a balanced tree: about seven comparisons.
//!
//! The list is a deny-list of what can reach beyond a namespace, in the spirit of Docker's
//! default profile. Numbers that this version does not know, the x32 and i386 interfaces, and
//! `clone3` (whose flags lie in memory where no filter can see them) are answered with `ENOSYS`,
//! on which C libraries fall back to what is known.

mod profile;
mod rules;
mod shared;

use std::sync::OnceLock;

use libc::EPERM;

use crate::error::Error;
pub use profile::{
    SeccompAction, SeccompComparison, SeccompCondition, SeccompProfile, SeccompRule,
    system_call_number,
};
use rules::{PERSONALITIES, Rule, standard_rules};

/// A compiled filter, loaded into every container made from the same `Prepared`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFilter {
    program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
}

/// One `sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

// classic BPF, linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_BITS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// offsets in struct seccomp_data
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;

const fn refuse(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

impl SeccompFilter {
    /// The default filter, described at the head of this module's source: no mount, namespace,
    /// module, key, time, BPF, perf, io_uring, userfaultfd, kexec, swap or port-I/O calls.
    #[must_use]
    pub fn standard() -> SeccompFilter {
        static COMPILED: OnceLock<SeccompFilter> = OnceLock::new();
        COMPILED.get_or_init(|| SeccompFilter::compile(&standard_rules())).clone()
    }

    /// Number of BPF instructions.
    #[must_use]
    pub fn instructions(&self) -> usize {
        self.program.len()
    }

    /// As an array of the kernel's `sock_filter`, for other programs that load it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.words().into_iter().flat_map(u64::to_ne_bytes).collect()
    }

    fn compile(rules: &[Rule]) -> SeccompFilter {
        let codes = (0..).zip(rules).map(|(number, rule)| (number, leaf(*rule)));
        let unknown = (rules.len() as u32, vec![answer(refuse(libc::ENOSYS))]);
        SeccompFilter::assemble(codes.chain([unknown]), 0)
    }

    /// From the code that answers each number from a first one on, in order; the last is for all
    /// numbers above, which x32's (bit 30) are as well.
    fn assemble(codes: impl Iterator<Item = (u32, Vec<Instruction>)>, flags: u32) -> SeccompFilter {
        let mut intervals: Vec<(u32, Vec<Instruction>)> = Vec::new();
        for (number, code) in codes {
            if intervals.last().is_none_or(|(_, last)| *last != code) {
                intervals.push((number, code));
            }
        }
        let mut program = vec![
            load(ARCHITECTURE),
            jump(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
            answer(refuse(libc::ENOSYS)),
            load(NUMBER),
        ];
        program.extend(tree(&intervals));
        SeccompFilter { program: shared::shortened(program), flags }
    }

    /// For the system call that loads it.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// As the kernel's `sock_filter` array, one instruction in each word.
    pub(crate) fn words(&self) -> Vec<u64> {
        self.program
            .iter()
            .map(|i| {
                u64::from(i.code)
                    | u64::from(i.if_true) << 16
                    | u64::from(i.if_false) << 24
                    | u64::from(i.k) << 32
            })
            .collect()
    }

    /// Refuses a filter that the kernel would not load.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.program.len() <= 4096 {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "seccomp",
            problem: format!("{} instructions, at most 4096", self.program.len()),
            remedy: "use a smaller filter",
        })
    }
}

/// A balanced search over intervals that are sorted by their first number.
fn tree(intervals: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    let [_, rest @ ..] = intervals else { return Vec::new() };
    if rest.is_empty() {
        return intervals.iter().flat_map(|(_, code)| code.clone()).collect();
    }
    let (low, high) = intervals.split_at(intervals.len() / 2);
    let first = high.first().map_or(0, |(number, _)| *number);
    let low = tree(low);
    let high = tree(high);
    let mut code = Vec::with_capacity(low.len() + high.len() + 2);
    // The low half lies next; the high half may be too far for an 8-bit jump.
    match u8::try_from(low.len()) {
        Ok(distance) => code.push(jump(JUMP_AT_LEAST, first, distance, 0)),
        Err(_) => {
            code.push(jump(JUMP_AT_LEAST, first, 0, 1));
            code.push(Instruction { code: 0x05, if_true: 0, if_false: 0, k: low.len() as u32 });
        }
    }
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(rule: Rule) -> Vec<Instruction> {
    match rule {
        Rule::Allow => vec![answer(ALLOW)],
        Rule::Refuse(errno) => vec![answer(refuse(errno))],
        Rule::RefuseBits(bits) => vec![
            load(ARGUMENT_0),
            jump(JUMP_BITS, bits, 0, 1),
            answer(refuse(EPERM)),
            answer(ALLOW),
        ],
        Rule::RefuseValues([first, second]) => vec![
            load(ARGUMENT_0),
            jump(JUMP_EQUAL, first, 1, 0),
            jump(JUMP_EQUAL, second, 0, 1),
            answer(refuse(EPERM)),
            answer(ALLOW),
        ],
        Rule::Personality => {
            let mut code = vec![load(ARGUMENT_0)];
            let mut to_allow = PERSONALITIES.len() as u8;
            for value in PERSONALITIES {
                code.push(jump(JUMP_EQUAL, value, to_allow, 0));
                to_allow -= 1;
            }
            code.push(answer(refuse(EPERM)));
            code.push(answer(ALLOW));
            code
        }
    }
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, k: offset }
}

fn jump(code: u16, k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, k }
}

fn answer(k: u32) -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, k }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use libc::{SYS_clone, SYS_clone3, SYS_socket};

    use super::rules::{AF_ALG, AF_VSOCK};
    use super::*;

    /// A tiny BPF machine; `None` for a program the kernel would refuse.
    fn run(filter: &SeccompFilter, arch: u32, number: u32, argument: u32) -> Option<(u32, usize)> {
        let (mut at, mut a, mut steps) = (0usize, 0u32, 0usize);
        loop {
            steps += 1;
            let i = filter.program.get(at)?;
            at += 1;
            let test = match i.code {
                LOAD => {
                    a = match i.k {
                        NUMBER => number,
                        ARCHITECTURE => arch,
                        ARGUMENT_0 => argument,
                        _ => return None,
                    };
                    continue;
                }
                RETURN => return Some((i.k, steps)),
                0x05 => {
                    at += i.k as usize;
                    continue;
                }
                JUMP_EQUAL => a == i.k,
                JUMP_AT_LEAST => a >= i.k,
                JUMP_BITS => a & i.k != 0,
                _ => return None,
            };
            at += usize::from(if test { i.if_true } else { i.if_false });
        }
    }

    fn expected(rules: &[Rule], number: u32, argument: u32) -> u32 {
        match rules.get(number as usize) {
            None => refuse(libc::ENOSYS),
            Some(Rule::Allow) => ALLOW,
            Some(Rule::Refuse(errno)) => refuse(*errno),
            Some(Rule::RefuseBits(bits)) if argument & bits != 0 => refuse(EPERM),
            Some(Rule::RefuseValues(values)) if values.contains(&argument) => refuse(EPERM),
            Some(Rule::Personality) if !PERSONALITIES.contains(&argument) => refuse(EPERM),
            Some(_) => ALLOW,
        }
    }

    fn answer_to(number: i64, argument: u32) -> u32 {
        run(&SeccompFilter::standard(), AUDIT_ARCH_X86_64, number as u32, argument).unwrap().0
    }

    #[test]
    fn test_standard_answers_every_number_as_its_rule_says() {
        let (filter, rules) = (SeccompFilter::standard(), standard_rules());
        let arguments = [0, 8, 40, 0x20000, 0x0400_0000, 0x0400000, 0x1234, u32::MAX];
        for number in (0..600).chain([0x4000_0000, 0x4000_0027, u32::MAX]) {
            for argument in arguments {
                let (got, steps) = run(&filter, AUDIT_ARCH_X86_64, number, argument).unwrap();
                assert_eq!(got, expected(&rules, number, argument), "{number} {argument:#x}");
                assert!(steps <= 20, "{number} takes {steps} instructions");
            }
        }
        assert!(filter.check().is_ok());
    }

    #[test]
    fn test_other_architecture_returns_enosys() {
        let i386 = 0x4000_0003;
        let answer = run(&SeccompFilter::standard(), i386, 20, 0).unwrap().0;
        assert_eq!(answer, refuse(libc::ENOSYS));
    }

    #[test]
    fn test_what_a_workload_needs_is_allowed() {
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_mmap,
            libc::SYS_pipe2,
            libc::SYS_fsync,
            libc::SYS_openat,
            libc::SYS_wait4,
            libc::SYS_ptrace,
            libc::SYS_getpid,
            libc::SYS_futex,
            libc::SYS_ioctl,
            libc::SYS_sched_setaffinity,
            libc::SYS_clock_nanosleep,
            libc::SYS_statx,
            libc::SYS_close_range,
            libc::SYS_chroot,
        ] {
            assert_eq!(answer_to(number, 0), ALLOW, "{number}");
        }
        assert_eq!(answer_to(SYS_clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(answer_to(SYS_socket, libc::AF_INET as u32), ALLOW);
    }

    #[test]
    fn test_what_reaches_out_is_refused() {
        for number in [libc::SYS_mount, libc::SYS_unshare, libc::SYS_bpf, libc::SYS_keyctl] {
            assert_eq!(answer_to(number, 0), refuse(EPERM), "{number}");
        }
        assert_eq!(answer_to(SYS_clone, libc::CLONE_NEWUSER as u32), refuse(EPERM));
        assert_eq!(answer_to(SYS_clone3, 0), refuse(libc::ENOSYS));
        assert_eq!(answer_to(SYS_socket, AF_VSOCK), refuse(EPERM));
        assert_eq!(answer_to(SYS_socket, AF_ALG), refuse(EPERM));
    }

    proptest! {
        #[test]
        fn test_compile_any_rules_answers_as_they_say(
            kinds in proptest::collection::vec(0u8..5, 1..700),
            probes in proptest::collection::vec((0u32..800, any::<u32>()), 1..50),
        ) {
            let rules: Vec<Rule> = kinds.iter().map(|kind| match kind {
                0 => Rule::Allow,
                1 => Rule::Refuse(EPERM),
                2 => Rule::RefuseBits(0xff00),
                3 => Rule::RefuseValues([7, 8]),
                _ => Rule::Personality,
            }).collect();
            let filter = SeccompFilter::compile(&rules);
            for (number, argument) in probes {
                let got = run(&filter, AUDIT_ARCH_X86_64, number, argument);
                prop_assert_eq!(got.map(|g| g.0), Some(expected(&rules, number, argument)));
            }
        }
    }
}
