//! A seccomp filter as a search tree (Linux, Documentation/userspace-api/seccomp_filter.rst).
//!
//! When a filter is installed, the kernel runs it once for every system call there is, to learn
//! which it always allows. A list of comparisons then costs more than starting the VMM does
//! (1.25 ms in the lab for 45 calls); a tree takes its logarithm.

use std::io;

/// What the arguments of an allowed call must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Check {
    /// Anything.
    Any,
    /// Argument number `.0`, in its low 32 bits, is one of `.1`.
    OneOf(u8, &'static [u32]),
    /// Argument number `.0` has none of the bits `.1`, all below 2^32.
    Without(u8, u32),
}

/// A system call that is allowed under a condition.
pub(crate) type Rule = (libc::c_long, Check);

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// Where a jump goes.
#[derive(Debug, Clone, Copy)]
enum To {
    /// Over so many instructions.
    Over(usize),
    Allow,
    Kill,
    /// To the check of the rule with this index.
    Check(usize),
}

type Step = (u16, u32, To, To);

/// The program that allows `rules` and ends the process at anything else. Rules are sorted and
/// none is there twice; `None` if there are too many of them for the reach of a jump.
fn program(rules: &[Rule]) -> Option<Vec<libc::sock_filter>> {
    let mut steps = Vec::with_capacity(4 * rules.len() + 8);
    steps.push((LOAD, ARCHITECTURE, To::Over(0), To::Over(0)));
    steps.push((EQUAL, X86_64, To::Over(0), To::Kill));
    steps.push((LOAD, NUMBER, To::Over(0), To::Over(0)));
    search(rules, 0, &mut steps);
    let mut checks = vec![0; rules.len()];
    for (index, &(_, check)) in rules.iter().enumerate() {
        checks[index] = steps.len();
        push_check(check, &mut steps);
    }
    let allow = steps.len();
    let kill = allow + 1;
    let jump = |at: usize, to: To| {
        let target = match to {
            To::Over(count) => return u8::try_from(count).ok(),
            To::Allow => allow,
            To::Kill => kill,
            To::Check(rule) => checks[rule],
        };
        u8::try_from(target - at - 1).ok()
    };
    let mut program = Vec::with_capacity(steps.len() + 2);
    for (at, &(code, k, yes, no)) in steps.iter().enumerate() {
        program.push(libc::sock_filter { code, jt: jump(at, yes)?, jf: jump(at, no)?, k });
    }
    for action in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS] {
        program.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: action });
    }
    Some(program)
}

/// The subtree for `rules`, the first of which has the index `first`.
fn search(rules: &[Rule], first: usize, steps: &mut Vec<Step>) {
    match rules {
        [] => {}
        &[(call, check)] => {
            let yes = if matches!(check, Check::Any) { To::Allow } else { To::Check(first) };
            steps.push((EQUAL, call as u32, yes, To::Kill));
        }
        _ => {
            let (low, high) = rules.split_at(rules.len() / 2);
            let at = steps.len();
            steps.push((AT_LEAST, high[0].0 as u32, To::Over(0), To::Over(0)));
            search(low, first, steps);
            steps[at].2 = To::Over(steps.len() - at - 1);
            search(high, first + low.len(), steps);
        }
    }
}

fn push_check(check: Check, steps: &mut Vec<Step>) {
    let load = |argument: u8| (LOAD, ARGUMENTS + 8 * u32::from(argument), To::Over(0), To::Over(0));
    match check {
        Check::Any => {}
        Check::OneOf(argument, values) => {
            steps.push(load(argument));
            let last = values.len().saturating_sub(1);
            for (index, &value) in values.iter().enumerate() {
                let no = if index == last { To::Kill } else { To::Over(0) };
                steps.push((EQUAL, value, To::Allow, no));
            }
        }
        Check::Without(argument, bits) => {
            steps.push(load(argument));
            steps.push((ANY_BIT, bits, To::Kill, To::Allow));
        }
    }
}

/// Puts the calling thread under the filter that allows `rules`, for good.
pub(crate) fn install(mut rules: Vec<Rule>) -> io::Result<()> {
    rules.sort_unstable_by_key(|rule| rule.0);
    let mut program = program(&rules).ok_or(io::ErrorKind::InvalidInput)?;
    let length = program.len() as u16;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `filter` describes `program`, which outlives both calls; the kernel copies it.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
                != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would; true if it allows.
    fn run(program: &[libc::sock_filter], call: u32, arguments: [u64; 6]) -> bool {
        let mut data = [call, X86_64, 0, 0].map(u32::to_le_bytes).concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let holds = match step.code {
                LOAD => {
                    let from = step.k as usize;
                    accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
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
            (3, Check::OneOf(1, &[7, 9])),
            (9, Check::Without(2, 4)),
            (12, Check::Any),
            (300, Check::Any),
        ];
        let program = program(&rules).unwrap();
        for call in 0..500 {
            let any = [0, 12, 300].contains(&call);
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
    fn test_program_of_too_many_rules_is_none() {
        let rules: Vec<_> = (0..400).map(|call| (call, Check::Any)).collect();
        assert!(program(&rules).is_none());
    }
}
