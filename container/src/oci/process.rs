//! `process`: who runs, with what, and what it may do.

use oci_spec::runtime;

use super::error::{OciError, invalid};
use crate::capability::{Capabilities, CapabilitySets};
use crate::spec::{Rlimit, Spec, Stream, User};
use crate::terminal::Terminal;

pub(super) fn process(process: &runtime::Process, spec: &mut Spec) -> Result<(), OciError> {
    spec.cwd = process.cwd().clone();
    spec.env = process.env().iter().flatten().map(Into::into).collect();
    if let Some(entry) = process.env().iter().flatten().find(|entry| !entry.contains('=')) {
        return Err(invalid("process.env", format!("{entry:?} is not NAME=value")));
    }
    let user = process.user();
    spec.user = Some(User {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
    });
    if let Some(umask) = user.umask() {
        spec.umask = umask;
    }
    spec.no_new_privs = process.no_new_privileges().unwrap_or(false);
    spec.oom_score_adj = process.oom_score_adj();
    spec.stdio = [Stream::Null, Stream::Null, Stream::Null];
    if process.terminal().unwrap_or(false) {
        let size = process.console_size();
        let short = |n: u64| {
            u16::try_from(n).map_err(|_| {
                invalid("process.consoleSize", format!("{n} is more than a terminal has"))
            })
        };
        let size =
            size.map(|size| Ok::<_, OciError>((short(size.height())?, short(size.width())?)));
        let (rows, columns) = size.transpose()?.unwrap_or_default();
        spec.terminal = Some(Terminal { rows, columns });
    }
    for limit in process.rlimits().iter().flatten() {
        let (resource, soft, hard) = (resource(limit.typ()), limit.soft(), limit.hard());
        if soft > hard {
            let problem = format!("{:?}: the soft limit is above the hard one", limit.typ());
            return Err(invalid("process.rlimits", problem));
        }
        if spec.rlimits.iter().any(|known| known.resource == resource) {
            return Err(invalid("process.rlimits", format!("{:?} twice", limit.typ())));
        }
        spec.rlimits.push(Rlimit { resource, soft, hard });
    }
    spec.capabilities = None;
    spec.capability_sets = Some(match process.capabilities() {
        None => CapabilitySets::default(),
        Some(sets) => CapabilitySets {
            bounding: set("bounding", sets.bounding())?,
            effective: set("effective", sets.effective())?,
            permitted: set("permitted", sets.permitted())?,
            inheritable: set("inheritable", sets.inheritable())?,
            ambient: set("ambient", sets.ambient())?,
        },
    });
    Ok(())
}

fn set(name: &str, capabilities: &Option<runtime::Capabilities>) -> Result<Capabilities, OciError> {
    capabilities.iter().flatten().try_fold(Capabilities::NONE, |all, capability| {
        let word = capability.to_string();
        Capabilities::named(&word).map(|one| all.with(one)).ok_or_else(|| {
            invalid(format!("process.capabilities.{name}"), format!("there is no {word}"))
        })
    })
}

fn resource(kind: runtime::PosixRlimitType) -> u32 {
    use runtime::PosixRlimitType as Kind;
    // Of different types in different C libraries.
    #[allow(clippy::unnecessary_cast)]
    let number = match kind {
        Kind::RlimitCpu => libc::RLIMIT_CPU,
        Kind::RlimitFsize => libc::RLIMIT_FSIZE,
        Kind::RlimitData => libc::RLIMIT_DATA,
        Kind::RlimitStack => libc::RLIMIT_STACK,
        Kind::RlimitCore => libc::RLIMIT_CORE,
        Kind::RlimitRss => libc::RLIMIT_RSS,
        Kind::RlimitNproc => libc::RLIMIT_NPROC,
        Kind::RlimitNofile => libc::RLIMIT_NOFILE,
        Kind::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Kind::RlimitAs => libc::RLIMIT_AS,
        Kind::RlimitLocks => libc::RLIMIT_LOCKS,
        Kind::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Kind::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Kind::RlimitNice => libc::RLIMIT_NICE,
        Kind::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Kind::RlimitRttime => libc::RLIMIT_RTTIME,
    } as u32;
    number
}
