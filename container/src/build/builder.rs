//! A whole build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use super::cache::Cache;
use super::config::Description;
use super::entry::Entries;
use super::error::BuildError;
use super::ignore::{self, Ignore};
use super::layer::write_layer;
use super::plan::{Base, Plan};
use super::scope::{Globals, is_predefined};
use super::stage::{Built, Stage};
use crate::dockerfile::{Dockerfile, DockerfileError, Instruction, Step};
use crate::image::{Blob, Digest, Image, NewLayer, Reference, Session, Store, UnpackLimits};

/// A Dockerfile that is longer is refused by its reader.
const DOCKERFILE_MAX_BYTES: u64 = (1 << 20) + 1;

/// An image to be built.
pub struct Build<'a> {
    /// Where its base is, and where it goes.
    pub store: &'a Store,
    /// The directory that COPY and ADD take files from.
    pub context: &'a Path,
    /// The Dockerfile.
    pub dockerfile: &'a Path,
    /// The name that it gets.
    pub reference: &'a Reference,
    /// Values of ARG.
    pub args: BTreeMap<String, String>,
    /// The stage that is wanted; the last by default.
    pub target: Option<&'a str>,
    /// Whether layers of earlier builds are used.
    pub use_cache: bool,
    /// Whether commands have the host's network; they have but a loopback without.
    pub host_network: bool,
    /// The time of everything in the image, in seconds since 1970.
    pub epoch_s: u64,
    /// Where the output of commands goes.
    pub output: Option<&'a File>,
    /// Told of each instruction that was carried out.
    pub on_step: &'a dyn Fn(&StepReport<'_>),
    /// Asked whether the build is to end.
    pub is_interrupted: &'a dyn Fn() -> bool,
}

/// An instruction was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepReport<'a> {
    /// Its line.
    pub line: usize,
    /// As it is written.
    pub text: &'a str,
    /// Whether its layer had been built before.
    pub is_cached: bool,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The image.
    pub image: Image,
    /// Arguments that were given and that no ARG declares.
    pub unused_args: Vec<String>,
}

/// What all stages of a build share.
pub(super) struct Building<'b> {
    pub(super) store: &'b Store,
    pub(super) session: &'b Session<'b>,
    pub(super) cache: Cache,
    pub(super) context: &'b Path,
    pub(super) ignore: Ignore,
    pub(super) globals: Globals<'b>,
    pub(super) plan: Plan,
    pub(super) host_network: bool,
    pub(super) epoch_s: u64,
    pub(super) output: Option<&'b File>,
    pub(super) on_step: &'b dyn Fn(&StepReport<'_>),
    pub(super) is_interrupted: &'b dyn Fn() -> bool,
}

impl Build<'_> {
    /// Builds it.
    ///
    /// # Errors
    /// The Dockerfile cannot be read, or an instruction fails; the name then stands for what it
    /// stood for before.
    pub fn run(self) -> Result<BuiltImage, BuildError> {
        let file = Dockerfile::parse(&read(self.dockerfile, DOCKERFILE_MAX_BYTES)?)?;
        let mut globals = Globals::new(&self.args, file.escape);
        for (line, name, default) in &file.args {
            let at_line = |problem| DockerfileError { line: *line, problem };
            globals.declare(name, default.as_deref()).map_err(at_line)?;
        }
        let context =
            fs::canonicalize(self.context).map_err(BuildError::io("find", self.context))?;
        let session = self.store.begin()?;
        let building = Building {
            store: self.store,
            session: &session,
            cache: Cache::open(self.store, self.use_cache)?,
            context: &context,
            ignore: ignore_rules(self.dockerfile, &context)?,
            plan: Plan::new(&file, &globals, self.target)?,
            globals,
            host_network: self.host_network,
            epoch_s: self.epoch_s,
            output: self.output,
            on_step: self.on_step,
            is_interrupted: self.is_interrupted,
        };
        let mut stages = BTreeMap::new();
        let mut last = None;
        for index in &building.plan.needed {
            let Some(stage) = file.stages.get(*index) else { continue };
            let base = building.base(*index, &stages).map_err(in_line(stage.line, "FROM"))?;
            let mut under_way = Stage::new(&building, &stages, base);
            for step in &stage.steps {
                under_way.step(step).map_err(in_line(step.line, name(step)))?;
            }
            let built = under_way.finish();
            stages.insert(*index, built);
            last = Some(*index);
        }
        let built = last.and_then(|index| stages.remove(&index)).unwrap_or_default();
        let config = built.description.document(&built.layers, self.epoch_s)?;
        let blobs: Vec<_> = built.layers.iter().map(|layer| layer.blob).collect();
        let image = session.assemble(&config, &blobs)?;
        session.name(&image, self.reference)?;
        Ok(BuiltImage { image, unused_args: unused(&self.args, &file) })
    }
}

