//! What a Dockerfile cannot be read for.

/// A Dockerfile is not one that can be built here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Dockerfile line {line}: {problem}")]
pub struct DockerfileError {
    /// The line on which the instruction begins, the first being 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: DockerfileProblem,
}

impl DockerfileError {
    pub(crate) fn new(line: usize, problem: DockerfileProblem) -> DockerfileError {
        DockerfileError { line, problem }
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DockerfileProblem {
    /// Longer than any that is meant.
    #[error("the file has more than {most} bytes; a Dockerfile is a short text")]
    TooLong {
        /// What is taken.
        most: usize,
    },
    /// Not text.
    #[error("not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// No FROM at all.
    #[error("the file has no FROM; begin a stage by FROM scratch or FROM IMAGE")]
    NoStage,
    /// An instruction before the first FROM.
    #[error("{0} stands before the first FROM; only ARG may")]
    BeforeFrom(String),
    /// The escape directive names another character.
    #[error("the escape character is \\ or `, not {0:?}")]
    Escape(String),
    /// A directive is given twice.
    #[error("the directive {0} is given twice; remove one")]
    RepeatedDirective(String),
    /// Docker knows it, or not; tare does not do it.
    #[error("{what} is not supported; {remedy}")]
    Unsupported {
        /// The instruction, flag or form, as it is written.
        what: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// No such instruction.
    #[error("there is no instruction {0}; check its spelling")]
    UnknownInstruction(String),
    /// No such flag.
    #[error("{instruction} has no flag {flag}; check its spelling")]
    UnknownFlag {
        /// The instruction.
        instruction: &'static str,
        /// The flag.
        flag: String,
    },
    /// The arguments are not what the instruction takes.
    #[error("{instruction}: {problem}; write {usage}")]
    Arguments {
        /// The instruction.
        instruction: &'static str,
        /// What is wrong with them.
        problem: String,
        /// How it is written.
        usage: &'static str,
    },
    /// A quotation that is not closed.
    #[error("a quotation by {0} is not closed; add the closing mark")]
    OpenQuote(char),
    /// A `${` that is not closed.
    #[error("a ${{ is not closed; add the closing brace")]
    OpenBrace,
    /// What stands in braces is none of the known forms.
    #[error(
        "the substitution ${{{0}}} is not supported; use ${{X}}, ${{X:-default}}, \
             ${{X:+other}} or ${{X:?message}}"
    )]
    Substitution(String),
    /// `${X:?message}` and X is not set.
    #[error("the variable {name} is not set: {message}")]
    Unset {
        /// The variable.
        name: String,
        /// What the file says of it.
        message: String,
    },
    /// A value that grew, as by `ENV A=$A$A`, or is nested too deep.
    #[error(
        "a value is longer than {most_bytes} bytes or nested more than {most_depth} deep; simplify it"
    )]
    TooLarge {
        /// What is taken.
        most_bytes: usize,
        /// What is taken.
        most_depth: usize,
    },
    /// A heredoc without its last line.
    #[error("the heredoc <<{0} has no end; end it by a line with {0} alone")]
    OpenHeredoc(String),
    /// Two stages of one name.
    #[error("a stage named {0} was begun before; name stages differently")]
    RepeatedStage(String),
}
