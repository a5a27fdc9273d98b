//! From a [`Spec`] to the [`Script`] its children play.
//!
//! The order matters: sources of bind mounts are opened while the host can still be seen; inside
//! paths are resolved only after `pivot_root`, when no symbolic link of a hostile root file system
//! can lead out any more; privileges go last, and the system-call filter after them, so that it
//! sees only `execve`.

mod dev;
mod entry;
mod files;
mod init;
mod inside;
mod masks;
mod mount;
mod overlay;
mod privileges;
mod proc;
mod process;
mod root;
mod sysctl;
mod terminal;
mod validate;

use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) use files::above;
pub(crate) use mount::read_only;
pub(crate) use privileges::enters_users;
pub(crate) use process::{POLL_READABLE, bare, search_path};

use crate::error::{Error, Stage};
use crate::namespace::Namespaces;
use crate::script::{Arg, Expected, Reg, Script};
use crate::spec::{Spec, Stream};

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
/// namespace of a station, the slots, the `cgroup.procs` of v1, the socket that a terminal is sent
/// through, and the one by which the child waits.
struct Given {
    parent: Reg,
    station: Option<Reg>,
    slots: Vec<Reg>,
    v1_procs: Vec<Reg>,
    socket: Option<Reg>,
    waits: Option<Reg>,
    /// The program's end of its terminal: filled by the child.
    terminal: Option<Reg>,
}

/// What a compiled start is for, besides its spec.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Hierarchies of version 1 that it joins a cgroup in.
    pub(crate) v1: usize,
    /// Whether it is in a cgroup of its own, in these or other hierarchies.
    pub(crate) grouped: bool,
    /// The user namespace made for it.
    pub(crate) users: Option<OwnedFd>,
    /// Whether it waits for its parent, twice.
    pub(crate) waits: bool,
}

/// Compiles `spec`, whose paths are canonical.
pub(crate) fn compile(spec: Spec, surroundings: Surroundings) -> Result<Compiled, Error> {
    validate::validate(&spec)?;
    let mut script = Script::default();
    let mut given = Given::new(&mut script, &spec, &surroundings);
    entry::enter(&mut script, &spec, surroundings.users.as_ref())?;
    let own_view = surroundings.grouped && spec.namespaces.contains(Namespaces::CGROUP);
    begin(&mut script, &spec, &given, own_view);
    let mut kept = Vec::new();
    furnish(&mut script, &spec, &mut given, &mut kept)?;
    kept.extend(surroundings.users);
    finish(script, &given, spec, kept)
}

/// Compiles the start of a further process in a box: the namespaces are those behind `target`, a
/// pidfd.
pub(crate) fn compile_into(
    spec: Spec,
    surroundings: Surroundings,
    target: OwnedFd,
    namespaces: u32,
) -> Result<Compiled, Error> {
    validate::validate(&spec)?;
    let mut script = Script::default();
    let mut given = Given::new(&mut script, &spec, &surroundings);
    entry::oom_score(&mut script, &spec)?;
    let arguments = [target.as_raw_fd().into(), namespaces.into()];
    script.call(Stage::Namespace, "of the container", libc::SYS_setns, &arguments);
    script.end_entry();
    begin(&mut script, &spec, &given, false);
    if namespaces & libc::CLONE_NEWUSER as u32 != 0 {
        entry::become_root(&mut script);
    }
    let mut kept = vec![target];
    if let (Some(size), Some(socket)) = (spec.terminal, given.socket) {
        let end = terminal::make(&mut script, &spec, size, socket, &mut kept)?;
        given.terminal = Some(end);
    }
    finish(script, &given, spec, kept)
}

/// Compiles what makes the namespaces of a jail into what its `spec` says.
pub(crate) fn compile_home(spec: &Spec) -> Result<Script, Error> {
    validate::validate(spec)?;
    let mut script = Script::default();
    let mut given = Given::new(&mut script, spec, &Surroundings::default());
    furnish(&mut script, spec, &mut given, &mut Vec::new())?;
    script.check()?;
    Ok(script)
}

