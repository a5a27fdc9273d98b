//! OCI bundles: a directory with a `config.json` of the runtime specification, version 1.2
//! (<https://github.com/opencontainers/runtime-spec>), to a [`Spec`](crate::Spec).
//!
//! What a bundle asks for is done, or refused by the name of its property: never ignored. Where this
//! is stricter than the specification asks: the root and its directories are `nodev`, so that device
//! nodes work in `/dev` alone, and there those of the box's own devices; system calls of other architectures than x86-64 are answered with `ENOSYS`;
//! `linux.cgroupsPath` names no directory but is refused if it would be a systemd slice, since
//! cgroups are named after the process that must remove them.

mod config;
mod error;
mod hooks;
mod known;
mod linux;
mod mounts;
mod process;
mod resources;
mod seccomp;

use std::path::{Path, PathBuf};

pub use error::OciError;
pub use hooks::{HookKind, State, Status};

use crate::container::Container;
use crate::prepared::{Moment, Prepared};
use crate::spec::{Spec, Stream};
use config::convert;
use hooks::Hooks;

/// A bundle that has been read and understood.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    spec: Spec,
    hooks: Hooks,
    version: String,
    annotations: std::collections::BTreeMap<String, String>,
}

/// A bundle ready to be started, once or more.
#[derive(Debug)]
pub struct PreparedBundle {
    prepared: Prepared,
    hooks: Hooks,
    /// What hooks are told.
    state: State,
}

impl Bundle {
    /// Reads the bundle in `directory`.
    ///
    /// # Errors
    /// Its `config.json` cannot be read, is no such file, or asks for something that is not done
    /// here.
    pub fn open(directory: &Path) -> Result<Bundle, OciError> {
        let path = directory.join("config.json");
        let unreadable = |source| OciError::Unreadable { path: path.clone(), source };
        let directory = std::fs::canonicalize(directory).map_err(unreadable)?;
        let text = std::fs::read(&path).map_err(unreadable)?;
        Bundle::parse(&directory, &text)
    }

    /// As [`Bundle::open`], of a configuration that is in memory already.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn parse(directory: &Path, config: &[u8]) -> Result<Bundle, OciError> {
        let oci = known::parse(config)?;
        let (spec, hooks) = convert(directory, &oci)?;
        let annotations = oci.annotations().clone().unwrap_or_default().into_iter().collect();
        let version = oci.version().clone();
        Ok(Bundle { directory: directory.to_owned(), spec, hooks, version, annotations })
    }

    /// What it says, to be changed: streams and limits for example.
    pub fn spec_mut(&mut self) -> &mut Spec {
        &mut self.spec
    }

    /// What it says, for a further process of the same kind: see
    /// [`Spec::prepare_in`](crate::Spec::prepare_in).
    #[must_use]
    pub fn into_spec(self) -> Spec {
        self.spec
    }

    /// Whether its process has a terminal.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.spec.terminal.is_some()
    }

    /// Gives the process the caller's own standard streams, if it has no terminal.
    pub fn inherit_streams(&mut self) {
        self.spec.stdio = [Stream::Inherit, Stream::Inherit, Stream::Inherit];
    }

    /// Prepares its start under the name `id`.
    ///
    /// # Errors
    /// As [`Spec::prepare`](crate::Spec::prepare).
    pub fn prepare(self, id: &str) -> Result<PreparedBundle, OciError> {
        let Bundle { directory, spec, hooks, version, annotations } = self;
        let prepared = if hooks.wait() { spec.prepare_attended()? } else { spec.prepare()? };
        let state = State {
            version,
            id: id.to_owned(),
            status: Status::Creating,
            pid: None,
            bundle: directory,
            annotations,
        };
        Ok(PreparedBundle { prepared, hooks, state })
    }
}

impl PreparedBundle {
    /// Starts it, with its hooks, up to and with those after the start.
    ///
    /// # Errors
    /// As [`Prepared::spawn`](crate::Prepared::spawn), or a hook failed. Nothing is left then, and
    /// the hooks for the end have run.
    pub fn spawn(&self) -> Result<Container, OciError> {
        let started = if self.hooks.wait() {
            self.prepared.spawn_attended(&[], |moment, pid| {
                let state = self.state_of(pid, Status::Creating);
                match moment {
                    Moment::Made => self.hooks.at_creation(&state, pid),
                    Moment::Furnished => {
                        let state = State { status: Status::Created, ..state };
                        self.hooks.run(HookKind::StartContainer, &state, Some(pid))
                    }
                }
            })
        } else {
            self.prepared.spawn().map_err(OciError::from)
        };
        let container = match started {
            Ok(container) => container,
            Err(error) => {
                self.after_end();
                return Err(error);
            }
        };
        // The specification has errors after the start logged only; the container runs on.
        let state = self.state_of(container.pid(), Status::Running);
        let _ = self.hooks.run(HookKind::PostStart, &state, None);
        Ok(container)
    }

    /// Runs the hooks for after the end: to be called once the container is gone.
    pub fn after_end(&self) {
        let state = State { status: Status::Stopped, pid: None, ..self.state.clone() };
        // As of those after the start.
        let _ = self.hooks.run(HookKind::PostStop, &state, None);
    }

    /// What is told of a container that runs as `pid`.
    #[must_use]
    pub fn state_of(&self, pid: u32, status: Status) -> State {
        State { status, pid: Some(pid), ..self.state.clone() }
    }
}
