//! Dockerfiles: read, not yet carried out.
//!
//! [`Dockerfile::parse`] takes the whole language that people write: parser directives, comments,
//! continued lines, heredocs, both forms of commands, arguments before the first FROM and several
//! stages. What tare does not do (ONBUILD, mounts of RUN, addresses for ADD, …) is an error that
//! names it and its line: nothing is ignored but the directives `syntax` and `check`, which speak
//! to other builders.
//!
//! The language: <https://docs.docker.com/reference/dockerfile/>.

mod error;
mod heredoc;
mod instruction;
mod lines;
mod substitute;
mod words;

pub use error::{DockerfileError, DockerfileProblem};
pub use instruction::{Command, Copy, Healthcheck, Instruction, RunNetwork, Source};

pub(crate) use instruction::{is_remote, remote};
pub(crate) use substitute::{substitute, substitute_text};

use lines::Line;

/// The longest file that is read.
const FILE_MAX_BYTES: usize = 1 << 20;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The character that escapes.
    pub escape: char,
    /// Arguments declared before the first FROM, in order, with their lines.
    pub args: Vec<(usize, String, Option<String>)>,
    /// Its stages; at least one.
    pub stages: Vec<Stage>,
}

/// A stage: FROM and all up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The line of its FROM.
    pub line: usize,
    /// The image or stage that it begins with, or `scratch`; variables are not put in yet.
    pub base: String,
    /// `--platform`, as it is written.
    pub platform: Option<String>,
    /// Its name, in small letters.
    pub name: Option<String>,
    /// Its instructions.
    pub steps: Vec<Step>,
}

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line on which it begins.
    pub line: usize,
    /// As it is written, on one line.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

impl Dockerfile {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// The first line that cannot be read, or that asks for what cannot be done.
    pub fn parse(bytes: &[u8]) -> Result<Dockerfile, DockerfileError> {
        if bytes.len() > FILE_MAX_BYTES {
            let problem = DockerfileProblem::TooLong { most: FILE_MAX_BYTES };
            return Err(DockerfileError::new(1, problem));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            DockerfileError::new(line, DockerfileProblem::NotUtf8)
        })?;
        let lines::Lines { lines, escape } = lines::split(text)?;
        let mut file = Dockerfile { escape, args: Vec::new(), stages: Vec::new() };
        for line in &lines {
            file.take(line).map_err(|problem| DockerfileError::new(line.number, problem))?;
        }
        if file.stages.is_empty() {
            return Err(DockerfileError::new(1, DockerfileProblem::NoStage));
        }
        Ok(file)
    }

    fn take(&mut self, line: &Line) -> Result<(), DockerfileProblem> {
        if line.name == "FROM" {
            let stage = from(line)?;
            if let Some(name) = stage.name.as_ref().filter(|name| self.has_stage(name)) {
                return Err(DockerfileProblem::RepeatedStage(name.clone()));
            }
            self.stages.push(stage);
            return Ok(());
        }
        let Some(stage) = self.stages.last_mut() else {
            if line.name != "ARG" {
                // A word that is no instruction at all is told as that.
                instruction::read(line, self.escape)?;
                return Err(DockerfileProblem::BeforeFrom(line.name.clone()));
            }
            let args = instruction::arg(line, self.escape)?;
            self.args.extend(args.into_iter().map(|(name, value)| (line.number, name, value)));
            return Ok(());
        };
        stage.steps.push(Step {
            line: line.number,
            text: format!("{} {}", line.name, line.rest),
            instruction: instruction::read(line, self.escape)?,
        });
        Ok(())
    }

    fn has_stage(&self, name: &str) -> bool {
        self.stages.iter().any(|stage| stage.name.as_deref() == Some(name))
    }
}

/// Reads a FROM.
fn from(line: &Line) -> Result<Stage, DockerfileProblem> {
    let fail = |problem: &str| {
        Err(DockerfileProblem::Arguments {
            instruction: "FROM",
            problem: problem.to_owned(),
            usage: "FROM [--platform=PLATFORM] IMAGE [AS NAME]",
        })
    };
    let (flags, rest) = words::flags(&line.rest);
    let mut platform = None;
    for flag in flags {
        match (flag.name.as_str(), flag.value) {
            ("platform", Some(value)) => platform = Some(value),
            _ => {
                let flag = format!("--{}", flag.name);
                return Err(DockerfileProblem::UnknownFlag { instruction: "FROM", flag });
            }
        }
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (base, name) = match &words[..] {
        [base] => (*base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (*base, Some(*name)),
        [] => return fail("no image is named"),
        _ => return fail("more than an image and a name"),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if let Some(name) = name
        && (!name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(is_name))
    {
        return fail(&format!("{name:?} is no name of a stage"));
    }
    Ok(Stage {
        line: line.number,
        base: base.to_owned(),
        platform,
        name: name.map(str::to_ascii_lowercase),
        steps: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