/// Compiles a child's way into the namespaces of its jail, which are open.
pub(crate) fn compile_way(
    mut spec: Spec,
    home: Vec<(Namespaces, OwnedFd)>,
    surroundings: &Surroundings,
) -> Result<Compiled, Error> {
    let mut script = Script::default();
    let given = Given::new(&mut script, &spec, surroundings);
    let own_view = surroundings.grouped && spec.namespaces.contains(Namespaces::CGROUP);
    begin(&mut script, &spec, &given, own_view);
    for (namespace, fd) in &home {
        let flags = namespace.flags();
        let arguments = [fd.as_raw_fd().into(), flags.into()];
        script.call(Stage::Namespace, format!("{flags:#x}"), libc::SYS_setns, &arguments);
    }
    spec.network = None;
    finish(script, &given, spec, home.into_iter().map(|(_, fd)| fd).collect())
}

impl Given {
    fn new(script: &mut Script, spec: &Spec, surroundings: &Surroundings) -> Given {
        Given {
            parent: script.register(),
            station: spec.stations.as_ref().map(|_| script.register()),
            slots: (0..slots(spec)).map(|_| script.register()).collect(),
            v1_procs: (0..surroundings.v1).map(|_| script.register()).collect(),
            socket: spec.terminal.map(|_| script.register()),
            waits: surroundings.waits.then(|| script.register()),
            terminal: None,
        }
    }
}

fn begin(script: &mut Script, spec: &Spec, given: &Given, own_view: bool) {
    join_cgroup(script, given, own_view);
    process::begin(script, spec.session);
}

/// Mounts, names and network of fresh namespaces.
fn furnish(
    script: &mut Script,
    spec: &Spec,
    given: &mut Given,
    kept: &mut Vec<OwnedFd>,
) -> Result<(), Error> {
    let network = spec.network.as_ref().map(|network| network.as_raw_fd().into());
    if let Some(network) = network.or(given.station.map(Arg::from)) {
        let arguments = [network, libc::CLONE_NEWNET.into()];
        script.call(Stage::Network, "namespace", libc::SYS_setns, &arguments);
    }
    if script.entry() == 0 {
        entry::oom_score(script, spec)?;
    }
    entry::clocks(script, spec)?;
    sysctl::set(script, spec)?;
    let (waits, parent) = (given.waits, given.parent);
    if spec.namespaces.contains(Namespaces::MOUNT) {
        let opened = root::build(script, spec, |script| wait(script, waits, parent))?;
        inside::mounts(script, spec, &opened, spec.terminal.is_some())?;
        if let (Some(size), Some(socket)) = (spec.terminal, given.socket) {
            let end = terminal::make(script, spec, size, socket, kept)?;
            terminal::console(script, end)?;
            given.terminal = Some(end);
        }
        masks::apply(script, spec, opened.nulls[1])?;
    } else {
        wait(script, waits, parent);
        if enters_users(spec) {
            entry::become_root(script);
        }
    }
    inside::names(script, spec)
}

/// Tells the parent, and goes on when it says so. Its end would not show at the socket, whose other
/// end the child has a copy of.
fn wait(script: &mut Script, socket: Option<Reg>, parent: Reg) {
    let Some(socket) = socket else { return };
    process::die_with_parent(script, parent);
    let byte = script.arena.words([0]);
    let arguments = [socket.into(), byte.into(), 1usize.into()];
    script.call(Stage::Hook, "(asking)", libc::SYS_write, &arguments);
    script.call(Stage::Hook, "(waiting)", libc::SYS_read, &arguments).expected = Expected::Positive;
}

/// What makes the process the box's own, and then its program.
fn finish(
    mut script: Script,
    given: &Given,
    spec: Spec,
    mut kept: Vec<OwnedFd>,
) -> Result<Compiled, Error> {
    wait(&mut script, given.waits, given.parent);
    if let Some(end) = given.terminal {
        terminal::control(&mut script, end);
    }
    let slots = given.slots.len();
    let end = process::Ending::new(&spec);
    end.before_descriptors(&mut script, &spec, given)?;
    let highest = files::highest(&spec);
    kept.extend(files::pass(&mut script, spec.stdio, spec.descriptors, given, highest)?);
    kept.extend(spec.network);
    kept.extend(spec.joined.into_iter().map(|joined| joined.file));
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
