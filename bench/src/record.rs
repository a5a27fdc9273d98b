//! What goes into a results file besides the samples: the tool, the machine, the artifacts.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::host::{Source, preflight};
use crate::kit::{AGENT, Kit};
use crate::results::{Artifact, Clock, HostFacts, Results, Tool};

/// Carries the command that the user typed into the lab, its words separated by [`SEPARATOR`].
const COMMAND_VARIABLE: &str = "TARE_COMMAND";
const SEPARATOR: char = '\u{1f}';

/// This process's command line, for a run of the same command in the lab.
pub(crate) fn command_variable() -> (String, String) {
    let words = own_words();
    (COMMAND_VARIABLE.to_owned(), words.join(&SEPARATOR.to_string()))
}

/// True in the lab, where the host outside waits for the results file and nothing else.
pub(crate) fn is_collected() -> bool {
    env::var_os(COMMAND_VARIABLE).is_some()
}

fn own_words() -> Vec<String> {
    env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The command that the user typed, here or outside the lab.
fn command() -> Vec<String> {
    let mut words: Vec<String> = match env::var(COMMAND_VARIABLE) {
        Ok(joined) => joined.split(SEPARATOR).map(str::to_owned).collect(),
        Err(_) => own_words(),
    };
    // Where the binary lay is not part of what to type.
    if let Some(program) = words.first_mut() {
        *program = "tare".to_owned();
    }
    words
}

/// A document with the tool, the machine and the artifacts, and nothing measured yet.
pub(crate) fn assemble(kit: &Kit, source: &Source, clock: Clock) -> Results {
    Results {
        tool: Tool {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command(),
            commit: option_env!("TARE_COMMIT").map(str::to_owned),
        },
        created: now(),
        clock,
        host: facts(source),
        artifacts: artifacts(kit),
        ..Results::default()
    }
}

fn facts(source: &Source) -> HostFacts {
    let checks = preflight(source);
    let value = |id: &str| {
        checks
            .iter()
            .find(|check| check.id == id)
            .map(|check| check.value.clone())
            .unwrap_or_default()
    };
    let memory_kib = value("memory").trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    HostFacts {
        kernel: value("kernel"),
        cpu_model: value("cpu_model"),
        cpus: value("cpus").parse().unwrap_or(0),
        memory_bytes: memory_kib * 1024,
        virtualization: format!("{}; runs under {}", value("virtualization"), value("hypervisor")),
        cgroup: value("cgroup"),
        clocksource: value("clock_source"),
        checks,
    }
}

fn artifacts(kit: &Kit) -> Vec<Artifact> {
    let mut found = vec![artifact("agent", env!("CARGO_PKG_VERSION"), AGENT)];
    let mut add = |name: &str, version: String, path: &Path| {
        if let Ok(bytes) = fs::read(path) {
            found.push(artifact(name, &version, &bytes));
        }
    };
    if let Ok(program) = env::current_exe() {
        add("tare", env!("CARGO_PKG_VERSION").to_owned(), &program);
    }
    if let Ok(kernel) = kit.guest_kernel() {
        add("guest kernel", kernel.name.clone(), &kernel.path);
    }
    if let (Some(version), Some(program)) =
        (first_line("qemu-system-x86_64"), find("qemu-system-x86_64"))
    {
        add("qemu", version, &program);
    }
    if let Ok(initramfs) = kit.initramfs() {
        add("initramfs", String::new(), initramfs);
    }
    found
}

/// What a program says to `--version`, its first line.
fn first_line(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn artifact(name: &str, version: &str, bytes: &[u8]) -> Artifact {
    let digest = Sha256::digest(bytes);
    Artifact {
        name: name.to_owned(),
        version: version.to_owned(),
        bytes: bytes.len() as u64,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Name for a run's files, without extension: `compare-20260101T120000Z-lab`, or with the name of
/// its suite first.
pub(crate) fn file_stem(results: &Results) -> String {
    let time: String =
        results.created.chars().filter(|character| !"-:".contains(*character)).collect();
    let host = match results.clock {
        Clock::Virtual => "lab",
        Clock::Wall => "host",
    };
    let what = results.suite.as_ref().map_or("compare", |suite| &suite.name);
    format!("{what}-{time}-{host}")
}

/// The time, as results files give it: RFC 3339, UTC, to the second.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Suite;

    #[test]
    fn test_file_stem_has_no_colon_and_names_the_host() {
        let results = Results { created: "2026-01-01T12:00:00Z".to_owned(), ..Results::default() };
        assert_eq!(file_stem(&results), "compare-20260101T120000Z-host");
        let suite = Some(Suite { name: "vmm".to_owned(), figures: Vec::new() });
        let results = Results { suite, clock: Clock::Virtual, ..results };
        assert_eq!(file_stem(&results), "vmm-20260101T120000Z-lab");
    }
}
