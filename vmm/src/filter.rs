//! A seccomp filter of few instructions (Linux, Documentation/userspace-api/seccomp_filter.rst).
//!
//! What a filter costs is its installation: the kernel checks, translates and compiles every
//! instruction of it, and then interprets it once for every system call there is, to learn which
//! it always allows. Of 45 calls, on the way to the guest's first instruction, in the lab: a list of
//! comparisons 1.25 ms, a search tree 0.42, words of 32 bits, one for each call, 0.17. The
//! interpreter knows no such words and gives up at once; so no call is allowed without running the
//! filter, which for the thread of a vCPU is so anyway: it makes hardly any call but `ioctl`.

use std::io;

/// What the arguments of an allowed call must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Check {
    /// Anything.
    Any,
    /// Argument number `.0`, in its low 32 bits, is one of `.1` or `.2`.
    OneOf(u8, &'static [u32], &'static [u32]),
    /// Argument number `.0` has none of the bits `.1`, all below 2^32.
    Without(u8, u32),
}

/// A system call that is allowed under a condition.
pub(crate) type Rule = (libc::c_long, Check);

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const LOAD_CONSTANT: u16 = (libc::BPF_LD | libc::BPF_IMM) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_X) as u16;
/// Into the index register.
const KEEP: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// Calls in a word.
const WORD: u32 = u32::BITS;

/// Where a jump goes.
#[derive(Debug, Clone, Copy)]
enum To {
    /// Over so many instructions.
    Over(usize),
    /// To the test of a call's bit in its word.
    Bit,
    Allow,
    Kill,
    /// To the check of the rule with this index.
    Check(usize),
}

type Step = (u16, u32, To, To);

const NEXT: To = To::Over(0);

/// The program that allows `rules` and ends the process at anything else. None is there twice;
/// `None` if there are too many of them for the reach of a jump.
fn program(rules: &[Rule]) -> Option<Vec<libc::sock_filter>> {
    let mut steps = Vec::with_capacity(4 * rules.len() + 8);
    steps.extend([
        (LOAD, ARCHITECTURE, NEXT, NEXT),
        (EQUAL, X86_64, NEXT, To::Kill),
        (LOAD, NUMBER, NEXT, NEXT),
        (AND, WORD - 1, NEXT, NEXT),
        (KEEP, 0, NEXT, NEXT),
        (LOAD, NUMBER, NEXT, NEXT),
    ]);
    let checked = || rules.iter().enumerate().filter(|(_, (_, check))| !check.is_any());
    steps.extend(checked().map(|(index, &(call, _))| (EQUAL, call as u32, To::Check(index), NEXT)));
    search(&words(rules), &mut steps);
    let bit = steps.len();
    steps.extend([(SHIFT_RIGHT, 0, NEXT, NEXT), (ANY_BIT, 1, To::Allow, To::Kill)]);
    let mut checks = vec![0; rules.len()];
    for (index, &(_, check)) in checked() {
        checks[index] = steps.len();
        push_check(check, &mut steps);
    }
    let allow = steps.len();
    let kill = allow + 1;
    let distance = |at: usize, to: To| {
        let target = match to {
            To::Over(count) => return count,
            To::Bit => bit,
            To::Allow => allow,
            To::Kill => kill,
            To::Check(rule) => checks[rule],
        };
        target - at - 1
    };
    let mut program = Vec::with_capacity(steps.len() + 2);
    for (at, &(code, k, yes, no)) in steps.iter().enumerate() {
        // The one jump that reaches far, and has its distance elsewhere.
        let (k, yes) = if code == ALWAYS { (distance(at, yes) as u32, NEXT) } else { (k, yes) };
        let jump = |to| u8::try_from(distance(at, to)).ok();
        program.push(libc::sock_filter { code, jt: jump(yes)?, jf: jump(no)?, k });
    }
    for action in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS] {
        program.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: action });
    }
    Some(program)
}

/// The calls that are allowed whatever their arguments, a bit for each: words and the number of each
/// one's first call, ascending, up to a word that is empty. What is between two is empty as well.
fn words(rules: &[Rule]) -> Vec<(u32, u32)> {
    let mut words: Vec<(u32, u32)> = vec![(0, 0)];
    let mut calls: Vec<u32> =
        rules.iter().filter(|rule| rule.1.is_any()).map(|rule| rule.0 as u32).collect();
    calls.sort_unstable();
    for call in calls {
        let first = call - call % WORD;
        if words.last().is_none_or(|word| word.0 + WORD < first) {
            words.extend(words.last().map(|word| (word.0 + WORD, 0)));
        }
        match words.last_mut() {
            Some(last) if last.0 == first => last.1 |= 1 << (call % WORD),
            _ => words.push((first, 1 << (call % WORD))),
        }
    }
    words.extend(words.last().map(|word| (word.0 + WORD, 0)));
    words
}

