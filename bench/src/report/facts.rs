//! What the figures rest on: the run, the machine, what failed, and how to do it again.

use super::digest::backends;
use super::format::{self, Unit};
use super::spread;
use super::table::{Datum, Table};
use crate::results::{Artifact, Cell, Check, Clock, Level, Results, Status};

pub(super) fn title(results: &Results) -> String {
    let backends = backends(results);
    match results.clock {
        Clock::Wall => format!("tare: {}", backends.join(", ")),
        Clock::Virtual => format!("tare: {} (virtual time)", backends.join(", ")),
    }
}

pub(super) fn introduction(results: &Results) -> Vec<String> {
    let host = &results.host;
    vec![
        format!(
            "tare {} · {} · {} · {} CPU{} · {} · Linux {} · {}",
            results.tool.version,
            results.created,
            host.cpu_model,
            host.cpus,
            if host.cpus == 1 { "" } else { "s" },
            format::value(host.memory_bytes as f64, Unit::Size),
            host.kernel,
            host.virtualization
        ),
        format!(
            "The same workload in each kind of box: {} launches, each of a fresh instance, in randomised blocks \
             (seed {}). Figures are medians; ± is the farther end of the 95 % bootstrap interval; × is the cost as a \
             multiple of the plain process.",
            format::count(results.order.len()),
            results.seed
        ),
    ]
}

pub(super) fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    if results.clock == Clock::Virtual {
        warnings.push(
            "Virtual time: this run was made in the lab, an emulated host. A nanosecond is one instruction; caches, \
             TLBs and world switches cost nothing. The figures are exact and can be compared with each other, never \
             with wall-clock time."
                .to_owned(),
        );
    }
    if results.interrupted {
        warnings.push(
            "The run was interrupted: cells have fewer samples than were planned.".to_owned(),
        );
    }
    warnings.extend(spread::warnings(results));
    let distorting = results.host.checks.iter().filter(|check| check.level == Level::Warn);
    warnings.extend(distorting.map(|check| {
        let remedy =
            check.remedy.as_ref().map(|remedy| format!(" Remedy: {remedy}.")).unwrap_or_default();
        let amount = check
            .amount
            .as_ref()
            .map(|amount| format!(" By how much: {amount}."))
            .unwrap_or_default();
        format!("{}: {}; {}.{amount}{remedy}", check.title, check.value, check.distorts)
    }));
    warnings
}

/// Boxes that failed or cannot run here; `None` where every replicate gave a sample.
pub(super) fn failures(results: &Results) -> Option<Table> {
    let mut troubles: Vec<Trouble> = Vec::new();
    for trouble in results.cells.iter().filter_map(trouble) {
        // One missing program keeps a backend from every workload: that is one thing to say.
        let is_same = |other: &&mut Trouble| {
            (other.backend, &other.what, &other.why)
                == (trouble.backend, &trouble.what, &trouble.why)
        };
        match troubles.iter_mut().find(is_same) {
            Some(same) => same.cells.extend(trouble.cells),
            None => troubles.push(trouble),
        }
    }
    let rows: Vec<Vec<Datum>> = troubles.into_iter().map(Trouble::row).collect();
    (!rows.is_empty()).then(|| Table {
        title: "Failures and absences".to_owned(),
        caption: "A box that hangs, crashes, refuses or is not there is data too.".to_owned(),
        header: ["where", "what", "why"].map(str::to_owned).to_vec(),
        rows,
        is_narrow: true,
    })
}

/// What went wrong in one or more cells of a backend.
struct Trouble<'a> {
    backend: &'a str,
    cells: Vec<String>,
    what: String,
    why: String,
}

fn trouble(cell: &Cell) -> Option<Trouble<'_>> {
    let tried = cell.failures.len() + cell.samples.len() + cell.warmups.len();
    let (what, why) = match &cell.status {
        Status::Unsupported { why, remedy } if remedy.is_empty() => {
            ("absent".to_owned(), why.clone())
        }
        Status::Unsupported { why, remedy } => {
            ("absent".to_owned(), format!("{why}; remedy: {remedy}"))
        }
        Status::Failed { why } => {
            (format!("{} of {tried} failed", cell.failures.len()), why.clone())
        }
        Status::Ok => {
            let last = cell.failures.last()?;
            (format!("{} of {tried} failed", cell.failures.len()), last.why.clone())
        }
    };
    Some(Trouble { backend: &cell.backend, cells: vec![cell.title()], what, why })
}

