//! What the tests of the command share.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tare::results::Results;

/// The command under test.
pub(crate) fn tare() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("tare"))
}

/// Runs it and returns what it printed, however it ended.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// The one results file in a directory.
pub(crate) fn load_only(directory: &Path) -> Results {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    Results::load(&files.remove(0)).unwrap()
}

/// Standard output and error as text, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// True where a test that needs `what` may run. Where it may not: a line that says so, by name;
/// a failure instead under CI, where everything must run.
pub(crate) fn may_run(test: &str, what: &str, is_there: bool) -> bool {
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "{test}: CI lacks {what}");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!("SKIPPED {test}: this machine lacks {what}\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    }
    is_there
}

/// Some tests look at the whole host for traces or measure on it; others only need a lab.
static HOST: RwLock<()> = RwLock::new(());

/// For a test that must be the only one: it looks at the whole host, or measures on it.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that failed while it held the lock has been reported already.
    HOST.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test in the lab, which other labs do not disturb: its time is virtual.
pub(crate) fn among_labs() -> RwLockReadGuard<'static, ()> {
    HOST.read().unwrap_or_else(PoisonError::into_inner)
}

/// True for root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Everything that a run could leave behind on this host.
pub(crate) struct Traces {
    cgroups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    temporary: BTreeSet<PathBuf>,
    processes: BTreeSet<String>,
}

impl Traces {
    /// Fails with what is there now and was not there before.
    pub(crate) fn assert_nothing_new(&self) {
        let now = Traces::of_this_host();
        fn new<T: Ord + std::fmt::Debug>(before: &BTreeSet<T>, now: &BTreeSet<T>) -> Vec<String> {
            now.difference(before).map(|trace| format!("{trace:?}")).collect()
        }
        let mut left = new(&self.cgroups, &now.cgroups);
        left.extend(new(&self.mounts, &now.mounts));
        left.extend(new(&self.namespaces, &now.namespaces));
        left.extend(new(&self.temporary, &now.temporary));
        left.extend(new(&self.processes, &now.processes));
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Looks around. Only what is tare's is listed where others may come and go meanwhile.
    pub(crate) fn of_this_host() -> Traces {
        let mut cgroups = BTreeSet::new();
        collect_dirs(Path::new("/sys/fs/cgroup"), 3, &mut cgroups);
        cgroups.retain(|path| path.to_string_lossy().contains("tare-"));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let temporary = fs::read_dir(std::env::temp_dir()).map(|entries| {
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().contains("tare-run-"))
                .collect()
        });
        let mut namespaces = BTreeSet::new();
        let mut processes = BTreeSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().unwrap_or_default();
            // An orphan that has ended and that this machine's init has not collected yet.
            if state.starts_with('Z') {
                continue;
            }
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.trim() == "tare-guest" {
                processes.insert(format!(
                    "{} {}",
                    entry.file_name().to_string_lossy(),
                    name.trim()
                ));
            }
            for kind in ["pid", "mnt", "net", "uts", "ipc", "cgroup"] {
                if let Ok(link) = fs::read_link(entry.path().join("ns").join(kind)) {
                    namespaces.insert(link.to_string_lossy().into_owned());
                }
            }
        }
        Traces {
            cgroups,
            mounts: mounts.lines().map(str::to_owned).collect(),
            namespaces,
            temporary: temporary.unwrap_or_default(),
            processes,
        }
    }
}

fn collect_dirs(directory: &Path, depth: u32, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path());
            if depth > 1 {
                collect_dirs(&entry.path(), depth - 1, found);
            }
        }
    }
}
