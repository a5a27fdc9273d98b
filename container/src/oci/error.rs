//! What a bundle can be refused for.

use std::io;
use std::path::PathBuf;

use crate::error::Error;

/// Why a bundle could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// Its configuration cannot be read.
    #[error("cannot read {}: {source}; name the directory of a bundle", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Its configuration is not what the specification says.
    #[error("config.json is malformed: {source}; write it as the OCI runtime specification says")]
    Malformed {
        /// Where and why.
        #[from]
        source: serde_json::Error,
    },
    /// It asks for something that is not done here.
    #[error("config.json: {property} is not supported{}; leave it out", note(why))]
    Unsupported {
        /// The property, as in `linux.resources.rdma`.
        property: String,
        /// What of it, if not all.
        why: String,
    },
    /// A property has a value that it cannot have.
    #[error("config.json: {property} is invalid: {problem}")]
    Invalid {
        /// The property.
        property: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A hook failed.
    #[error("{kind} hook {} failed: {problem}; see what it printed", path.display())]
    Hook {
        /// When it ran.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// How it failed.
        problem: String,
    },
    /// What it asks for could not be done.
    #[error(transparent)]
    Container(#[from] Error),
}

fn note(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

pub(super) fn unsupported(property: impl Into<String>, why: impl Into<String>) -> OciError {
    OciError::Unsupported { property: property.into(), why: why.into() }
}

pub(super) fn invalid(property: impl Into<String>, problem: impl Into<String>) -> OciError {
    OciError::Invalid { property: property.into(), problem: problem.into() }
}
