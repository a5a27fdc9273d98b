//! The HTML report in a real browser: Debian's Chromium, without a window.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::render_html;
use crate::results::fixture::synthetic;
use crate::results::{Clock, Results};

/// What became of a page.
struct Seen {
    /// The document after its scripts have run.
    dom: String,
    /// What the page wrote to the console: messages and errors.
    console: Vec<String>,
}

fn has_chromium() -> bool {
    Command::new("chromium").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// True where the test may run; a missing browser is said by the test's name, and fails under CI.
fn may_run(test: &str) -> bool {
    let is_there = has_chromium();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "{test}: CI lacks chromium");
        let line = format_args!("SKIPPED {test}: this machine lacks chromium\n");
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    }
    is_there
}

fn open(page: &str) -> Seen {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.html");
    std::fs::write(&path, page).unwrap();
    let output = Command::new("chromium")
        // Chromium's own sandbox does not work for root.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--no-first-run", "--disable-background-networking", "--dump-dom"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(url(&path))
        .env("HOME", directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Seen {
        dom: String::from_utf8(output.stdout).unwrap(),
        console: said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect(),
    }
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// The text between two marks.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

/// Values of a metric, one for each sample, read from the JSON and nothing else.
fn series(cell: &Value, metric: &str) -> Vec<f64> {
    let read = |sample: &Value| -> Option<f64> {
        if let Some((from, to)) =
            metric.strip_suffix("_ns").and_then(|name| name.split_once("_to_"))
        {
            let edges = &sample["edges_ns"];
            return Some(edges[to].as_f64()? - edges[from].as_f64()?);
        }
        if metric == "memory_box_bytes" {
            let memory = &sample["memory"];
            let ram = memory["guest_ram_touched_bytes"].as_f64().unwrap_or(0.0);
            return Some(memory["pss_bytes"].as_f64()? + ram);
        }
        if metric == "memory_peak_rss_bytes" {
            return sample["peak_rss_bytes"].as_f64();
        }
        if let Some(name) = metric.strip_prefix("memory_") {
            return sample["memory"][name].as_f64();
        }
        let metrics = sample["metrics"].as_array()?;
        let found = metrics.iter().find(|candidate| candidate["name"] == metric)?;
        let values = found["values"].as_array()?.iter().map(|value| value.as_f64().unwrap());
        Some(median(values.collect()))
    };
    cell["samples"].as_array().unwrap().iter().filter_map(read).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A figure as it is shown, in base units.
fn parsed(shown: &str) -> f64 {
    let (number, unit) = shown.split_once(' ').unwrap_or((shown, ""));
    let scale = match unit {
        "" | "×" | "ns" | "B" | "B/s" => 1.0,
        "µs" | "kB/s" => 1e3,
        "ms" | "MB/s" => 1e6,
        "s" | "GB/s" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        other => panic!("unknown unit {other} in '{shown}'"),
    };
    number.parse::<f64>().unwrap_or_else(|_| panic!("no number: '{shown}'")) * scale
}

/// Figures that say where they come from: attributes and text.
fn traced(dom: &str) -> Vec<(&str, &str)> {
    let pieces = dom.split(" data-cell=\"").skip(1);
    let figures = pieces.filter_map(|piece| {
        let (tag, rest) = piece.split_once('>')?;
        Some((tag, rest.split_once('<')?.0))
    });
    figures.collect()
}

#[test]
fn test_page_in_a_browser_shows_what_its_samples_say() {
    if !may_run("test_page_in_a_browser_shows_what_its_samples_say") {
        return;
    }
    for clock in [Clock::Wall, Clock::Virtual] {
        let results = synthetic(clock);
        let seen = open(&render_html(&results).unwrap());
        assert_eq!(seen.console, Vec::<String>::new());
        let (page, raw) =
            seen.dom.split_once("<script type=\"application/json\" id=\"results\">").unwrap();
        let raw = raw.split_once("</script>").unwrap().0;
        assert!(serde_json::from_str::<Results>(raw).unwrap() == results);
        let json: Value = serde_json::from_str(raw).unwrap();

        let figures = traced(page);
        assert!(figures.len() > 150, "{}", figures.len());
        for (tag, shown) in figures {
            let cell_of = |id: &str| &json["cells"][id.parse::<usize>().unwrap()];
            let cell = cell_of(tag.split_once('"').unwrap().0);
            let metric = between(tag, "data-metric=\"", "\"").unwrap();
            let mut expected = median(series(cell, metric));
            if let Some(base) = between(tag, "data-base=\"", "\"") {
                expected /= median(series(cell_of(base), metric));
                if metric.ends_with("_per_s") {
                    expected = 1.0 / expected;
                }
            }
            // Three significant digits are shown.
            let error = (parsed(shown) - expected).abs();
            assert!(
                error <= expected.abs() * 0.0051,
                "{tag}: shown {shown}, samples say {expected}"
            );
        }
        assert!(page.contains("id=\"save-json\">"), "the page's script has shown the buttons");
    }
}

#[test]
fn test_browser_tells_of_errors_in_a_page() {
    if !may_run("test_browser_tells_of_errors_in_a_page") {
        return;
    }
    let seen = open("<!DOCTYPE html><title>t</title><script>nothing.there();</script>");
    assert!(seen.console.iter().any(|line| line.contains("nothing")), "{:?}", seen.console);
}
