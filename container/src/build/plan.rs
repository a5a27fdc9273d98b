//! Which stages a build needs, and what each begins with.

use super::error::BuildError;
use super::scope::Globals;
use crate::dockerfile::{Dockerfile, DockerfileError, Instruction, Stage};

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    Scratch,
    /// A stage before it.
    Stage(usize),
    Image(String),
}

/// The stages of a file.
#[derive(Debug)]
pub(super) struct Plan {
    names: Vec<Option<String>>,
    pub(super) bases: Vec<Base>,
    /// Those that are to be built, in order; the last is the one that was asked for.
    pub(super) needed: Vec<usize>,
}

impl Plan {
    pub(super) fn new(
        file: &Dockerfile,
        globals: &Globals<'_>,
        target: Option<&str>,
    ) -> Result<Plan, BuildError> {
        let mut plan = Plan { names: Vec::new(), bases: Vec::new(), needed: Vec::new() };
        for stage in &file.stages {
            let base = plan.base(stage, globals)?;
            plan.bases.push(base);
            plan.names.push(stage.name.clone());
        }
        let last = plan.names.len().saturating_sub(1);
        let target = match target {
            None => last,
            Some(name) => plan.stage(name).ok_or_else(|| {
                let problem = format!("there is no stage {name} in the Dockerfile");
                BuildError::invalid(problem, "name one by --target, or leave it out")
            })?,
        };
        let mut is_needed = vec![false; plan.names.len()];
        is_needed[target] = true;
        // A stage needs only those before it.
        for index in (0..=target).rev().filter(|index| *index < file.stages.len()) {
            if !is_needed[index] {
                continue;
            }
            plan.needed.push(index);
            if let Base::Stage(base) = plan.bases[index] {
                is_needed[base] = true;
            }
            for from in sources(&file.stages[index]) {
                if let Some(other) = plan.stage(from).filter(|other| *other < index) {
                    is_needed[other] = true;
                }
            }
        }
        plan.needed.reverse();
        Ok(plan)
    }

    /// The stage of a name or number.
    pub(super) fn stage(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let named = self.names.iter().position(|own| own.as_deref() == Some(&name));
        named.or_else(|| name.parse().ok().filter(|index| *index < self.names.len()))
    }

    fn base(&self, stage: &Stage, globals: &Globals<'_>) -> Result<Base, BuildError> {
        let at_line = |problem| DockerfileError { line: stage.line, problem };
        if let Some(platform) = &stage.platform {
            let platform = globals.expand(platform).map_err(at_line)?;
            if !matches!(platform.as_str(), "linux/amd64" | "linux/x86_64") {
                let problem = crate::dockerfile::DockerfileProblem::Unsupported {
                    what: format!("the platform {platform}"),
                    remedy: "build for linux/amd64",
                };
                return Err(at_line(problem).into());
            }
        }
        let base = globals.expand(&stage.base).map_err(at_line)?;
        let named =
            self.names.iter().position(|own| own.as_deref() == Some(&base.to_ascii_lowercase()));
        Ok(match named {
            Some(index) => Base::Stage(index),
            None if base == "scratch" => Base::Scratch,
            None => Base::Image(base),
        })
    }
}

fn sources(stage: &Stage) -> impl Iterator<Item = &str> {
    stage.steps.iter().filter_map(|step| match &step.instruction {
        Instruction::Copy(copy) => copy.from.as_deref(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan, BuildError> {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let given = BTreeMap::new();
        let mut globals = Globals::new(&given, '\\');
        for (_, name, value) in &file.args {
            globals.declare(name, value.as_deref()).unwrap();
        }
        Plan::new(&file, &globals, target)
    }

    #[test]
    fn test_plan_takes_only_what_is_needed() {
        let text = "ARG V=3\nFROM alpine:$V AS a\nFROM scratch AS b\nFROM a AS c\nRUN x\n\
                    FROM scratch\nCOPY --from=c /x /y\nCOPY --from=busybox /x /y\n";
        let all = plan(text, None).unwrap();
        assert_eq!(all.needed, [0, 2, 3]);
        assert_eq!(
            all.bases,
            [Base::Image("alpine:3".into()), Base::Scratch, Base::Stage(0), Base::Scratch]
        );
        assert_eq!(plan(text, Some("B")).unwrap().needed, [1]);
        assert_eq!(plan(text, Some("0")).unwrap().needed, [0]);
        assert!(plan(text, Some("none")).is_err());
        assert!(plan("FROM --platform=linux/arm64 a", None).is_err());
        assert!(plan("FROM --platform=$BUILDPLATFORM a", None).is_ok());
        // The name of a stage that comes later is that of an image.
        let text = "FROM x\nFROM scratch AS x\n";
        assert_eq!(plan(text, Some("0")).unwrap().bases[0], Base::Image("x".into()));
    }

    #[test]
    fn test_plan_of_very_many_stages_returns() {
        let text: String = "FROM scratch AS s0\n".to_owned()
            + &(1..5000).map(|n| format!("FROM s{} AS s{n}\n", n - 1)).collect::<String>();
        assert_eq!(plan(&text, None).unwrap().needed.len(), 5000);
    }
}
