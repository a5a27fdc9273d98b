//! Reports of invented results, compared with those that were looked at and accepted.

use super::{render_html, render_markdown, render_suites, render_table};
use crate::results::fixture::synthetic;
use crate::results::{Clock, Edge, Results, Status};
use crate::suite::{self, tests::invented};

/// The page without the results in it, which have their own test.
fn page(results: &Results) -> String {
    let html = render_html(results).unwrap();
    let (before, rest) =
        html.split_once("<script type=\"application/json\" id=\"results\">").unwrap();
    let (_, after) = rest.split_once("</script>").unwrap();
    format!("{before}[the results]{after}")
}

#[test]
fn test_table_of_synthetic_results() {
    insta::assert_snapshot!("table", render_table(&synthetic(Clock::Wall)));
}

#[test]
fn test_table_of_synthetic_results_in_virtual_time() {
    insta::assert_snapshot!("table_virtual", render_table(&synthetic(Clock::Virtual)));
}

#[test]
fn test_table_of_a_suite() {
    let mut results = invented(suite::find("vmm").unwrap(), Clock::Virtual, 3, "qemu");
    for cell in results.cells.iter_mut().filter(|cell| cell.backend == "microvm:snapshot") {
        cell.samples.clear();
        cell.status = Status::Failed { why: "it hung".to_owned() };
    }
    results.cells[0].samples[1].edges_ns.insert(Edge::Init, 11_000_000);
    results.summarise();
    insta::assert_snapshot!("figures", render_table(&results));
    for text in [page(&results), render_markdown(&results)] {
        assert!(text.contains("Figures of the suite vmm") && text.contains("start-practical"));
        assert!(!text.contains("Claims about"), "a suite has no cells for claims");
    }
}

#[test]
fn test_table_of_figures_without_a_reference_has_no_columns_for_it() {
    let mut results = invented(suite::find("vmm").unwrap(), Clock::Wall, 6, "");
    let figures = &mut results.suite.as_mut().unwrap().figures;
    figures.retain(|figure| figure.reference.is_none());
    let text = render_table(&results);
    let header = text.lines().find(|line| line.starts_with("figure ")).unwrap();
    assert!(header.contains("must be") && !header.contains('×'), "{text}");
}

#[test]
fn test_suites_are_listed_with_their_limits() {
    insta::assert_snapshot!("suites", render_suites(suite::all()));
}

#[test]
fn test_markdown_of_synthetic_results() {
    insta::assert_snapshot!("markdown", render_markdown(&synthetic(Clock::Wall)));
}

#[test]
fn test_html_of_synthetic_results() {
    insta::assert_snapshot!("html", page(&synthetic(Clock::Wall)));
}

#[test]
fn test_html_carries_the_results_themselves() {
    let results = synthetic(Clock::Virtual);
    let html = render_html(&results).unwrap();
    let (_, rest) = html.split_once("id=\"results\">").unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    assert!(serde_json::from_str::<Results>(json).unwrap() == results);
}

#[test]
fn test_html_has_landmarks_headings_and_words_for_every_picture() {
    let html = page(&synthetic(Clock::Wall));
    for landmark in ["<header>", "<nav aria-label=", "<main>", "<html lang=\"en\">", "<h1>"] {
        assert_eq!(html.matches(landmark).count(), 1, "{landmark}");
    }
    let count = |text: &str| html.matches(text).count();
    assert_eq!(count("<svg "), count("<svg role=\"img\" aria-label=\""));
    assert_eq!(count("<svg "), count("<desc>"));
    assert_eq!(count("<table"), count("<caption>"));
    assert!(count("<svg ") >= 6 && count("<th scope=\"col\"") > count("<table") * 2);
    assert_eq!(count("<th>"), 0, "every heading of a table says what it heads");
    // Every link of the page leads to something in it.
    for piece in html.split("href=\"#").skip(1) {
        let id = piece.split('"').next().unwrap();
        assert_eq!(count(&format!(" id=\"{id}\"")), 1, "{id}");
    }
}

#[test]
fn test_html_names_the_command_for_what_was_not_measured() {
    let results = synthetic(Clock::Wall);
    let html = page(&results);
    assert!(html.contains("What this run did not measure"));
    assert!(html.contains("--on process,container,microvm,qemu --workload stream,roundtrip"));
    assert!(!html.contains("<h2 id=\"talk-title\">"));
    assert!(html.contains("<h2 id=\"files-title\">"));
}

#[test]
fn test_html_needs_nothing_from_outside() {
    let html = page(&synthetic(Clock::Wall)).replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for reference in ["http:", "https:", "src=", "<link", "@import", "url(", "<iframe", "fetch("] {
        assert!(!html.contains(reference), "{reference}");
    }
}

#[test]
fn test_text_of_the_file_is_escaped_in_every_report() {
    let results = synthetic(Clock::Wall);
    for text in [page(&results), render_markdown(&results)] {
        assert!(
            !text.contains("<b>\"no\"") && text.contains("&lt;1&gt;")
                || text.contains("&#60;1&#62;")
        );
        assert!(!text.contains("Synthetic CPU <1>"));
    }
    let mut results = results;
    results.host.cpu_model = "\u{1b}[31mred\r\n".to_owned();
    assert!(!render_table(&results).contains(['\u{1b}', '\r']));
}

#[test]
fn test_virtual_time_is_named_wherever_a_time_is_shown() {
    let results = synthetic(Clock::Virtual);
    let texts = [(render_table(&results), 8), (render_markdown(&results), 4), (page(&results), 8)];
    for (text, least) in texts {
        assert!(text.to_lowercase().matches("virtual time").count() >= least);
        assert!(!text.contains("CLOCK_MONOTONIC") && !text.contains("monotonic clock"));
    }
    for text in [render_table, render_markdown].map(|render| render(&synthetic(Clock::Wall))) {
        assert!(!text.to_lowercase().contains("virtual time"));
    }
}

#[test]
fn test_empty_results_render() {
    let results = Results::default();
    assert!(render_table(&results).contains("undecided"));
    assert!(render_markdown(&results).contains("undecided"));
    assert!(render_html(&results).unwrap().contains("undecided"));
}