impl Trouble<'_> {
    fn row(self) -> Vec<Datum> {
        let place = match self.cells.as_slice() {
            [only] => only.clone(),
            several => format!("{} (in {} cells)", self.backend, several.len()),
        };
        vec![Datum::Text(place), Datum::Text(self.what), Datum::Text(self.why)]
    }
}

pub(super) fn appendix(results: &Results) -> Vec<Table> {
    let mut tables = vec![states(results)];
    if !results.host.checks.is_empty() {
        tables.push(preflight(results));
    }
    if !results.artifacts.is_empty() {
        tables.push(artifacts(results));
    }
    tables.extend(spread::variations(results));
    tables
}

fn states(results: &Results) -> Table {
    let row = |cell: &Cell| {
        vec![
            Datum::text(cell.title()),
            Datum::text(cell.state.join("; ")),
            Datum::text(format::value(cell.prepare_ns as f64, Unit::Time)),
        ]
    };
    let measured = results.cells.iter().filter(|cell| cell.status == Status::Ok);
    Table {
        title: "Declared state".to_owned(),
        caption: "What was warm, unpacked or shared before the clock started, and how long that took, untimed."
            .to_owned(),
        header: ["cell", "state", "prepared in"].map(str::to_owned).to_vec(),
        rows: measured.map(row).collect(),
        is_narrow: true,
    }
}

fn preflight(results: &Results) -> Table {
    let row = |check: &Check| {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warning",
        };
        vec![
            Datum::text(&check.title),
            Datum::text(&check.value),
            Datum::text(level),
            Datum::text(&check.distorts),
            Datum::text(check.amount.as_deref().unwrap_or_default()),
            Datum::text(check.remedy.as_deref().unwrap_or_default()),
        ]
    };
    Table {
        title: "Host preflight".to_owned(),
        caption: format!(
            "{}, {} CPUs, {}, Linux {}, {}; cgroup {}; clock source {}.",
            results.host.cpu_model,
            results.host.cpus,
            format::value(results.host.memory_bytes as f64, Unit::Size),
            results.host.kernel,
            results.host.virtualization,
            results.host.cgroup,
            results.host.clocksource
        ),
        header: ["what", "found", "level", "what it distorts", "by how much", "remedy"]
            .map(str::to_owned)
            .to_vec(),
        rows: results.host.checks.iter().map(row).collect(),
        is_narrow: true,
    }
}

fn artifacts(results: &Results) -> Table {
    let row = |artifact: &Artifact| {
        vec![
            Datum::text(&artifact.name),
            Datum::text(&artifact.version),
            Datum::text(format::value(artifact.bytes as f64, Unit::Size)),
            Datum::text(&artifact.sha256),
        ]
    };
    Table {
        title: "Versions and hashes".to_owned(),
        caption: "Everything that was measured or that the measurement rests on.".to_owned(),
        header: ["what", "version", "size", "SHA-256"].map(str::to_owned).to_vec(),
        rows: results.artifacts.iter().map(row).collect(),
        is_narrow: true,
    }
}

pub(super) fn reproduce(results: &Results) -> Vec<(String, String)> {
    let schedule = results.schedule;
    let mut lines = vec![
        (
            "command",
            results.tool.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        ),
        ("seed", results.seed.to_string()),
        (
            "schedule",
            format!(
                "warm-up blocks: {}; {} between launches; limit of a replicate: {}",
                schedule.warmup_blocks,
                if schedule.gap_ns == 0 {
                    "no rest".to_owned()
                } else {
                    format::value(schedule.gap_ns as f64, Unit::Time)
                },
                format::value(schedule.timeout_ns as f64, Unit::Time)
            ),
        ),
        ("tare", results.tool.version.clone()),
    ];
    lines.extend(results.tool.commit.clone().map(|commit| ("commit", commit)));
    lines.extend(again(results).map(|command| ("again", command)));
    lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The same round from nothing: the same code, the same order, the same resampling.
fn again(results: &Results) -> Option<String> {
    let mut words: Vec<String> = results.tool.command.iter().map(|word| quoted(word)).collect();
    let program = words.first_mut()?;
    *program = "target/x86_64-unknown-linux-musl/release/tare".to_owned();
    if !words.iter().any(|word| word.starts_with("--seed")) {
        words.push(format!("--seed {}", results.seed));
    }
    let checkout = results
        .tool
        .commit
        .as_ref()
        .map(|commit| format!("git checkout {commit} && "))
        .unwrap_or_default();
    Some(format!("{checkout}make kernel && {}", words.join(" ")))
}

/// A word as a POSIX shell would need it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn test_quoted_survives_a_shell() {
        assert_eq!(quoted("--out=a/b"), "--out=a/b");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(id)"), "'$(id)'");
    }
}
