//! Effects that are counted, not sampled: they do not vary by chance.

use super::effect::{Effect, find};
use crate::results::{Cell, Ends, Estimate, Results, series};
use crate::statistics::median;

/// An effect whose ends are the extremes of what was seen.
fn counted(name: &str, value: f64, (low, high): (f64, f64), details: Vec<String>) -> Effect {
    Effect {
        name: name.to_owned(),
        estimate: Estimate { value, low: Some(low), high: Some(high) },
        ends: Some(Ends::Range),
        p: None,
        details,
    }
}

/// How many times more bytes a microVM ships than a container.
pub(super) fn shipped(results: &Results) -> Result<Effect, String> {
    let bytes_of = |name: &str| {
        let found = results.artifacts.iter().find(|artifact| artifact.name == name);
        let bytes = found.map(|artifact| artifact.bytes as f64).filter(|bytes| *bytes > 0.0);
        bytes.ok_or_else(|| format!("this run recorded no size of the {name}"))
    };
    let (kernel, initramfs, program) =
        (bytes_of("guest kernel")?, bytes_of("initramfs")?, bytes_of("agent")?);
    let ratio = (kernel + initramfs) / program;
    let details = vec![
        format!(
            "guest kernel {kernel} B, initramfs with the program {initramfs} B, program alone {program} B"
        ),
        "a distribution as the guest ships more, a language's libraries add the same to both"
            .to_owned(),
    ];
    Ok(counted("microVM ÷ container, ×", ratio, (ratio, ratio), details))
}

/// The number of a kernel's boot.
const KERNEL: &str = "kernel_id_count";
const CALLS: &str = "system_calls_count";
/// What else a program in a box sees, for the verdict's text.
const SEEN: [(&str, &str); 4] = [
    ("processes_count", "processes"),
    ("devices_count", "devices"),
    ("capabilities_count", "capabilities"),
    ("settings_count", "settings that it may write"),
];

/// Calls of the host's kernel that a program can make, microVM ÷ container.
pub(super) fn reached(results: &Results) -> Result<Effect, String> {
    let cell = |backend: &str| find(results, backend, "reach", None, &[KERNEL, CALLS]);
    let (process, container, microvm) = (cell("process")?, cell("container")?, cell("microvm")?);
    let host = median(&series(process, KERNEL)).unwrap_or_default();
    // Another kernel's calls are not the host's.
    let calls = |cell: &Cell| -> Vec<f64> {
        let kernels = series(cell, KERNEL);
        let pairs = series(cell, CALLS).into_iter().zip(kernels);
        pairs.map(|(calls, kernel)| if kernel == host { calls } else { 0.0 }).collect()
    };
    let (above, below) = (calls(microvm), calls(container));
    let ends = |values: &[f64]| {
        let pick =
            |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or_default();
        (pick(f64::min), pick(f64::max))
    };
    let ((least_above, most_above), (least_below, most_below)) = (ends(&above), ends(&below));
    let base = median(&below).filter(|calls| *calls > 0.0);
    let base =
        base.ok_or("the container made no call of the host's kernel: it does not run on it")?;
    let value = median(&above).unwrap_or_default() / base;
    let mut details = vec![if most_above == 0.0 {
        "the microVM's calls end in a kernel of its own; what reaches the host's is its VMM, under a filter".to_owned()
    } else {
        "the microVM runs on the host's own kernel".to_owned()
    }];
    details.extend([process, container, microvm].map(seen));
    Ok(counted(
        "calls of the host's kernel, microVM ÷ container, ×",
        value,
        (least_above / most_below, most_above / least_below.max(1.0)),
        details,
    ))
}

fn seen(cell: &Cell) -> String {
    let parts = SEEN
        .iter()
        .chain(&[(CALLS, "kinds of system calls")])
        .filter_map(|(metric, name)| Some(format!("{} {name}", median(&series(cell, metric))?)));
    format!("{} sees {}", cell.backend, parts.collect::<Vec<_>>().join(", "))
}