impl Building<'_> {
    fn base(&self, index: usize, stages: &BTreeMap<usize, Built>) -> Result<Built, BuildError> {
        match self.plan.bases.get(index) {
            None | Some(Base::Scratch) => Ok(Built::default()),
            Some(Base::Stage(base)) => Ok(stages.get(base).cloned().unwrap_or_default()),
            Some(Base::Image(name)) => {
                let image = self.store.image(&name.parse()?)?;
                let config = self.store.document(&image.config_blob(), name)?;
                let description = Description::of_image(&config)?;
                Ok(Built { description, layers: image.layers().to_vec() })
            }
        }
    }
}

/// Writes a layer and stores it; its archive and the digest of that uncompressed.
pub(super) fn store_layer(
    session: &Session<'_>,
    entries: &Entries,
    epoch_s: u64,
) -> Result<(Blob, Digest), BuildError> {
    let path = session.staging_path();
    let file = File::create_new(&path).map_err(BuildError::io("make", &path))?;
    let mut writer = BufWriter::new(file);
    write_layer(entries, epoch_s, &mut writer)?;
    writer.flush().map_err(BuildError::io("write", &path))?;
    let mut archive = File::open(&path).map_err(BuildError::io("open", &path))?;
    // What was made here is no bomb: a file of zeros may look like one.
    let limits = UnpackLimits { ratio: u64::MAX, ..UnpackLimits::default() };
    let added = session.add_layer(NewLayer {
        archive: &mut archive,
        name: "of the build",
        announced: None,
        diff_id: None,
        limits,
        on_bytes: &|_| {},
    })?;
    fs::remove_file(&path).map_err(BuildError::io("remove", &path))?;
    Ok((added.blob, added.diff_id))
}

/// The rules of the file beside the Dockerfile, or else of the one in the context.
fn ignore_rules(dockerfile: &Path, context: &Path) -> Result<Ignore, BuildError> {
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    for path in [beside.into(), context.join(".dockerignore")] {
        let bytes = match read(&path, ignore::FILE_MAX_BYTES) {
            Err(BuildError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            bytes => bytes?,
        };
        return Ignore::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|line| BuildError::Ignore { path, line });
    }
    Ok(Ignore::default())
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, BuildError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(BuildError::io("read", path))?;
    Ok(bytes)
}

/// Says where an error happened. What speaks for itself stays as it is.
fn in_line(line: usize, instruction: &'static str) -> impl Fn(BuildError) -> BuildError {
    move |error| match error {
        BuildError::Problem(problem) => DockerfileError { line, problem }.into(),
        BuildError::Interrupted | BuildError::Dockerfile(_) => error,
        source => BuildError::Step { line, instruction, source: Box::new(source) },
    }
}

fn name(step: &Step) -> &'static str {
    match &step.instruction {
        Instruction::Run { .. } => "RUN",
        Instruction::Copy(copy) if copy.unpacks => "ADD",
        Instruction::Copy(_) => "COPY",
        Instruction::Env(_) => "ENV",
        Instruction::Workdir(_) => "WORKDIR",
        Instruction::Expose(_) => "EXPOSE",
        _ => "instruction",
    }
}

fn unused(given: &BTreeMap<String, String>, file: &Dockerfile) -> Vec<String> {
    let in_stages = file.stages.iter().flat_map(|stage| &stage.steps);
    let in_stages = in_stages.filter_map(|step| match &step.instruction {
        Instruction::Arg(args) => Some(args.iter().map(|(name, _)| name)),
        _ => None,
    });
    let global = file.args.iter().map(|(_, name, _)| name);
    let declared: Vec<&String> = in_stages.flatten().chain(global).collect();
    let is_unused = |name: &&String| !declared.contains(name) && !is_predefined(name);
    given.keys().filter(is_unused).cloned().collect()
}
