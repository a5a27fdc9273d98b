//! What an instruction says. Variables are not put in yet: that is done as it is carried out.

use super::error::DockerfileProblem;
use super::heredoc::Heredoc;
use super::lines::Line;
use super::words::{Flag, duration_ns, flags, json, json_or_words, pairs};

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instruction {
    /// Runs a command in the stage's file system.
    Run {
        /// What is run.
        command: Command,
        /// Over what network.
        network: RunNetwork,
    },
    /// COPY, or ADD, which unpacks archives.
    Copy(Copy),
    /// Sets variables for the steps after it and for the image's command.
    Env(Vec<(String, String)>),
    /// Declares build arguments, with defaults.
    Arg(Vec<(String, Option<String>)>),
    /// Sets the working directory and makes it.
    Workdir(String),
    /// Sets user and group.
    User(String),
    /// Sets the image's entry point.
    Entrypoint(Command),
    /// Sets the image's command.
    Cmd(Command),
    /// Sets labels.
    Label(Vec<(String, String)>),
    /// Tells of ports.
    Expose(Vec<String>),
    /// Tells of volumes.
    Volume(Vec<String>),
    /// Keeps how health is checked.
    Healthcheck(Healthcheck),
    /// Sets what runs commands in shell form.
    Shell(Vec<String>),
    /// Sets the signal that stops the image's command.
    StopSignal(String),
    /// Sets the image's author.
    Maintainer(String),
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Executed as it is.
    Exec(Vec<String>),
    /// For the stage's shell.
    Shell(String),
}

/// The network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// What the build is given.
    Default,
    /// Loopback alone.
    None,
    /// The host's.
    Host,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Whether archives are unpacked: ADD.
    pub unpacks: bool,
    /// The stage or image that files are taken from, instead of the build context.
    pub from: Option<String>,
    /// `USER[:GROUP]` of what is copied.
    pub chown: Option<String>,
    /// Its mode.
    pub chmod: Option<String>,
    /// What is copied.
    pub sources: Vec<Source>,
    /// Where to.
    pub target: String,
}

/// What COPY or ADD takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Files by path or pattern.
    Path(String),
    /// A file of this name with the text of a heredoc.
    Inline {
        /// Name of the file.
        name: String,
        /// Its text.
        text: String,
        /// Whether variables are put into it.
        expands: bool,
    },
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    /// The command; `None` switches off what the base image has.
    pub command: Option<Command>,
    /// Time between checks.
    pub interval_ns: Option<u64>,
    /// Time that one may take.
    pub timeout_ns: Option<u64>,
    /// Time in which failures do not count.
    pub start_period_ns: Option<u64>,
    /// Time between checks until then.
    pub start_interval_ns: Option<u64>,
    /// Failures in a row that count.
    pub retries: Option<u32>,
}

/// Whether ADD would have to fetch `source` from a network.
pub(crate) fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|it| source.starts_with(it))
}

/// The problem of a source that [`is_remote`].
pub(crate) fn remote(source: &str) -> DockerfileProblem {
    unsupported(
        format!("ADD of the address {source}"),
        "fetch the file before the build, or by RUN with --network host",
    )
}

pub(super) fn unsupported(what: String, remedy: &'static str) -> DockerfileProblem {
    DockerfileProblem::Unsupported { what, remedy }
}

