//! Entry points for fuzzing: what of a build needs neither root nor a store. See
//! [`fuzzing`](crate::fuzzing).

use std::collections::BTreeMap;

use super::ignore::Ignore;
use super::plan::Plan;
use super::scope::Globals;
use crate::dockerfile::{Dockerfile, DockerfileProblem, Instruction, Step};

/// Time goes with the length of rules times that of a path.
const RULES_MAX_BYTES: usize = 4096;

/// A Dockerfile: what is read of it lies within it and in its order, its stages can be planned, and
/// what it sets is bounded. Then the same bytes as the rules of what is ignored.
pub fn dockerfile(data: &[u8]) {
    ignore(data.get(..RULES_MAX_BYTES).unwrap_or(data));
    let Ok(file) = Dockerfile::parse(data) else { return };
    assert!(!file.stages.is_empty());
    let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
    let mut last = 0;
    for stage in &file.stages {
        for line in [stage.line].into_iter().chain(stage.steps.iter().map(|step| step.line)) {
            assert!(last < line && line <= lines, "line {line} of {lines} after {last}");
            last = line;
        }
    }
    plan(&file);
}

/// Plans a file's stages and carries out what sets variables.
fn plan(file: &Dockerfile) {
    let given = BTreeMap::new();
    let mut globals = Globals::new(&given, file.escape);
    for (_, name, default) in &file.args {
        if globals.declare(name, default.as_deref()).is_err() {
            return;
        }
    }
    let Ok(plan) = Plan::new(file, &globals, None) else { return };
    assert!(plan.needed.is_sorted() && !plan.needed.is_empty());
    for index in plan.needed {
        // A value that cannot be had ends the build.
        let _ = variables(&globals, &file.stages[index].steps);
    }
}

fn variables(globals: &Globals<'_>, steps: &[Step]) -> Result<(), DockerfileProblem> {
    let mut scope = globals.stage(Vec::new());
    for step in steps {
        match &step.instruction {
            Instruction::Env(pairs) => {
                for (name, value) in pairs {
                    let value = scope.expand(value)?;
                    scope.set_env(name.clone(), value);
                }
            }
            Instruction::Arg(args) => {
                for (name, default) in args {
                    scope.declare(name, default.as_deref())?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn ignore(data: &[u8]) {
    let Ok(ignore) = Ignore::parse(&String::from_utf8_lossy(data)) else { return };
    for path in ["a", "a/b/c.o", "dir with space/[x]", "é/ü"] {
        // What nothing takes in again stays out with all above it.
        if ignore.ignores(path) && !ignore.has_exceptions() {
            assert!(ignore.ignores(&format!("{path}/below")), "{path}");
        }
    }
}
