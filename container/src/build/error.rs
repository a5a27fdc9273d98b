//! Why an image could not be built.

use std::io;
use std::path::{Path, PathBuf};

use crate::dockerfile::{DockerfileError, DockerfileProblem};
use crate::image::LayerError;

/// A build failed. Nothing of it is left but layers in the cache, which are whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The Dockerfile cannot be built.
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// An instruction failed.
    #[error("Dockerfile line {line}: {instruction}: {source}")]
    Step {
        /// Where it stands.
        line: usize,
        /// Its name.
        instruction: &'static str,
        /// What failed.
        source: Box<BuildError>,
    },
    /// The command of a RUN failed.
    #[error("the command failed with exit status {status}; its output says why")]
    Command {
        /// Its exit status, or 128 and the signal that ended it.
        status: i32,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file was changed while the build read it.
    #[error("{} was changed during the build; build again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    /// A device node, which a layer cannot have.
    #[error("{} is a device; images have none: remove it in the same RUN", .0.display())]
    Device(PathBuf),
    /// Directories in directories without end.
    #[error("{} is nested too deep", .0.display())]
    TooDeep(PathBuf),
    /// A pattern of `.dockerignore`.
    #[error("{} line {line}: the pattern is malformed; see `docker build` on .dockerignore", path.display())]
    Ignore {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// What an instruction says makes no sense here.
    #[error("{problem}; {remedy}")]
    Invalid {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A variable or form of an instruction.
    #[error(transparent)]
    Problem(#[from] DockerfileProblem),
    /// The container of a RUN.
    #[error(transparent)]
    Container(#[from] crate::Error),
    /// An archive that ADD unpacks.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        source: LayerError,
    },
    /// The store of images.
    #[error(transparent)]
    Store(#[from] crate::image::Error),
    /// Someone asked for the end.
    #[error("interrupted")]
    Interrupted,
}

impl BuildError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
        let path = path.to_owned();
        move |source| BuildError::Io { action, path, source }
    }

    pub(super) fn invalid(problem: String, remedy: &'static str) -> BuildError {
        BuildError::Invalid { problem, remedy }
    }
}
