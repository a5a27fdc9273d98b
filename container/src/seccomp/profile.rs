//! Filters that others have written: the OCI runtime specification's profiles, compiled to the same
//! tree.
//!
//! The first rule of a call whose conditions all hold decides, those with conditions before those
//! without; where none does, the default. Calls of other architectures, and numbers that are newer
//! than this version where the default is an error, are answered with `ENOSYS`.

use super::rules::END;
use super::{ALLOW, Instruction, JUMP_AT_LEAST, JUMP_EQUAL, SeccompFilter, answer, jump, load};
use crate::error::Error;

const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K

/// Arguments begin here in struct seccomp_data, 8 bytes each, the lower half first.
const ARGUMENTS: u32 = 16;

/// Number and name of every call, from the kernel's `syscall_64.tbl`.
const NUMBERS: &str = include_str!("x86_64.txt");

/// The number of the system call called `name`, if this architecture has one.
#[must_use]
pub fn system_call_number(name: &str) -> Option<u32> {
    NUMBERS.lines().find_map(|line| {
        let (number, known) = line.split_once(' ')?;
        if known == name { number.parse().ok() } else { None }
    })
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompAction {
    /// It is made.
    Allow,
    /// It is made, and written to the kernel's log.
    Log,
    /// It fails with this error.
    Errno(u16),
    /// The thread gets `SIGSYS`.
    Trap,
    /// A tracer decides, told this number; without one it fails with `ENOSYS`.
    Trace(u16),
    /// The thread is killed.
    KillThread,
    /// The process is killed.
    KillProcess,
}

impl SeccompAction {
    fn value(self) -> u32 {
        match self {
            SeccompAction::Allow => ALLOW,
            SeccompAction::Log => libc::SECCOMP_RET_LOG,
            SeccompAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            SeccompAction::Trap => libc::SECCOMP_RET_TRAP,
            SeccompAction::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
            SeccompAction::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            SeccompAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// How an argument is compared, as an unsigned number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompComparison {
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `==`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
    /// `==`, of the bits of this mask.
    MaskedEqual(u64),
}

/// One condition of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompCondition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: SeccompComparison,
    /// With what.
    pub value: u64,
}

/// What happens to one call if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompRule {
    /// Its number.
    pub number: u32,
    /// Conditions on its arguments.
    pub conditions: Vec<SeccompCondition>,
    /// What happens.
    pub action: SeccompAction,
}

/// A filter to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompProfile {
    /// What happens where no rule says anything else.
    pub default: SeccompAction,
    /// The rules.
    pub rules: Vec<SeccompRule>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Where a jump of a condition's code goes.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// Behind the condition: it holds.
    Pass,
    /// Behind the rule: it does not.
    Fail,
}

/// An instruction whose jumps are not numbers yet.
enum Draft {
    Plain(Instruction),
    Jump(u16, u32, To, To),
}

impl SeccompFilter {
    /// Compiles a profile.
    ///
    /// # Errors
    /// A condition on an argument that no call has, or more than the kernel takes.
    pub fn from_profile(profile: &SeccompProfile) -> Result<SeccompFilter, Error> {
        for rule in &profile.rules {
            if rule.conditions.iter().any(|condition| condition.argument > 5) {
                return Err(Error::Invalid {
                    field: "seccomp",
                    problem: format!("a condition on argument {:?}", rule.conditions),
                    remedy: "number the arguments from 0 to 5",
                });
            }
        }
        let end = profile.rules.iter().map(|rule| rule.number + 1).max().unwrap_or(0).max(END);
        let codes = (0..end).map(|number| (number, profile.code(number)));
        let unknown = match profile.default {
            SeccompAction::Errno(_) => SeccompAction::Errno(libc::ENOSYS as u16),
            other => other,
        };
        // x32, whatever the default.
        let last = (1 << 30, vec![answer(SeccompAction::Errno(libc::ENOSYS as u16).value())]);
        let above = [(end, vec![answer(unknown.value())]), last];
        let filter = SeccompFilter::assemble(codes.chain(above), profile.flags);
        filter.check()?;
        Ok(filter)
    }
}