/// Finds the word of the call that is being made.
fn search(words: &[(u32, u32)], steps: &mut Vec<Step>) {
    match words {
        [] | [(_, 0)] => steps.push((RETURN, libc::SECCOMP_RET_KILL_PROCESS, NEXT, NEXT)),
        &[(_, word)] => {
            steps.extend([(LOAD_CONSTANT, word, NEXT, NEXT), (ALWAYS, 0, To::Bit, NEXT)]);
        }
        _ => {
            let (low, high) = words.split_at(words.len() / 2);
            let at = steps.len();
            steps.push((AT_LEAST, high[0].0, NEXT, NEXT));
            search(low, steps);
            steps[at].2 = To::Over(steps.len() - at - 1);
            search(high, steps);
        }
    }
}

impl Check {
    fn is_any(self) -> bool {
        matches!(self, Check::Any)
    }
}

fn push_check(check: Check, steps: &mut Vec<Step>) {
    let load = |argument: u8| (LOAD, ARGUMENTS + 8 * u32::from(argument), NEXT, NEXT);
    match check {
        Check::Any => {}
        Check::OneOf(argument, values, more) => {
            steps.push(load(argument));
            let last = (values.len() + more.len()).saturating_sub(1);
            for (index, &value) in values.iter().chain(more).enumerate() {
                let no = if index == last { To::Kill } else { NEXT };
                steps.push((EQUAL, value, To::Allow, no));
            }
        }
        Check::Without(argument, bits) => {
            steps.push(load(argument));
            steps.push((ANY_BIT, bits, To::Kill, To::Allow));
        }
    }
}

/// A filter, ready to be installed.
pub(crate) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// The filter that allows `rules`.
    pub(crate) fn new(rules: &[Rule]) -> io::Result<Filter> {
        Ok(Filter(program(rules).ok_or(io::ErrorKind::InvalidInput)?))
    }

    /// Puts the calling thread under it, for good.
    pub(crate) fn install(&self) -> io::Result<()> {
        let Filter(program) = self;
        let (len, filter) = (program.len() as u16, program.as_ptr().cast_mut());
        let filter = libc::sock_fprog { len, filter };
        let request = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `filter` describes `program`, which outlives both calls; the kernel copies it.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::syscall(libc::SYS_seccomp, request, 0, &raw const filter) != 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would; true if it allows.
    fn run(program: &[libc::sock_filter], call: u32, arguments: [u64; 6]) -> bool {
        let mut data = [call, X86_64, 0, 0].map(u32::to_le_bytes).concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut accumulator, mut index) = (0, 0_u32, 0);
        loop {
            let step = &program[at];
            at += 1;
            let from = step.k as usize;
            accumulator = match step.code {
                LOAD => u32::from_le_bytes(data[from..from + 4].try_into().unwrap()),
                LOAD_CONSTANT => step.k,
                AND => accumulator & step.k,
                SHIFT_RIGHT => accumulator >> index,
                _ => accumulator,
            };
            let holds = match step.code {
                LOAD | LOAD_CONSTANT | AND | SHIFT_RIGHT => continue,
                KEEP => {
                    index = accumulator;
                    continue;
                }
                ALWAYS => {
                    at += from;
                    continue;
                }
                RETURN => return step.k == libc::SECCOMP_RET_ALLOW,
                EQUAL => accumulator == step.k,
                AT_LEAST => accumulator >= step.k,
                ANY_BIT => accumulator & step.k != 0,
                code => panic!("{code}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    #[test]
    fn test_program_allows_what_the_rules_say_for_every_number() {
        let rules = [
            (0, Check::Any),
            (3, Check::OneOf(1, &[7], &[9])),
            (9, Check::Without(2, 4)),
            (12, Check::Any),
            (31, Check::Any),
            (32, Check::Any),
            (300, Check::Any),
        ];
        let program = program(&rules).unwrap();
        for call in 0..500 {
            let any = [0, 12, 31, 32, 300].contains(&call);
            assert_eq!(run(&program, call, [0; 6]), any || call == 9, "{call}");
            assert_eq!(run(&program, call, [0, 9, 5, 0, 0, 0]), any || call == 3, "{call}");
        }
        assert!(!run(&program, 0x4000_0000, [0; 6]), "x32");
    }

    #[test]
    fn test_program_of_another_architecture_is_killed() {
        let program = program(&[(0, Check::Any)]).unwrap();
        assert_eq!((program[1].code, program[1].k), (EQUAL, X86_64));
        let target = 2 + usize::from(program[1].jf);
        assert_eq!(program[target].k, libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn test_program_of_too_many_checks_is_none() {
        let rules: Vec<_> = (0..400).map(|call| (call, Check::Without(0, 1))).collect();
        assert!(program(&rules).is_none());
        let rules: Vec<_> = (0..400).map(|call| (call, Check::Any)).collect();
        let program = program(&rules).unwrap();
        assert!((0..1000).all(|call| run(&program, call, [0; 6]) == (call < 400)));
    }
}
