//! Why an image could not be pulled.

use std::io;

/// A pull failed; the store is as it was, but for whole layers that an image may use later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// What was given is no name of an image in a registry.
    #[error("`{text}` is no name of an image in a registry: {why}")]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry cannot be reached, or broke off more often than is borne.
    #[error(
        "cannot get {what} from {host}, tried {attempts} times: {source}; check the name of the \
         registry and the network"
    )]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// How often.
        attempts: u32,
        /// The last failure.
        source: io::Error,
    },
    /// The registry knows no such image.
    #[error("{host} has no {what}; check its name and tag")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
    },
    /// The registry wants other credentials, or some.
    #[error(
        "{host} does not let {who} have {what}; write credentials to `auths` of \
         ~/.docker/config.json (docker login), credential helpers are not asked"
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// As whom.
        who: String,
    },
    /// The registry answered with a status that is no answer.
    #[error("{host} answered {status} when asked for {what}{}", said(body))]
    Status {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The answer is not what was asked for.
    #[error("{host} sent something else than {what}: {why}; do not trust this registry")]
    Lie {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// A redirection that is not followed.
    #[error("{host} sends the request for {what} on to {to}, which is not followed: {why}")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Of whom.
        host: String,
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The file with credentials.
    #[error("the credentials in {path} cannot be used: {why}")]
    Credentials {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store, or an image that is not what it was announced to be.
    #[error(transparent)]
    Store(#[from] crate::image::Error),
}

fn said(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}
