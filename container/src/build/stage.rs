//! A stage, instruction by instruction.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::builder::{Building, StepReport, store_layer};
use super::cache::{Cache, Made};
use super::config::Description;
use super::copying::{Copying, Given, Origin, mode};
use super::entry::{Entries, Entry};
use super::error::BuildError;
use super::merged::Merged;
use super::running::Run;
use super::scope::Scope;
use super::staging::{self, Staging};
use super::users;
use crate::dockerfile::{Command, Copy, Instruction, RunNetwork, Source, Step, is_remote, remote};
use crate::image::{Digest, ImageLayer};

/// A stage as far as it has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Built {
    pub(super) description: Description,
    /// The lowest first.
    pub(super) layers: Vec<ImageLayer>,
}

/// A stage being built.
pub(super) struct Stage<'b> {
    building: &'b Building<'b>,
    /// Stages before it, those that are needed.
    others: &'b BTreeMap<usize, Built>,
    scope: Scope<'b>,
    built: Built,
    /// Whether this stage has set the command: one of the base goes when the entry point changes.
    has_own_cmd: bool,
}

impl<'b> Stage<'b> {
    pub(super) fn new(
        building: &'b Building<'b>,
        others: &'b BTreeMap<usize, Built>,
        base: Built,
    ) -> Stage<'b> {
        let scope = building.globals.stage(base.description.config.variables());
        Stage { building, others, scope, built: base, has_own_cmd: false }
    }

    pub(super) fn finish(self) -> Built {
        self.built
    }

    /// Carries out one instruction.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), BuildError> {
        if (self.building.is_interrupted)() {
            return Err(BuildError::Interrupted);
        }
        let before = self.built.layers.len();
        let is_cached = match &step.instruction {
            Instruction::Run { command, network } => self.run(command, *network)?,
            Instruction::Copy(copy) => self.copy(copy)?,
            Instruction::Workdir(path) => self.workdir(path)?,
            other => {
                self.describe(other)?;
                false
            }
        };
        let config = &mut self.built.description.config;
        let env = self.scope.image_env();
        config.env = (!env.is_empty()).then_some(env);
        let has_layer = self.built.layers.len() > before;
        self.built.description.note(&step.text, has_layer, self.building.epoch_s);
        (self.building.on_step)(&StepReport { line: step.line, text: &step.text, is_cached });
        Ok(())
    }

    /// Instructions that change the configuration alone.
    fn describe(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let expand = |text: &String| self.scope.expand(text);
        let config = &mut self.built.description.config;
        match instruction {
            Instruction::Env(pairs) => {
                // All of one line see what was before it.
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(name, value)| Ok((expand(name)?, expand(value)?)))
                    .collect::<Result<_, BuildError>>()?;
                for (name, value) in pairs {
                    check_variable(&name, &value)?;
                    self.scope.set_env(name, value);
                }
            }
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.scope.declare(name, default.as_deref())?;
                }
            }
            Instruction::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (expand(name)?, expand(value)?);
                    config.labels.get_or_insert_default().insert(name, value);
                }
            }
            Instruction::User(user) => {
                let user = expand(user)?;
                config.user = user;
            }
            Instruction::Entrypoint(command) => {
                config.entrypoint = Some(config.arguments(command));
                if !self.has_own_cmd {
                    config.cmd = None;
                }
            }
            Instruction::Cmd(command) => {
                config.cmd = Some(config.arguments(command));
                self.has_own_cmd = true;
            }
            Instruction::Expose(ports) => {
                for port in ports {
                    for port in expand(port)?.split_whitespace() {
                        let port = exposed(port)?;
                        config.exposed_ports.get_or_insert_default().insert(port, empty());
                    }
                }
            }
            Instruction::Volume(paths) => {
                for path in paths {
                    config.volumes.get_or_insert_default().insert(expand(path)?, empty());
                }
            }
            Instruction::StopSignal(signal) => config.stop_signal = expand(signal)?,
            Instruction::Healthcheck(check) => config.set_healthcheck(check),
            Instruction::Shell(words) => config.shell = Some(words.clone()),
            Instruction::Maintainer(name) => {
                self.built.description.author = Some(name.clone());
            }
            Instruction::Run { .. } | Instruction::Copy(_) | Instruction::Workdir(_) => {}
        }
        Ok(())
    }

    fn trees(&self) -> Result<Vec<PathBuf>, BuildError> {
        Ok(self.building.store.trees_of(&self.built.layers)?)
    }

    fn cwd(&self) -> &str {
        match self.built.description.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    fn user(&self) -> &str {
        match self.built.description.config.user.as_str() {
            "" => "0",
            user => user,
        }
    }

    /// An absolute path of the stage.
    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.cwd()) }
    }

    fn workdir(&mut self, path: &str) -> Result<bool, BuildError> {
        let path = self.absolute(&self.scope.expand(path)?);
        let path = staging::clean(&path);
        let below = Merged::open(self.trees()?)?;
        let mut staging = Staging::new(&below, (0, 0));
        let place = Path::new(&path);
        let place = staging.resolve(place)?;
        self.built.description.config.working_dir = path;
        if staging.is_directory(&place)? == Some(true) {
            return Ok(false);
        }
        staging.put_directory(&place, Entry::implied_directory())?;
        let entries = staging.finish();
        let key = self.files_key(&entries);
        self.add(&key, |_| Ok(entries))
    }

    fn copy(&mut self, copy: &Copy) -> Result<bool, BuildError> {
        let below = Merged::open(self.trees()?)?;
        let scratch = Scratch(self.building.session.staging_path());
        let context;
        let other;
        let origin = match &copy.from {
            None => {
                context = Merged::open(vec![self.building.context.to_owned()])?;
                let ignore = Some(&self.building.ignore);
                Origin { root: &context, ignore, name: "the build's directory" }
            }
            Some(from) => {
                other = Merged::open(self.trees_from(from)?)?;
                Origin { root: &other, ignore: None, name: from }
            }
        };
        let owner = copy.chown.as_ref().map(|owner| self.scope.expand(owner)).transpose()?;
        let owner = owner.map(|owner| users::owner(&below, &owner)).transpose()?;
        let chmod = copy.chmod.as_ref().map(|mode| self.scope.expand(mode)).transpose()?;
        let mode = chmod.map(|text| mode(&text)).transpose()?;
        let mut sources = Vec::new();
        for (index, source) in copy.sources.iter().enumerate() {
            sources.push(match source {
                Source::Path(path) => {
                    let path = self.scope.expand(path)?;
                    if copy.unpacks && is_remote(&path) {
                        return Err(remote(&path).into());
                    }
                    Given::Path(path)
                }
                Source::Inline { name, text, expands } => {
                    let text = if *expands { self.scope.expand_text(text)? } else { text.clone() };
                    Given::Inline(name.clone(), scratch.keep(index, &text)?)
                }
            });
        }
        let target = self.absolute(&self.scope.expand(&copy.target)?);
        let unpacks_into = copy.unpacks.then(|| scratch.0.join("members"));
        let copying = Copying { origin, owner, mode, unpacks_into };
        let entries = copying.run(&below, &sources, &target)?;
        let key = self.files_key(&entries);
        self.add(&key, |_| Ok(entries))
    }

    /// The layers of a stage, by its name or number, or of an image.
    fn trees_from(&self, from: &str) -> Result<Vec<PathBuf>, BuildError> {
        let store = self.building.store;
        let stage = self.building.plan.stage(from).and_then(|index| self.others.get(&index));
        match stage {
            Some(stage) => Ok(store.trees_of(&stage.layers)?),
            None => Ok(store.layer_trees(&store.image(&from.parse()?)?)?),
        }
    }

    fn run(&mut self, command: &Command, network: RunNetwork) -> Result<bool, BuildError> {
        let host_network = match network {
            RunNetwork::None => false,
            RunNetwork::Default => self.building.host_network,
            RunNetwork::Host if self.building.host_network => true,
            RunNetwork::Host => {
                return Err(BuildError::invalid(
                    "RUN --network=host is not allowed in this build".to_owned(),
                    "allow it by building with --network host",
                ));
            }
        };
        let args = self.built.description.config.arguments(command);
        let env = self.scope.run_env();
        let parts = serde_json::json!({
            "run": args,
            "env": env,
            "cwd": self.cwd(),
            "user": self.user(),
            "host_network": host_network,
        });
        let key = self.key(&[parts.to_string().as_bytes()]);
        let trees = self.trees()?;
        let below = Merged::open(trees.clone())?;
        let (cwd, user) = (self.cwd().to_owned(), self.user().to_owned());
        let run = Run {
            below: &below,
            trees,
            args,
            env: env.into_iter().chain(self.scope.proxies()).collect(),
            cwd: &cwd,
            user: &user,
            host_network,
            output: self.building.output,
            is_interrupted: self.building.is_interrupted,
        };
        self.add(&key, |scratch| run.run(scratch))
    }

    fn key(&self, parts: &[&[u8]]) -> Digest {
        Cache::key(&self.built.layers, self.building.epoch_s, parts)
    }

    fn files_key(&self, entries: &Entries) -> Digest {
        self.key(&[b"files", staging::digest(entries).to_string().as_bytes()])
    }

    /// Adds the layer of that key, or of what `make` makes in a new directory. Returns whether it
    /// was in the cache.
    fn add(
        &mut self,
        key: &Digest,
        make: impl FnOnce(&Path) -> Result<Entries, BuildError>,
    ) -> Result<bool, BuildError> {
        let Building { store, session, cache, epoch_s, .. } = self.building;
        let found = cache.find(store, key);
        let made = match found {
            Some(made) => made,
            None => {
                let scratch = Scratch(session.staging_path());
                let entries = make(&scratch.0)?;
                let made = if entries.is_empty() {
                    Made::Nothing
                } else {
                    let (blob, diff_id) = store_layer(session, &entries, *epoch_s)?;
                    Made::Layer { blob, diff_id }
                };
                cache.add(session, key, made)?;
                made
            }
        };
        if let Made::Layer { blob, diff_id } = made {
            let below = self.built.layers.last().map(|layer| layer.chain_id);
            let chain_id = Digest::chained(below, diff_id);
            self.built.layers.push(ImageLayer { blob, diff_id, chain_id });
        }
        Ok(found.is_some())
    }
}

/// A directory that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    /// Writes a text to a file of its own.
    fn keep(&self, index: usize, text: &str) -> Result<PathBuf, BuildError> {
        fs::create_dir_all(&self.0).map_err(BuildError::io("make the directory", &self.0))?;
        let path = self.0.join(format!("heredoc-{index}"));
        fs::write(&path, text).map_err(BuildError::io("write", &path))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now goes with the session.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn empty() -> serde_json::Value {
    serde_json::json!({})
}

fn check_variable(name: &str, value: &str) -> Result<(), BuildError> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return Err(BuildError::invalid(
            format!("{name:?} cannot be a variable of the environment"),
            "write ENV NAME=VALUE",
        ));
    }
    Ok(())
}

/// A port as configurations have it: number or range, and protocol.
fn exposed(port: &str) -> Result<String, BuildError> {
    let (numbers, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let is_range = numbers.splitn(2, '-').all(|number| number.parse::<u16>().is_ok());
    let protocol = protocol.to_ascii_lowercase();
    if !is_range || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(BuildError::invalid(
            format!("{port} is no port"),
            "write EXPOSE 80, 80/udp or 8000-8010",
        ));
    }
    Ok(format!("{numbers}/{protocol}"))
}
