//! The sections of the HTML report: what belongs together, and what a run lacks.

use super::chart::{self, Chart};
use super::digest::{self, Digest, Group};
use super::table::{Datum, Table};
use super::{facts, figures};
use crate::results::{Clock, Results};

/// A part of the page with a heading of its own.
pub(super) struct Section {
    /// Its anchor.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What the reader is about to see, in plain words.
    pub(super) lead: &'static str,
    pub(super) blocks: Vec<Block>,
    /// What measures this part alone.
    pub(super) command: Option<String>,
}

/// What a section is made of.
pub(super) enum Block {
    Chart(Chart),
    Table(Table),
}

/// A part that this run has no figures for.
pub(super) struct Missing {
    pub(super) title: &'static str,
    /// What would measure it.
    pub(super) command: String,
}

/// A part of a comparison, and the arguments that measure it.
struct Part {
    id: &'static str,
    title: &'static str,
    lead: &'static str,
    /// Arguments of `tare compare` besides the backends.
    arguments: &'static str,
    blocks: fn(&Results, &[Group<'_>]) -> Vec<Block>,
}

const PARTS: [Part; 8] = [
    Part {
        id: "start",
        title: "Starting",
        lead: "From the moment at which someone asks for a box to the moment at which a program in it runs, for every \
               box by the same clock between the same two events; and where that time goes.",
        arguments: "--workload start",
        blocks: start,
    },
    Part {
        id: "memory",
        title: "Memory",
        lead: "What one idle box takes from its host after its program has run.",
        arguments: "--workload start",
        blocks: memory,
    },
    Part {
        id: "compute",
        title: "Computing",
        lead: "What work costs once the box is up: arithmetic, reaching memory, getting memory, asking the kernel. \
               Everything as a multiple of the same work in a plain process.",
        arguments: "--workload cpu,memory,syscall",
        blocks: |results, groups| work(results, groups, &["cpu", "memory", "syscall"]),
    },
    Part {
        id: "files",
        title: "Files",
        lead: "Reading, writing and naming files on the same storage, through the page cache and past it.",
        arguments: "--workload file",
        blocks: |results, groups| work(results, groups, &["file"]),
    },
    Part {
        id: "talk",
        title: "Talking with the host",
        lead: "Bulk data and short messages between a box and a program of its host.",
        arguments: "--workload stream,roundtrip",
        blocks: |results, groups| work(results, groups, &["stream", "roundtrip"]),
    },
    Part {
        id: "many",
        title: "Many at once",
        lead: "What each box adds when many live, and how starting one more slows down meanwhile.",
        arguments: "--workload start",
        blocks: many,
    },
    Part {
        id: "reach",
        title: "Seeing and reaching",
        lead: "What a program in the box finds around it, and how much it gets when it asks for more than its share.",
        arguments: "--workload reach,demand",
        blocks: |results, groups| tables(results, groups, &["reach", "demand"]),
    },
    Part {
        id: "exits",
        title: "Exits of the virtual machine",
        lead: "How often, and why, a virtual CPU left its guest for the VMM. Each exit costs time that no program in \
               the guest sees.",
        arguments: "--on microvm",
        blocks: exits,
    },
];

/// The sections that there are figures for, and what is missing.
pub(super) fn sections(digest: &Digest<'_>) -> (Vec<Section>, Vec<Missing>) {
    let results = digest.results;
    let groups = digest::groups(results);
    let mut sections = Vec::new();
    let mut missing = Vec::new();
    sections.extend(suite(results));
    for part in &PARTS {
        let blocks = (part.blocks)(results, &groups);
        let command = command(results, part.arguments);
        if !blocks.is_empty() {
            let Part { id, title, lead, .. } = *part;
            // A suite is measured as a whole.
            let command = results.suite.is_none().then_some(command);
            sections.push(Section { id, title, lead, blocks, command });
        } else if results.suite.is_none() {
            missing.push(Missing { title: part.title, command });
        }
    }
    sections.extend(trust(results, &groups));
    sections.push(outcomes(results));
    sections.push(host(results));
    (sections, missing)
}

/// The command that measures a part in the same boxes again.
fn command(results: &Results, arguments: &str) -> String {
    let host = match results.clock {
        Clock::Wall => "",
        Clock::Virtual => " --host lab",
    };
    let backends = digest::backends(results).join(",");
    if arguments.contains("--on ") || backends.is_empty() {
        return format!("tare compare{host} {arguments}");
    }
    format!("tare compare{host} --on {backends} {arguments}")
}

fn suite(results: &Results) -> Option<Section> {
    Some(Section {
        id: "figures",
        title: "Figures and their limits",
        lead: "What must be kept to, and what this run measured.",
        blocks: vec![Block::Table(figures::table(results)?)],
        command: None,
    })
}

fn start(results: &Results, groups: &[Group<'_>]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let plain = groups.iter().filter(|group| group.is_start_up());
    for group in plain.filter(|group| group.measured().next().is_some()) {
        blocks.extend(chart::distribution(results, group).map(Block::Chart));
        blocks.push(Block::Table(digest::start_up(results, group)));
        blocks.push(Block::Chart(chart::waterfall(results, group)));
        blocks.push(Block::Table(digest::phases(group)));
    }
    blocks
}

fn memory(results: &Results, groups: &[Group<'_>]) -> Vec<Block> {
    let weighed = groups.iter().filter(|group| group.is_weighed());
    let both = |group: &Group<'_>| {
        [Block::Chart(chart::memory(group)), Block::Table(digest::memory(results, group))]
    };
    weighed.flat_map(both).collect()
}

fn work(results: &Results, groups: &[Group<'_>], workloads: &[&str]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for group in
        groups.iter().filter(|group| workloads.contains(&group.workload) && group.has_metrics())
    {
        blocks.extend(chart::multiples(results, group).map(Block::Chart));
        blocks.push(Block::Table(digest::metrics(results, group)));
    }
    blocks
}

fn tables(results: &Results, groups: &[Group<'_>], workloads: &[&str]) -> Vec<Block> {
    let is_meant = |group: &&Group<'_>| workloads.contains(&group.workload) && group.has_metrics();
    groups
        .iter()
        .filter(is_meant)
        .map(|group| Block::Table(digest::metrics(results, group)))
        .collect()
}

fn many(results: &Results, groups: &[Group<'_>]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for group in groups.iter().filter(|group| group.is_crowd()) {
        blocks.extend(chart::density(group).map(Block::Chart));
        blocks.push(Block::Table(digest::metrics(results, group)));
    }
    let growing: Vec<&Group<'_>> = groups.iter().filter(|group| group.is_growth()).collect();
    blocks.extend(chart::growth(results, &growing).map(Block::Chart));
    blocks.extend(growing.iter().map(|group| Block::Table(digest::start_up(results, group))));
    blocks
}

fn exits(results: &Results, groups: &[Group<'_>]) -> Vec<Block> {
    let counted: Vec<&str> = digest::backends(results)
        .into_iter()
        .filter(|backend| {
            let cells = results.cells.iter().filter(|cell| cell.backend == *backend);
            cells.flat_map(|cell| &cell.samples).any(|sample| sample.vm_exits.is_some())
        })
        .collect();
    let mut blocks = Vec::new();
    for backend in counted {
        blocks.extend(chart::exits(backend, groups).map(Block::Chart));
        blocks.push(Block::Table(exits_table(backend, groups)));
    }
    blocks
}

/// Exits of one backend by workload and reason, and where the virtual CPU's time went.
fn exits_table(backend: &str, groups: &[Group<'_>]) -> Table {
    let times = ["guest", "vmm"];
    let cells = || {
        groups.iter().filter_map(|group| {
            Some((group, group.measured().find(|cell| cell.backend == backend)?))
        })
    };
    let mut reasons: Vec<&str> =
        cells().flat_map(|(_, cell)| chart::exits_of(cell)).map(|(reason, _)| reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let rows = cells().map(|(group, cell)| {
        let exits = chart::exits_of(cell);
        let count = |reason: &&str| {
            let found = exits.iter().find(|(name, _)| name == reason);
            found.map_or(Datum::Absent, |(_, count)| Datum::Count(*count as usize))
        };
        let name =
            if group.is_weighed() { format!("{}, resting", group.title()) } else { group.title() };
        std::iter::once(Datum::Text(name))
            .chain(reasons.iter().map(count))
            .chain(times.map(|name| digest::vm_time(cell, name)))
            .collect()
    });
    Table {
        title: format!("Exits of {backend}"),
        caption: "Medians over instances. Time in the guest has idle time in it; time in the VMM is between an exit \
                  and the next entry."
            .to_owned(),
        header: std::iter::once("workload")
            .chain(reasons.iter().copied())
            .chain(["time in the guest", "time in the VMM"])
            .map(str::to_owned)
            .collect(),
        rows: rows.collect(),
        is_narrow: true,
    }
}

/// What the measurement itself costs, and what nobody can beat.
fn trust(results: &Results, groups: &[Group<'_>]) -> Option<Section> {
    let mut blocks = Vec::new();
    if !results.floors.is_empty() {
        blocks.push(Block::Table(digest::floors(results)));
    }
    let known = ["cpu", "memory", "syscall", "file", "stream", "roundtrip", "reach", "demand"];
    let others = groups.iter().filter(|group| {
        !known.contains(&group.workload) && group.has_metrics() && !group.is_crowd()
    });
    blocks.extend(others.map(|group| Block::Table(digest::metrics(results, group))));
    (!blocks.is_empty()).then_some(Section {
        id: "trust",
        title: "Floors, and the cost of measuring",
        lead: "The least that the machine itself takes for each kind of box, and what each push of a mark adds to the \
               figures above.",
        blocks,
        command: None,
    })
}

fn outcomes(results: &Results) -> Section {
    Section {
        id: "failures",
        title: "Failures and absences",
        lead: match facts::failures(results) {
            Some(_) => "",
            None => "None: every launch of every box ended as it should.",
        },
        blocks: facts::failures(results).map(Block::Table).into_iter().collect(),
        command: None,
    }
}

fn host(results: &Results) -> Section {
    Section {
        id: "host",
        title: "The machine and what was measured",
        lead: "What about this machine distorts figures, what was warm before the clock started, and the exact bytes \
               that ran.",
        blocks: facts::appendix(results).into_iter().map(Block::Table).collect(),
        command: Some("tare doctor --explain".to_owned()),
    }
}
