//! From a [`Spec`] to the [`Script`] its children play.
//!
//! The order matters: sources of bind mounts are opened while the host can still be seen; inside
//! paths are resolved only after `pivot_root`, when no symbolic link of a hostile root file system
//! can lead out any more; privileges go last, and the system-call filter after them, so that it
//! sees only `execve`.

mod dev;
mod files;
mod inside;
mod mount;
mod proc;
mod process;
mod root;

use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) use files::above;
pub(crate) use process::{POLL_READABLE, bare, search_path};

use crate::error::{Error, Stage};
use crate::script::{Arg, Reg, Script};
use crate::spec::{Dev, Namespaces, Proc, Program, Rootfs, Spec, Stream};

/// A compiled spec.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) script: Script,
    /// Descriptors that the script refers to.
    pub(crate) kept: Vec<OwnedFd>,
    /// Number of descriptors that each start is given.
    pub(crate) slots: usize,
    /// Largest descriptor number that the program is given: whatever a start is given lies above.
    pub(crate) highest: i32,
}

/// Registers that the parent fills, in this order: the parent's pidfd for `poll`, the network
/// namespace of a station, the slots, and the `cgroup.procs` of v1.
struct Given {
    parent: Reg,
    station: Option<Reg>,
    slots: Vec<Reg>,
    v1_procs: Vec<Reg>,
}

/// Compiles `spec`, whose paths are canonical, for a cgroup in `v1` hierarchies of version 1 and
/// possibly (`grouped`) others.
pub(crate) fn compile(spec: Spec, v1: usize, grouped: bool) -> Result<Compiled, Error> {
    validate(&spec)?;
    let (mut script, given) = begin(&spec, v1, grouped);
    furnish(&mut script, &spec, given.station)?;
    finish(script, &given, spec)
}

/// Compiles what makes the namespaces of a jail into what its `spec` says.
pub(crate) fn compile_home(spec: &Spec) -> Result<Script, Error> {
    validate(spec)?;
    let mut script = Script::default();
    furnish(&mut script, spec, None)?;
    script.check()?;
    Ok(script)
}

/// Compiles a child's way into the namespaces of its jail, which are open.
pub(crate) fn compile_way(
    mut spec: Spec,
    home: Vec<(Namespaces, OwnedFd)>,
    v1: usize,
    grouped: bool,
) -> Result<Compiled, Error> {
    let (mut script, given) = begin(&spec, v1, grouped);
    for (namespace, fd) in &home {
        let flags = namespace.flags();
        let arguments = [fd.as_raw_fd().into(), flags.into()];
        script.call(Stage::Namespace, format!("{flags:#x}"), libc::SYS_setns, &arguments);
    }
    spec.network = None;
    let mut compiled = finish(script, &given, spec)?;
    compiled.kept.extend(home.into_iter().map(|(_, fd)| fd));
    Ok(compiled)
}

fn begin(spec: &Spec, v1: usize, grouped: bool) -> (Script, Given) {
    let mut script = Script::default();
    let slots = slots(spec);
    let given = Given {
        parent: script.register(),
        station: spec.stations.is_some().then(|| script.register()),
        slots: (0..slots).map(|_| script.register()).collect(),
        v1_procs: (0..v1).map(|_| script.register()).collect(),
    };
    join_cgroup(&mut script, &given, grouped && spec.namespaces.contains(Namespaces::CGROUP));
    process::begin(&mut script, spec.session);
    (script, given)
}

/// Mounts, names and network of fresh namespaces.
fn furnish(script: &mut Script, spec: &Spec, station: Option<Reg>) -> Result<(), Error> {
    let network = spec.network.as_ref().map(|network| network.as_raw_fd().into());
    if let Some(network) = network.or(station.map(Arg::from)) {
        let arguments = [network, libc::CLONE_NEWNET.into()];
        script.call(Stage::Network, "namespace", libc::SYS_setns, &arguments);
    }
    if spec.namespaces.contains(Namespaces::MOUNT) {
        root::build(script, spec)?;
    }
    inside::names(script, spec)
}

