//! Programs that a bundle has run at points of its life.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime;

use super::error::{OciError, invalid};

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// As `CreateRuntime`, before it: what older versions had.
    Prestart,
    /// On the host, when the namespaces are made.
    CreateRuntime,
    /// In the namespaces, before the root is changed.
    CreateContainer,
    /// In the box, before its program.
    StartContainer,
    /// On the host, after its program has begun.
    PostStart,
    /// On the host, after its end.
    PostStop,
}

/// The status of a container, as hooks are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    Creating,
    /// It is made; its program has not begun.
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped,
}

/// The state of a container, as the specification defines it.
#[derive(Debug, Clone)]
pub struct State {
    /// The specification's version.
    pub version: String,
    /// Its name.
    pub id: String,
    /// What it is doing.
    pub status: Status,
    /// Its first process.
    pub pid: Option<u32>,
    /// Where its bundle is.
    pub bundle: PathBuf,
    /// What the bundle says of itself.
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let status = match self.status {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
        };
        let mut json = serde_json::json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": status,
            "bundle": self.bundle.to_string_lossy(),
            "annotations": self.annotations,
        });
        if let Some(pid) = self.pid {
            json["pid"] = pid.into();
        }
        json.to_string()
    }
}

/// All of a bundle.
#[derive(Debug, Default)]
pub(super) struct Hooks(Vec<(HookKind, Hook)>);

#[derive(Debug)]
struct Hook {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Option<Duration>,
}

impl Hooks {
    pub(super) fn new(oci: Option<&runtime::Hooks>) -> Result<Hooks, OciError> {
        let Some(oci) = oci else { return Ok(Hooks::default()) };
        // Of the kinds, one is deprecated and still has to be honoured.
        #[allow(deprecated)]
        let kinds = [
            (HookKind::Prestart, oci.prestart()),
            (HookKind::CreateRuntime, oci.create_runtime()),
            (HookKind::CreateContainer, oci.create_container()),
            (HookKind::StartContainer, oci.start_container()),
            (HookKind::PostStart, oci.poststart()),
            (HookKind::PostStop, oci.poststop()),
        ];
        let mut all = Vec::new();
        for (kind, hooks) in kinds {
            for hook in hooks.iter().flatten() {
                let property = format!("hooks.{}", kind.name());
                if !hook.path().is_absolute() {
                    return Err(invalid(property, "path is not absolute"));
                }
                let timeout = match hook.timeout() {
                    None => None,
                    Some(seconds) => match u64::try_from(seconds) {
                        Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
                        _ => return Err(invalid(property, "timeout is not above 0")),
                    },
                };
                let env = hook.env().iter().flatten().map(|entry| {
                    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
                    (name.to_owned(), value.to_owned())
                });
                let (path, args) = (hook.path().clone(), hook.args().clone().unwrap_or_default());
                all.push((kind, Hook { path, args, env: env.collect(), timeout }));
            }
        }
        Ok(Hooks(all))
    }

    /// Whether a start has to wait for some.
    pub(super) fn wait(&self) -> bool {
        !self.0.iter().all(|(kind, _)| matches!(kind, HookKind::PostStart | HookKind::PostStop))
    }

    /// Those of the time when the namespaces are made.
    pub(super) fn at_creation(&self, state: &State, pid: u32) -> Result<(), OciError> {
        self.run(HookKind::Prestart, state, None)?;
        self.run(HookKind::CreateRuntime, state, None)?;
        self.run(HookKind::CreateContainer, state, Some(pid))
    }

    /// Runs those of a kind in order, in the namespaces of process `inside` or on the host.
    pub(super) fn run(
        &self,
        kind: HookKind,
        state: &State,
        inside: Option<u32>,
    ) -> Result<(), OciError> {
        for (_, hook) in self.0.iter().filter(|(known, _)| *known == kind) {
            hook.run(&state.to_json(), inside).map_err(|problem| OciError::Hook {
                kind: kind.name(),
                path: hook.path.clone(),
                problem,
            })?;
        }
        Ok(())
    }
}

impl HookKind {
    fn name(self) -> &'static str {
        match self {
            HookKind::Prestart => "prestart",
            HookKind::CreateRuntime => "createRuntime",
            HookKind::CreateContainer => "createContainer",
            HookKind::StartContainer => "startContainer",
            HookKind::PostStart => "poststart",
            HookKind::PostStop => "poststop",
        }
    }
}

impl Hook {
    fn run(&self, state: &str, inside: Option<u32>) -> Result<(), String> {
        let mut command = Command::new(&self.path);
        if let Some((first, rest)) = self.args.split_first() {
            command.arg0(first).args(rest);
        }
        command.env_clear().envs(self.env.iter().cloned());
        // What it says is for whoever runs the bundle, not for the box.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let namespaces = inside.map(open_namespaces).transpose().map_err(|e| e.to_string())?;
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                // A hook that outlived its runtime would be nobody's.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                    return Err(io::Error::last_os_error());
                }
                for namespace in namespaces.iter().flatten() {
                    if libc::setns(namespace.as_raw_fd(), 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not want to know closes it.
            let _ = input.write_all(state.as_bytes());
        }
        let status = wait(&mut child, self.timeout)?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(format!("exit status {code}")),
            (_, signal) => Err(format!("signal {}", signal.unwrap_or(0))),
        }
    }
}

/// Waits for its end; kills it when its time is over.
fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus, String> {
    let Some(timeout) = timeout else { return child.wait().map_err(|e| e.to_string()) };
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not done after {} s", timeout.as_secs()));
        }
        // Off every timed path.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The namespaces of a process that differ from this one's, mounts last.
fn open_namespaces(pid: u32) -> io::Result<Vec<File>> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for kind in crate::namespace::NamespaceKind::ALL {
        // A hook has the host's process ids: its own would be made by its children only.
        if kind == crate::namespace::NamespaceKind::Pid {
            continue;
        }
        let path = |process: &str| format!("/proc/{process}/ns/{}", kind.name());
        let theirs = path(&pid.to_string());
        if std::fs::metadata(path("self"))?.ino() != std::fs::metadata(&theirs)?.ino() {
            all.push(File::open(theirs)?);
        }
    }
    Ok(all)
}