impl SeccompProfile {
    fn code(&self, number: u32) -> Vec<Instruction> {
        let rules = || self.rules.iter().filter(|rule| rule.number == number);
        let mut code = Vec::new();
        for rule in rules().filter(|rule| !rule.conditions.is_empty()) {
            code.extend(rule.code());
        }
        let otherwise = rules().find(|rule| rule.conditions.is_empty());
        code.push(answer(otherwise.map_or(self.default, |rule| rule.action).value()));
        code
    }
}

impl SeccompRule {
    fn code(&self) -> Vec<Instruction> {
        let drafts: Vec<Vec<Draft>> = self.conditions.iter().map(|c| c.drafts()).collect();
        let length = drafts.iter().map(Vec::len).sum::<usize>() + 1;
        let mut code = Vec::with_capacity(length);
        for condition in drafts {
            let end = code.len() + condition.len();
            for draft in condition {
                let from = code.len() + 1;
                // At most six conditions of five instructions: every distance fits.
                let distance = |to| match to {
                    To::Next => 0,
                    To::Pass => (end - from) as u8,
                    To::Fail => (length - from) as u8,
                };
                code.push(match draft {
                    Draft::Plain(instruction) => instruction,
                    Draft::Jump(kind, k, yes, no) => jump(kind, k, distance(yes), distance(no)),
                });
            }
        }
        code.push(answer(self.action.value()));
        code
    }
}

