//! Credentials as `docker login` keeps them.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::error::PullError;

/// The key of Docker's own registry in the file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A user and a password, already in the form in which HTTP has them (RFC 7617). It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    basic: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {}", self.user)
    }
}

impl Credentials {
    /// The value of the header.
    pub(super) fn header(&self) -> String {
        format!("Basic {}", self.basic)
    }

    /// Those for a registry from the user's file: `$DOCKER_CONFIG/config.json`, or that in
    /// `~/.docker`. None if there is no such file or entry.
    pub(super) fn find(registry: &str) -> Result<Option<Credentials>, PullError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
        match directory {
            Some(directory) => Credentials::read(&directory.join("config.json"), registry),
            None => Ok(None),
        }
    }

    /// The same from a file.
    pub(super) fn read(path: &Path, registry: &str) -> Result<Option<Credentials>, PullError> {
        let unusable =
            |why: String| PullError::Credentials { path: path.display().to_string(), why };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(unusable(error.to_string())),
        };
        let file: Value =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        let keys = match registry {
            "docker.io" => vec![DOCKER_HUB.to_owned()],
            host => vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")],
        };
        let entry = keys.iter().find_map(|key| file.get("auths")?.get(key));
        let text = |name| entry.and_then(|entry| entry.get(name)?.as_str());
        let pair = match (text("auth"), text("username"), text("password")) {
            (Some(auth), ..) if !auth.is_empty() => {
                let decoded = STANDARD.decode(auth).ok();
                decoded.and_then(|bytes| String::from_utf8(bytes).ok())
            }
            (_, Some(user), Some(password)) => Some(format!("{user}:{password}")),
            // Kept by a helper, which is not asked.
            _ => return Ok(None),
        };
        let user = pair.as_ref().and_then(|pair| Some(pair.split_once(':')?.0.to_owned()));
        match (pair, user) {
            (Some(pair), Some(user)) => {
                Ok(Some(Credentials { user, basic: STANDARD.encode(pair) }))
            }
            _ => Err(unusable(format!("`auth` of {registry} is not base64 of USER:PASSWORD"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_read_finds_the_registry() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert_eq!(Credentials::read(&path, "a.org").unwrap(), None);
        std::fs::write(
            &path,
            r#"{"auths":{"a.org":{"auth":"dTpwOng="},"https://index.docker.io/v1/":{"auth":"aDpw"},
                "b.org:5000":{"username":"v","password":"q"},"c.org":{},"d.org":{"auth":"?"}}}"#,
        )
        .unwrap();
        let found = Credentials::read(&path, "a.org").unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.header().as_str()), ("u", "Basic dTpwOng="));
        assert_eq!(Credentials::read(&path, "docker.io").unwrap().unwrap().user, "h");
        assert_eq!(Credentials::read(&path, "b.org:5000").unwrap().unwrap().header(), "Basic djpx");
        assert_eq!(Credentials::read(&path, "c.org").unwrap(), None);
        assert_eq!(Credentials::read(&path, "e.org").unwrap(), None);
        assert!(Credentials::read(&path, "d.org").is_err());
        assert!(!format!("{found:?}").contains("dTp"));
        std::fs::write(&path, "{").unwrap();
        assert!(Credentials::read(&path, "a.org").is_err());
    }
}