/// What makes the process the box's own, and then its program.
fn finish(mut script: Script, given: &Given, spec: Spec) -> Result<Compiled, Error> {
    let slots = given.slots.len();
    let end = process::Ending::new(&spec);
    end.before_descriptors(&mut script, &spec, given)?;
    let highest = files::highest(&spec);
    let mut kept = files::pass(&mut script, spec.stdio, spec.descriptors, given, highest)?;
    kept.extend(spec.network);
    let mut compiled = Compiled { script, kept, slots, highest };
    end.execute(&mut compiled, spec.program, &spec.args, &spec.env)?;
    compiled.script.check()?;
    Ok(compiled)
}

/// Writes the child into its cgroups of v1, then makes their view its own. A namespace made by
/// `clone3` itself would be rooted in the parent's cgroup.
fn join_cgroup(script: &mut Script, given: &Given, namespace: bool) {
    for procs in &given.v1_procs {
        let own = script.arena.literal(c"0");
        script.call(
            Stage::Cgroup,
            "of version 1 (cgroup.procs)",
            libc::SYS_write,
            &[(*procs).into(), own.into(), 1usize.into()],
        );
    }
    if namespace {
        script.call(Stage::Cgroup, "namespace", libc::SYS_unshare, &[libc::CLONE_NEWCGROUP.into()]);
    }
}

fn slots(spec: &Spec) -> usize {
    spec.stdio
        .iter()
        .chain(spec.descriptors.iter().map(|d| &d.source))
        .filter_map(|stream| match stream {
            Stream::Slot(index) => Some(index.saturating_add(1)),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}

/// Finds what contradicts itself.
fn validate(spec: &Spec) -> Result<(), Error> {
    let invalid = |field, problem: &str, remedy| {
        Err(Error::Invalid { field, problem: problem.to_owned(), remedy })
    };
    let has = |namespace| spec.namespaces.contains(namespace);
    let mounts = spec.rootfs != Rootfs::Host
        || spec.proc != Proc::None
        || spec.dev != Dev::None
        || spec.sys
        || !spec.mounts.is_empty();
    if mounts && !has(Namespaces::MOUNT) {
        return invalid(
            "namespaces",
            "a root file system or mounts without a mount namespace would change the host's",
            "add Namespaces::MOUNT",
        );
    }
    if spec.hostname.is_some() && !has(Namespaces::UTS) {
        return invalid("hostname", "it would change the host's", "add Namespaces::UTS");
    }
    if spec.network.is_some() && !has(Namespaces::NET) {
        return invalid("network", "the host's network is to be kept", "add Namespaces::NET");
    }
    if spec.stations.is_some() && (spec.network.is_some() || !has(Namespaces::NET)) {
        return invalid(
            "stations",
            "the network is another's",
            "leave network out and add Namespaces::NET",
        );
    }
    if spec.loopback && !has(Namespaces::NET) {
        return invalid("loopback", "it would change the host's", "add Namespaces::NET");
    }
    if spec.sys && !has(Namespaces::NET) && spec.rootfs != Rootfs::Host {
        return invalid(
            "sys",
            "a fresh sysfs belongs to a network namespace of its own",
            "add Namespaces::NET, or set sys to false",
        );
    }
    if spec.args.is_empty() && !matches!(spec.program, Program::Caller) {
        return invalid("args", "there is no argv[0]", "give at least the program's name");
    }
    if let Rootfs::Overlay { lower, .. } = &spec.rootfs
        && lower.is_empty()
    {
        return invalid("rootfs", "an overlay of no directories", "name at least one");
    }
    if !spec.cwd.is_absolute() {
        return invalid("cwd", "not an absolute path", "begin it with a slash");
    }
    if slots(spec) > 32 {
        return invalid("descriptors", "a slot above 31", "number the slots from 0");
    }
    let mut numbers: Vec<i32> = spec.descriptors.iter().map(|d| d.number).collect();
    numbers.sort_unstable();
    if numbers.iter().any(|number| !(3..1024).contains(number)) {
        return invalid("descriptors", "a number outside of 3 to 1023", "use stdio for 0 to 2");
    }
    if numbers.windows(2).any(|pair| pair.first() == pair.last()) {
        return invalid("descriptors", "one number twice", "give each its own");
    }
    Ok(())
}