/// Reads every instruction but FROM.
pub(super) fn read(line: &Line, escape: char) -> Result<Instruction, DockerfileProblem> {
    match line.name.as_str() {
        "RUN" => run(line),
        "COPY" => copy("COPY", line),
        "ADD" => copy("ADD", line),
        "ENV" => Ok(Instruction::Env(some_pairs("ENV", "ENV NAME=VALUE …", line, escape)?)),
        "LABEL" => Ok(Instruction::Label(some_pairs("LABEL", "LABEL NAME=VALUE …", line, escape)?)),
        "ARG" => arg(line, escape).map(Instruction::Arg),
        "WORKDIR" => Ok(Instruction::Workdir(one("WORKDIR", "WORKDIR PATH", line)?)),
        "USER" => Ok(Instruction::User(one("USER", "USER NAME[:GROUP]", line)?)),
        "STOPSIGNAL" => Ok(Instruction::StopSignal(one("STOPSIGNAL", "STOPSIGNAL SIGNAL", line)?)),
        "MAINTAINER" => Ok(Instruction::Maintainer(one("MAINTAINER", "MAINTAINER NAME", line)?)),
        "ENTRYPOINT" => Ok(Instruction::Entrypoint(command("ENTRYPOINT", line)?)),
        "CMD" => Ok(Instruction::Cmd(command("CMD", line)?)),
        "EXPOSE" => {
            let rest = one("EXPOSE", "EXPOSE PORT[/PROTOCOL] …", line)?;
            Ok(Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()))
        }
        "VOLUME" => {
            let rest = one("VOLUME", "VOLUME PATH …", line)?;
            Ok(Instruction::Volume(json_or_words(&rest)))
        }
        "SHELL" => match json(no_flags("SHELL", line)?) {
            Some(words) if !words.is_empty() => Ok(Instruction::Shell(words)),
            _ => Err(arguments("SHELL", "not a JSON list", "SHELL [\"PROGRAM\", \"ARGUMENT\"]")),
        },
        "HEALTHCHECK" => healthcheck(line).map(Instruction::Healthcheck),
        "ONBUILD" => Err(unsupported(
            "ONBUILD".to_owned(),
            "write its instruction into the Dockerfiles that use the image",
        )),
        _ => Err(DockerfileProblem::UnknownInstruction(line.name.clone())),
    }
}

fn arguments(instruction: &'static str, problem: &str, usage: &'static str) -> DockerfileProblem {
    DockerfileProblem::Arguments { instruction, problem: problem.to_owned(), usage }
}

fn unknown_flag(instruction: &'static str, flag: &Flag) -> DockerfileProblem {
    DockerfileProblem::UnknownFlag { instruction, flag: format!("--{}", flag.name) }
}

fn no_flags<'a>(instruction: &'static str, line: &'a Line) -> Result<&'a str, DockerfileProblem> {
    // A command's own first word may look like one, so only a known position has flags.
    Ok(match flags(&line.rest) {
        (found, rest) if found.is_empty() => rest,
        (found, _) => return Err(unknown_flag(instruction, &found[0])),
    })
}

/// All of the line as one text that is not empty.
fn one(
    instruction: &'static str,
    usage: &'static str,
    line: &Line,
) -> Result<String, DockerfileProblem> {
    let rest = no_flags(instruction, line)?;
    if rest.is_empty() {
        return Err(arguments(instruction, "nothing is given", usage));
    }
    Ok(rest.to_owned())
}

fn some_pairs(
    instruction: &'static str,
    usage: &'static str,
    line: &Line,
    escape: char,
) -> Result<Vec<(String, String)>, DockerfileProblem> {
    let rest = one(instruction, usage, line)?;
    pairs(&rest, escape)?.map_err(|problem| arguments(instruction, &problem, usage))
}

fn command(instruction: &'static str, line: &Line) -> Result<Command, DockerfileProblem> {
    let rest = one(instruction, "a command", line)?;
    Ok(form(&rest))
}

fn form(rest: &str) -> Command {
    json(rest).map_or_else(|| Command::Shell(rest.to_owned()), Command::Exec)
}

pub(super) fn arg(
    line: &Line,
    escape: char,
) -> Result<Vec<(String, Option<String>)>, DockerfileProblem> {
    let usage = "ARG NAME[=DEFAULT] …";
    let rest = one("ARG", usage, line)?;
    let words = super::words::quoted_words(&rest, escape)?;
    words
        .into_iter()
        .map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (word, None),
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(arguments("ARG", &format!("{name:?} is no name"), usage));
            }
            Ok((name, default))
        })
        .collect()
}