impl SeccompCondition {
    fn drafts(&self) -> Vec<Draft> {
        use To::{Fail, Next, Pass};
        let low = ARGUMENTS + 8 * u32::from(self.argument);
        let (value_low, value_high) = (self.value as u32, (self.value >> 32) as u32);
        let load = |offset| Draft::Plain(load(offset));
        // Where the upper halves differ they decide; the lower do where they are equal.
        let ordered = |kind, yes, no| {
            vec![
                load(low + 4),
                Draft::Jump(JUMP_GREATER, value_high, yes, Next),
                Draft::Jump(JUMP_EQUAL, value_high, Next, no),
                load(low),
                Draft::Jump(kind, value_low, yes, no),
            ]
        };
        let equal = |differs, same| {
            vec![
                load(low + 4),
                Draft::Jump(JUMP_EQUAL, value_high, Next, differs),
                load(low),
                Draft::Jump(JUMP_EQUAL, value_low, same, differs),
            ]
        };
        match self.comparison {
            SeccompComparison::Equal => equal(Fail, Pass),
            SeccompComparison::NotEqual => equal(Pass, Fail),
            SeccompComparison::Greater => ordered(JUMP_GREATER, Pass, Fail),
            SeccompComparison::LessOrEqual => ordered(JUMP_GREATER, Fail, Pass),
            SeccompComparison::GreaterOrEqual => ordered(JUMP_AT_LEAST, Pass, Fail),
            SeccompComparison::Less => ordered(JUMP_AT_LEAST, Fail, Pass),
            SeccompComparison::MaskedEqual(mask) => {
                let and = |k| Draft::Plain(Instruction { code: AND, if_true: 0, if_false: 0, k });
                vec![
                    load(low + 4),
                    and((mask >> 32) as u32),
                    Draft::Jump(JUMP_EQUAL, value_high, Next, Fail),
                    load(low),
                    and(mask as u32),
                    Draft::Jump(JUMP_EQUAL, value_low, Pass, Fail),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{AUDIT_ARCH_X86_64, JUMP_BITS, LOAD, RETURN, refuse};
    use super::*;

    /// A machine for these programs; `None` for what the kernel would refuse.
    fn run(filter: &SeccompFilter, number: u32, arguments: [u64; 6]) -> Option<u32> {
        let mut data = vec![number, AUDIT_ARCH_X86_64, 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = filter.program.get(at)?;
            at += 1;
            let test = match i.code {
                LOAD => {
                    a = *data.get(i.k as usize / 4)?;
                    continue;
                }
                AND => {
                    a &= i.k;
                    continue;
                }
                RETURN => return Some(i.k),
                0x05 => {
                    at += i.k as usize;
                    continue;
                }
                JUMP_EQUAL => a == i.k,
                JUMP_AT_LEAST => a >= i.k,
                JUMP_GREATER => a > i.k,
                JUMP_BITS => a & i.k != 0,
                _ => return None,
            };
            at += usize::from(if test { i.if_true } else { i.if_false });
        }
    }

    fn holds(condition: &SeccompCondition, arguments: &[u64; 6]) -> bool {
        let (a, v) = (arguments[usize::from(condition.argument)], condition.value);
        match condition.comparison {
            SeccompComparison::NotEqual => a != v,
            SeccompComparison::Less => a < v,
            SeccompComparison::LessOrEqual => a <= v,
            SeccompComparison::Equal => a == v,
            SeccompComparison::GreaterOrEqual => a >= v,
            SeccompComparison::Greater => a > v,
            SeccompComparison::MaskedEqual(mask) => a & mask == v,
        }
    }

    fn expected(profile: &SeccompProfile, number: u32, arguments: &[u64; 6]) -> u32 {
        let of = |r: &&SeccompRule| r.number == number;
        let rules = || profile.rules.iter().filter(of);
        rules()
            .find(|r| !r.conditions.is_empty() && r.conditions.iter().all(|c| holds(c, arguments)))
            .or_else(|| rules().find(|r| r.conditions.is_empty()))
            .map_or(profile.default, |rule| rule.action)
            .value()
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0u64..4, (0u64..4).prop_map(|n| n << 32 | 1), Just(u64::MAX)]
    }

    fn condition() -> impl Strategy<Value = SeccompCondition> {
        (0u8..6, 0u8..7, number(), number()).prop_map(|(argument, kind, value, mask)| {
            let comparison = match kind {
                0 => SeccompComparison::NotEqual,
                1 => SeccompComparison::Less,
                2 => SeccompComparison::LessOrEqual,
                3 => SeccompComparison::Equal,
                4 => SeccompComparison::GreaterOrEqual,
                5 => SeccompComparison::Greater,
                _ => SeccompComparison::MaskedEqual(mask),
            };
            SeccompCondition { argument, comparison, value }
        })
    }

    proptest! {
        #[test]
        fn test_any_profile_answers_as_its_rules_say(
            rules in proptest::collection::vec(
                (0u32..6, proptest::collection::vec(condition(), 0..4), 0u16..4), 0..12),
            probes in proptest::collection::vec(
                (0u32..8, proptest::array::uniform6(number())), 1..40),
        ) {
            let rules = rules.into_iter().map(|(number, conditions, errno)| SeccompRule {
                number: number * 5,
                conditions,
                action: if errno == 0 { SeccompAction::Allow } else { SeccompAction::Errno(errno) },
            }).collect();
            let profile = SeccompProfile { default: SeccompAction::Trap, rules, flags: 0 };
            let filter = SeccompFilter::from_profile(&profile).unwrap();
            for (number, arguments) in probes {
                let got = run(&filter, number * 5, arguments);
                prop_assert_eq!(got, Some(expected(&profile, number * 5, &arguments)));
            }
        }
    }

    #[test]
    fn test_new_and_foreign_numbers_return_enosys() {
        let default = SeccompAction::Errno(libc::EPERM as u16);
        let profile = SeccompProfile { default, rules: Vec::new(), flags: 0 };
        let filter = SeccompFilter::from_profile(&profile).unwrap();
        assert_eq!(run(&filter, 0, [0; 6]), Some(refuse(libc::EPERM)));
        assert_eq!(run(&filter, 5000, [0; 6]), Some(refuse(libc::ENOSYS)));
        assert_eq!(run(&filter, 0x4000_0000, [0; 6]), Some(refuse(libc::ENOSYS)));
        let profile = SeccompProfile { default: SeccompAction::Allow, ..profile };
        let filter = SeccompFilter::from_profile(&profile).unwrap();
        assert_eq!(run(&filter, 5000, [0; 6]), Some(ALLOW));
        assert_eq!(run(&filter, 0x4000_0000, [0; 6]), Some(refuse(libc::ENOSYS)));
    }

    #[test]
    fn test_system_call_number_agrees_with_libc() {
        assert_eq!(system_call_number("read"), Some(libc::SYS_read as u32));
        assert_eq!(system_call_number("openat2"), Some(libc::SYS_openat2 as u32));
        assert_eq!(system_call_number("file_setattr"), Some(END - 1));
        assert_eq!(system_call_number("chown32"), None);
        assert_eq!(system_call_number(""), None);
    }
}
