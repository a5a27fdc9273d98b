//! User, capabilities and no_new_privs.

use crate::capability::{Capabilities, CapabilitySets};
use crate::error::{Error, Stage};
use crate::script::{Arg, Script};
use crate::spec::{Program, Spec, User};

/// `_LINUX_CAPABILITY_VERSION_3`, for the calling thread.
const CAPABILITY_HEADER: u64 = 0x2008_0522;

/// What may be had of the capabilities at the program's own execution, and ever after.
pub(super) fn bound(script: &mut Script, spec: &Spec) {
    // It bounds what an execution may add, which no_new_privs keeps at nothing; and code of the
    // caller's executes nothing, so that 41 calls would change nothing.
    let bounded = spec.no_new_privs && matches!(spec.program, Program::Caller);
    let kept = spec.capability_sets.map(|sets| sets.bounding).or(spec.capabilities);
    if let Some(kept) = kept.filter(|_| !bounded) {
        bounding(script, kept, enters_users(spec));
    }
}

/// User, groups and capabilities.
pub(super) fn change(script: &mut Script, spec: &Spec) -> Result<(), Error> {
    let is_root = spec.user.as_ref().is_none_or(|user| user.uid == 0);
    if !is_root && spec.capability_sets.is_some_and(|sets| sets.permitted != Capabilities::NONE) {
        prctl(script, "kept over the change of user", [libc::PR_SET_KEEPCAPS as usize, 1, 0]);
    }
    if let Some(user) = &spec.user {
        change_user(script, user);
    }
    // The change of user has already taken all from anyone but root.
    let of = |kept| if is_root { kept } else { Capabilities::NONE };
    let sets = spec.capability_sets.or(spec.capabilities.map(|kept| CapabilitySets {
        effective: of(kept),
        permitted: of(kept),
        ..CapabilitySets::default()
    }));
    if let Some(sets) = sets {
        // What the caller does not have it cannot keep; root of a new user namespace has all.
        let had = if enters_users(spec) { !0 } else { permitted()? };
        set(script, sets, had);
        for number in (0..64usize).filter(|n| (sets.ambient.bits() & had) >> n & 1 == 1) {
            let (ambient, raise) = (libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_RAISE);
            prctl(script, "ambient capability", [ambient, raise as usize, number]);
        }
    }
    if spec.no_new_privs {
        prctl(script, "no_new_privs", [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0]);
    }
    Ok(())
}

/// Whether it has another user namespace than the caller.
pub(crate) fn enters_users(spec: &Spec) -> bool {
    use crate::namespace::NamespaceKind;
    spec.user_namespace.is_some()
        || spec.joined.iter().any(|joined| joined.kind == NamespaceKind::User)
}

fn change_user(script: &mut Script, user: &User) {
    let mut packed: Vec<u64> = Vec::new();
    for pair in user.groups.chunks(2) {
        let low = pair.first().copied().unwrap_or(0);
        let high = pair.get(1).copied().unwrap_or(0);
        packed.push(u64::from(low) | u64::from(high) << 32);
    }
    let groups = script.arena.words(packed);
    let (uid, gid): (Arg, Arg) = (user.uid.into(), user.gid.into());
    let none = user.groups.is_empty();
    script
        .call(
            Stage::User,
            "supplementary groups",
            libc::SYS_setgroups,
            &[user.groups.len().into(), groups.into()],
        )
        // A user namespace of one id lets nobody change groups; to have none is no change there.
        .tolerate(if none { &[libc::EPERM] } else { &[] });
    let target = format!("group {}", user.gid);
    script.call(Stage::User, target, libc::SYS_setresgid, &[gid, gid, gid]);
    let target = format!("user {}", user.uid);
    script.call(Stage::User, target, libc::SYS_setresuid, &[uid, uid, uid]);
}

fn bounding(script: &mut Script, kept: Capabilities, all: bool) {
    for number in 0..64usize {
        // Numbers that this kernel does not have, and those already gone, need no dropping.
        // SAFETY: plain numbers.
        let read = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        let present = read == 1 || (all && read == 0);
        if present && kept.bits() >> number & 1 == 0 {
            let target = format!("capability {number} of the bounding set");
            prctl(script, target, [libc::PR_CAPBSET_DROP as usize, number, 0]);
        }
    }
}

/// Effective, permitted and inheritable; what is not inheritable goes from the ambient set too.
fn set(script: &mut Script, sets: CapabilitySets, had: u64) {
    let words = [sets.effective, sets.permitted, sets.inheritable].map(|set| set.bits() & had);
    let low = words.map(|bits| bits & 0xffff_ffff);
    let high = words.map(|bits| bits >> 32);
    let header = script.arena.words([CAPABILITY_HEADER]);
    // Two structures of effective, permitted, inheritable, 32 bits each.
    let data = script.arena.words([
        low[0] | low[1] << 32,
        low[2] | high[0] << 32,
        high[1] | high[2] << 32,
    ]);
    script.call(Stage::Privileges, "capabilities", libc::SYS_capset, &[header.into(), data.into()]);
}

/// The caller's permitted set.
fn permitted() -> Result<u64, Error> {
    let header = [CAPABILITY_HEADER];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the sizes of version 3.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if result < 0 {
        return Err(Error::last("read the caller's capabilities"));
    }
    let [_, low, _, _, high, _] = data;
    Ok(u64::from(low) | u64::from(high) << 32)
}

fn prctl(script: &mut Script, target: impl Into<String>, arguments: [usize; 3]) {
    let [option, first, second] = arguments.map(Arg::from);
    let zero = 0usize.into();
    script.call(Stage::Privileges, target, libc::SYS_prctl, &[option, first, second, zero, zero]);
}
