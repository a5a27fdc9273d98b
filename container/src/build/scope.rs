//! Variables of a stage: what `$NAME` stands for, and what a RUN finds in its environment.

use std::collections::BTreeMap;

use crate::dockerfile::{DockerfileProblem, substitute, substitute_text};

/// Arguments that no Dockerfile has to declare, in both spellings.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// What is built, and what builds it: this machine.
const PLATFORM: [(&str, &str); 8] = [
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
    ("BUILDPLATFORM", "linux/amd64"),
    ("BUILDOS", "linux"),
    ("BUILDARCH", "amd64"),
    ("BUILDVARIANT", ""),
];

/// Arguments of the whole file.
#[derive(Debug, Clone)]
pub(super) struct Globals<'a> {
    given: &'a BTreeMap<String, String>,
    declared: BTreeMap<String, String>,
    escape: char,
}

impl<'a> Globals<'a> {
    /// Those that are declared before the first FROM; `given` are those of the command line.
    pub(super) fn new(given: &'a BTreeMap<String, String>, escape: char) -> Globals<'a> {
        let declared = PLATFORM.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Globals { given, declared: declared.into(), escape }
    }

    pub(super) fn declare(
        &mut self,
        name: &str,
        default: Option<&str>,
    ) -> Result<(), DockerfileProblem> {
        let default = default.map(|default| self.expand(default)).transpose()?;
        if let Some(value) = self.given.get(name).cloned().or(default) {
            self.declared.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// Puts values into the text of a FROM.
    pub(super) fn expand(&self, word: &str) -> Result<String, DockerfileProblem> {
        substitute(word, self.escape, &|name| self.declared.get(name).cloned())
    }

    /// A stage's own scope.
    pub(super) fn stage(&self, env: Vec<(String, String)>) -> Scope<'_> {
        Scope { globals: self, env, args: BTreeMap::new() }
    }
}

/// Variables of one stage.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    globals: &'a Globals<'a>,
    /// In the order in which they were first set.
    env: Vec<(String, String)>,
    args: BTreeMap<String, String>,
}

impl Scope<'_> {
    /// Puts values into a word, and takes its quotes away.
    pub(super) fn expand(&self, word: &str) -> Result<String, DockerfileProblem> {
        substitute(word, self.globals.escape, &|name| self.get(name))
    }

    /// Puts values into a text whose quotes mean nothing.
    pub(super) fn expand_text(&self, text: &str) -> Result<String, DockerfileProblem> {
        substitute_text(text, self.globals.escape, &|name| self.get(name))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.env(name).or_else(|| self.args.get(name).map(String::as_str)).map(str::to_owned)
    }

    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set_env(&mut self, name: String, value: String) {
        match self.env.iter_mut().find(|(own, _)| *own == name) {
            Some((_, own)) => *own = value,
            None => self.env.push((name, value)),
        }
    }

    /// ARG: the command line's value, the default here, or that of the whole file.
    pub(super) fn declare(
        &mut self,
        name: &str,
        default: Option<&str>,
    ) -> Result<(), DockerfileProblem> {
        let default = default.map(|default| self.expand(default)).transpose()?;
        let given = self.globals.given.get(name).cloned();
        let value = given.or(default).or_else(|| self.globals.declared.get(name).cloned());
        if let Some(value) = value {
            self.args.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// The environment that is part of the image, `NAME=value` each.
    pub(super) fn image_env(&self) -> Vec<String> {
        self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// That of a RUN on which its outcome may depend: arguments too.
    pub(super) fn run_env(&self) -> Vec<String> {
        let args = self.args.iter().filter(|(name, _)| self.env(name).is_none());
        let args = args.map(|(name, value)| format!("{name}={value}"));
        self.image_env().into_iter().chain(args).collect()
    }

    /// What a RUN gets besides: the way out is not what makes a layer another.
    pub(super) fn proxies(&self) -> Vec<String> {
        PREDEFINED
            .iter()
            .filter(|name| self.get(name).is_none())
            .filter_map(|name| Some(format!("{name}={}", self.globals.given.get(*name)?)))
            .collect()
    }
}

/// Whether an argument may be given without being declared.
pub(super) fn is_predefined(name: &str) -> bool {
    PREDEFINED.contains(&name) || PLATFORM.iter().any(|(own, _)| *own == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_scope_prefers_environment_then_command_line_then_default() {
        let given = BTreeMap::from([
            ("A".to_owned(), "given".to_owned()),
            ("http_proxy".to_owned(), "p".to_owned()),
        ]);
        let mut globals = Globals::new(&given, '\\');
        globals.declare("B", Some("b$A")).unwrap();
        globals.declare("A", Some("a")).unwrap();
        assert_eq!(globals.expand("$A:$B:$TARGETARCH").unwrap(), "given:b:amd64");
        let mut scope = globals.stage(vec![("PATH".into(), "/bin".into())]);
        // Declared for the file is not yet declared for the stage.
        assert_eq!(scope.expand("$A$B").unwrap(), "");
        scope.declare("A", Some("other")).unwrap();
        scope.declare("B", None).unwrap();
        scope.declare("C", Some("${B}c")).unwrap();
        scope.declare("D", None).unwrap();
        assert_eq!(scope.expand("$A-$B-$C-$D").unwrap(), "given-b-bc-");
        scope.set_env("A".into(), "env".into());
        scope.set_env("PATH".into(), "$PATH".into());
        assert_eq!(scope.expand("$A").unwrap(), "env");
        assert_eq!(scope.image_env(), ["PATH=$PATH", "A=env"]);
        assert_eq!(scope.run_env(), ["PATH=$PATH", "A=env", "B=b", "C=bc"]);
        assert_eq!(scope.proxies(), ["http_proxy=p"]);
    }
}