fn run(line: &Line) -> Result<Instruction, DockerfileProblem> {
    let (found, rest) = flags(&line.rest);
    let mut network = RunNetwork::Default;
    for flag in &found {
        match (flag.name.as_str(), flag.value.as_deref()) {
            ("network", Some("default")) => network = RunNetwork::Default,
            ("network", Some("none")) => network = RunNetwork::None,
            ("network", Some("host")) => network = RunNetwork::Host,
            ("network", _) => {
                let usage = "RUN --network=none|default|host COMMAND";
                return Err(arguments("RUN", "--network has no such value", usage));
            }
            ("mount" | "security" | "device", _) => {
                let what = format!("RUN --{}", flag.name);
                return Err(unsupported(what, "COPY the files that the command needs"));
            }
            _ => return Err(unknown_flag("RUN", flag)),
        }
    }
    let command = match &line.heredocs[..] {
        [] if rest.is_empty() => {
            return Err(arguments("RUN", "nothing is given", "RUN COMMAND"));
        }
        [] => form(rest),
        // Nothing but a heredoc: it is the script.
        [Heredoc { mark, text, .. }] if mark == rest => {
            if text.starts_with("#!") {
                let what = "RUN of a heredoc with a #! line".to_owned();
                return Err(unsupported(what, "give it to its interpreter: RUN python3 <<EOF"));
            }
            Command::Shell(text.clone())
        }
        // The shell reads them itself.
        heredocs => {
            let raw: String = heredocs.iter().map(|heredoc| heredoc.raw.as_str()).collect();
            Command::Shell(format!("{rest}\n{raw}"))
        }
    };
    Ok(Instruction::Run { command, network })
}

fn copy(instruction: &'static str, line: &Line) -> Result<Instruction, DockerfileProblem> {
    const USAGE: &str = "COPY [--from=STAGE] [--chown=USER:GROUP] [--chmod=MODE] SOURCE … TARGET";
    let (found, rest) = flags(&line.rest);
    let mut copy = Copy {
        unpacks: instruction == "ADD",
        from: None,
        chown: None,
        chmod: None,
        sources: Vec::new(),
        target: String::new(),
    };
    for flag in found {
        let place = match flag.name.as_str() {
            "from" if !copy.unpacks => &mut copy.from,
            "chown" => &mut copy.chown,
            "chmod" => &mut copy.chmod,
            "link" | "parents" | "exclude" | "keep-git-dir" | "checksum" | "unpack" => {
                let what = format!("{instruction} --{}", flag.name);
                return Err(unsupported(what, "leave it out, or write several instructions"));
            }
            _ => return Err(unknown_flag(instruction, &flag)),
        };
        match flag.value.filter(|value| !value.is_empty()) {
            Some(value) => *place = Some(value),
            None => {
                let problem = format!("--{} has no value", flag.name);
                return Err(arguments(instruction, &problem, USAGE));
            }
        }
    }
    let mut words = json_or_words(rest);
    copy.target = words.pop().unwrap_or_default();
    if words.is_empty() || copy.target.is_empty() {
        return Err(arguments(instruction, "a source and a target are needed", USAGE));
    }
    for word in words {
        if copy.unpacks && is_remote(&word) {
            return Err(remote(&word));
        }
        let heredoc = line.heredocs.iter().find(|heredoc| heredoc.mark == word);
        copy.sources.push(heredoc.map_or(Source::Path(word), |heredoc| Source::Inline {
            name: heredoc.name.clone(),
            text: heredoc.text.clone(),
            expands: heredoc.expands,
        }));
    }
    Ok(Instruction::Copy(copy))
}

fn healthcheck(line: &Line) -> Result<Healthcheck, DockerfileProblem> {
    const USAGE: &str = "HEALTHCHECK [--interval=30s] [--timeout=30s] [--retries=3] CMD COMMAND, \
                         or HEALTHCHECK NONE";
    let fail = |problem: &str| Err(arguments("HEALTHCHECK", problem, USAGE));
    let (found, rest) = flags(&line.rest);
    let mut check = Healthcheck::default();
    for flag in &found {
        let value = flag.value.as_deref().unwrap_or_default();
        let time = match flag.name.as_str() {
            "interval" => &mut check.interval_ns,
            "timeout" => &mut check.timeout_ns,
            "start-period" => &mut check.start_period_ns,
            "start-interval" => &mut check.start_interval_ns,
            "retries" => match value.parse() {
                Ok(retries) => {
                    check.retries = Some(retries);
                    continue;
                }
                Err(_) => return fail("--retries is no number"),
            },
            _ => return Err(unknown_flag("HEALTHCHECK", flag)),
        };
        *time = duration_ns(value);
        if time.is_none() {
            return fail(&format!("--{} is no time", flag.name));
        }
    }
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (kind.to_ascii_uppercase().as_str(), rest.trim()) {
        ("NONE", "") if found.is_empty() => {}
        ("CMD", rest) if !rest.is_empty() => check.command = Some(form(rest)),
        _ => return fail("neither CMD with a command nor NONE alone"),
    }
    Ok(check)
}
