//! What differs between two runs besides their figures.

use std::collections::BTreeSet;

use crate::results::{Artifact, HostFacts, Results};

/// Digits of a digest that are shown.
const DIGEST_DIGITS: usize = 12;

/// A run in one line.
pub(super) fn name(results: &Results) -> String {
    let commit = results.tool.commit.as_ref().map(|commit| format!(" at {}", short(commit)));
    format!(
        "{} · tare {}{} · {}",
        results.created,
        results.tool.version,
        commit.unwrap_or_default(),
        results.tool.command.join(" ")
    )
}

/// Everything that a difference may come from instead of what was changed on purpose.
pub(super) fn notes(old: &Results, new: &Results) -> Vec<String> {
    let mut notes = machine(&old.host, &new.host);
    notes.extend(checks(&old.host, &new.host));
    notes.extend(artifacts(&old.artifacts, &new.artifacts));
    if old.schedule != new.schedule {
        let said = |results: &Results| {
            let schedule = results.schedule;
            format!(
                "{} warm-ups, {} ms between launches",
                schedule.warmup_blocks,
                schedule.gap_ns / 1_000_000
            )
        };
        notes.push(format!("other schedule: {} → {}", said(old), said(new)));
    }
    for (which, results) in [("old", old), ("new", new)] {
        if results.interrupted {
            notes.push(format!(
                "the {which} run was interrupted and has fewer samples than planned"
            ));
        }
    }
    notes
}

fn machine(old: &HostFacts, new: &HostFacts) -> Vec<String> {
    let facts = |host: &HostFacts| {
        [
            ("CPU", host.cpu_model.clone()),
            ("number of CPUs", host.cpus.to_string()),
            ("memory", format!("{} MiB", host.memory_bytes >> 20)),
            ("host kernel", host.kernel.clone()),
            ("virtualization", host.virtualization.clone()),
            ("cgroups", host.cgroup.clone()),
            ("clock source", host.clocksource.clone()),
        ]
    };
    let pairs = facts(old).into_iter().zip(facts(new));
    let other = pairs.filter(|((_, before), (_, after))| before != after);
    other.map(|((what, before), (_, after))| format!("other {what}: {before} → {after}")).collect()
}

/// Checks of the preflight that one run passed and the other did not.
fn checks(old: &HostFacts, new: &HostFacts) -> Vec<String> {
    let changed = new.checks.iter().filter_map(|check| {
        let before = old.checks.iter().find(|other| other.id == check.id)?;
        (before.level != check.level)
            .then(|| format!("preflight, {}: {} → {}", check.title, before.value, check.value))
    });
    changed.collect()
}

fn artifacts(old: &[Artifact], new: &[Artifact]) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for artifact in old.iter().chain(new) {
        if !names.contains(&artifact.name.as_str()) {
            names.push(&artifact.name);
        }
    }
    let digests = |artifacts: &[Artifact], name: &str| -> BTreeSet<String> {
        let of_name = artifacts.iter().filter(|artifact| artifact.name == name);
        of_name.map(|artifact| short(&artifact.sha256)).collect()
    };
    let other = names.into_iter().filter_map(|name| {
        let (before, after) = (digests(old, name), digests(new, name));
        let said = |digests: BTreeSet<String>| match digests.len() {
            0 => "none".to_owned(),
            _ => digests.into_iter().collect::<Vec<_>>().join(", "),
        };
        (before != after).then(|| format!("other {name}: {} → {}", said(before), said(after)))
    });
    other.collect()
}

fn short(digest: &str) -> String {
    digest.chars().take(DIGEST_DIGITS).collect()
}
