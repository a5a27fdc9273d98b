//! The configuration of an image in the making (OCI image specification, config.md), with what
//! Docker adds to it: how health is checked, and the shell.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::BuildError;
use crate::dockerfile::{Command, Healthcheck};
use crate::image::ImageLayer;

/// What runs commands in shell form unless SHELL says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// How a container of the image is run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exposed_ports: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) volumes: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) healthcheck: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_build: Option<Vec<String>>,
    /// Whatever else the base image says.
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A configuration, its layers and how it came to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Description {
    pub(super) config: Config,
    pub(super) author: Option<String>,
    history: Vec<Value>,
}

impl Description {
    /// Goes on from that of an image.
    pub(super) fn of_image(bytes: &[u8]) -> Result<Description, BuildError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            config: Option<Config>,
            #[serde(default)]
            author: Option<String>,
            #[serde(default)]
            history: Option<Vec<Value>>,
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            BuildError::invalid(
                format!("the configuration of the base image cannot be understood: {error}"),
                "import the image again",
            )
        })?;
        let config = document.config.unwrap_or_default();
        if config.on_build.as_ref().is_some_and(|triggers| !triggers.is_empty()) {
            return Err(BuildError::invalid(
                "the base image has instructions of ONBUILD, which are not supported".to_owned(),
                "write them into the Dockerfile, on an image without them",
            ));
        }
        let history = document.history.unwrap_or_default();
        Ok(Description { config, author: document.author, history })
    }

    /// Adds a line to the history.
    pub(super) fn note(&mut self, text: &str, has_layer: bool, epoch_s: u64) {
        let mut line = json!({ "created": time(epoch_s), "created_by": text });
        if !has_layer && let Some(line) = line.as_object_mut() {
            line.insert("empty_layer".to_owned(), true.into());
        }
        self.history.push(line);
    }

    /// The document, the same bytes for the same image.
    pub(super) fn document(
        &self,
        layers: &[ImageLayer],
        epoch_s: u64,
    ) -> Result<Vec<u8>, BuildError> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let mut document = json!({
            "created": time(epoch_s),
            "architecture": "amd64",
            "os": "linux",
            "config": &self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": &self.history,
        });
        if let (Some(author), Some(document)) = (&self.author, document.as_object_mut()) {
            document.insert("author".to_owned(), author.as_str().into());
        }
        serde_json::to_vec(&document).map_err(|error| {
            BuildError::invalid(error.to_string(), "shorten the image's configuration")
        })
    }
}

impl Config {
    /// The environment as names and values.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let pair = |text: &String| {
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        self.env.iter().flatten().filter_map(pair).collect()
    }

    /// What is executed for a command.
    pub(super) fn arguments(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let shell = self.shell.clone().unwrap_or_else(|| SHELL.map(str::to_owned).into());
                shell.into_iter().chain([text.clone()]).collect()
            }
        }
    }

    pub(super) fn set_healthcheck(&mut self, check: &Healthcheck) {
        let Some(command) = &check.command else {
            self.healthcheck = Some(json!({ "Test": ["NONE"] }));
            return;
        };
        let test: Vec<&str> = match command {
            Command::Exec(words) => {
                ["CMD"].into_iter().chain(words.iter().map(String::as_str)).collect()
            }
            Command::Shell(text) => vec!["CMD-SHELL", text],
        };
        let mut health = Map::from_iter([("Test".to_owned(), json!(test))]);
        for (name, time_ns) in [
            ("Interval", check.interval_ns),
            ("Timeout", check.timeout_ns),
            ("StartPeriod", check.start_period_ns),
            ("StartInterval", check.start_interval_ns),
            ("Retries", check.retries.map(u64::from)),
        ] {
            health.extend(time_ns.map(|value| (name.to_owned(), value.into())));
        }
        self.healthcheck = Some(health.into());
    }
}

/// A time as documents have it (RFC 3339).
fn time(epoch_s: u64) -> String {
    // Up to the year 9999, which is as far as the format goes.
    let time = UNIX_EPOCH + Duration::from_secs(epoch_s.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_document_keeps_what_the_base_says_and_is_the_same_twice() {
        let base = br#"{"architecture":"amd64","os":"linux","author":"me","config":{"Env":["A=1"],
            "Cmd":["x"],"ArgsEscaped":true},"rootfs":{"type":"layers","diff_ids":[]},
            "history":[{"created_by":"before"}]}"#;
        let mut description = Description::of_image(base).unwrap();
        assert_eq!(description.config.variables(), [("A".to_owned(), "1".to_owned())]);
        description.note("ENV A=2", false, 1);
        description.config.set_healthcheck(&Healthcheck {
            command: Some(Command::Shell("t".into())),
            retries: Some(3),
            ..Healthcheck::default()
        });
        let bytes = description.document(&[], 1).unwrap();
        assert_eq!(bytes, description.document(&[], 1).unwrap());
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(document["created"], "1970-01-01T00:00:01Z");
        assert_eq!(document["author"], "me");
        assert_eq!(document["config"]["ArgsEscaped"], true);
        assert_eq!(
            document["config"]["Healthcheck"],
            json!({"Test": ["CMD-SHELL", "t"], "Retries": 3})
        );
        assert_eq!(document["history"][0], json!({"created_by": "before"}));
        assert_eq!(document["history"][1]["empty_layer"], true);
    }

    #[test]
    fn test_of_image_with_triggers_returns_error() {
        let base = br#"{"config":{"OnBuild":["RUN x"]}}"#;
        assert!(Description::of_image(base).unwrap_err().to_string().contains("ONBUILD"));
        assert!(Description::of_image(br#"{"config":{"OnBuild":null,"Env":null}}"#).is_ok());
        assert!(Description::of_image(b"x").is_err());
    }
}
