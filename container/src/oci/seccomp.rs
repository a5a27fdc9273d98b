//! `linux.seccomp`.

use oci_spec::runtime;
use runtime::{LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag};

use super::error::{OciError, invalid, unsupported};
use crate::seccomp::{
    SeccompAction, SeccompComparison, SeccompCondition, SeccompFilter, SeccompProfile, SeccompRule,
    system_call_number,
};

pub(super) fn filter(oci: &runtime::LinuxSeccomp) -> Result<SeccompFilter, OciError> {
    let property = "linux.seccomp";
    let default = action(property, oci.default_action(), oci.default_errno_ret())?;
    let mut flags = 0;
    for flag in oci.flags().iter().flatten() {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // It is loaded by a process of one thread.
            Flag::SeccompFilterFlagTsync => 0,
            other => return Err(unsupported("linux.seccomp.flags", format!("{other:?}"))),
        };
    }
    let mut rules = Vec::new();
    for (index, entry) in oci.syscalls().iter().flatten().enumerate() {
        let property = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&property, entry.action(), entry.errno_ret())?;
        let all: Vec<SeccompCondition> = entry
            .args()
            .iter()
            .flatten()
            .map(|arg| condition(&property, arg))
            .collect::<Result<_, _>>()?;
        for name in entry.names() {
            let Some(number) = system_call_number(name) else {
                // What this architecture does not have cannot be called; but a rule that is stricter
                // than the default may be meant for a call whose name is misspelt.
                if default == SeccompAction::Allow && action != SeccompAction::Allow {
                    return Err(unsupported(format!("{property}.names"), format!("{name:?}")));
                }
                continue;
            };
            // One argument twice means either, several arguments mean all of them.
            let twice = (0..6).any(|n| all.iter().filter(|c| c.argument == n).count() > 1);
            if twice {
                let each =
                    all.iter().map(|one| SeccompRule { number, conditions: vec![*one], action });
                rules.extend(each);
            } else {
                rules.push(SeccompRule { number, conditions: all.clone(), action });
            }
        }
    }
    Ok(SeccompFilter::from_profile(&SeccompProfile { default, rules, flags })?)
}

fn action(property: &str, action: Action, errno: Option<u32>) -> Result<SeccompAction, OciError> {
    let number = u16::try_from(errno.unwrap_or(libc::EPERM as u32)).ok().filter(|n| *n < 4096);
    let number = number.ok_or_else(|| invalid(format!("{property}.errnoRet"), "not below 4096"))?;
    Ok(match action {
        Action::ScmpActAllow => SeccompAction::Allow,
        Action::ScmpActLog => SeccompAction::Log,
        Action::ScmpActErrno => SeccompAction::Errno(number),
        Action::ScmpActTrap => SeccompAction::Trap,
        Action::ScmpActTrace => SeccompAction::Trace(number),
        Action::ScmpActKill | Action::ScmpActKillThread => SeccompAction::KillThread,
        Action::ScmpActKillProcess => SeccompAction::KillProcess,
        Action::ScmpActNotify => {
            return Err(unsupported(format!("{property}.action"), "SCMP_ACT_NOTIFY"));
        }
    })
}

fn condition(property: &str, arg: &runtime::LinuxSeccompArg) -> Result<SeccompCondition, OciError> {
    use runtime::LinuxSeccompOperator as Operator;
    let argument = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
    let argument =
        argument.ok_or_else(|| invalid(format!("{property}.args.index"), "not below 6"))?;
    let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
    let (comparison, value) = match arg.op() {
        Operator::ScmpCmpNe => (SeccompComparison::NotEqual, value),
        Operator::ScmpCmpLt => (SeccompComparison::Less, value),
        Operator::ScmpCmpLe => (SeccompComparison::LessOrEqual, value),
        Operator::ScmpCmpEq => (SeccompComparison::Equal, value),
        Operator::ScmpCmpGe => (SeccompComparison::GreaterOrEqual, value),
        Operator::ScmpCmpGt => (SeccompComparison::Greater, value),
        // The first is the mask.
        Operator::ScmpCmpMaskedEq => (SeccompComparison::MaskedEqual(value), second),
    };
    Ok(SeccompCondition { argument, comparison, value })
}
