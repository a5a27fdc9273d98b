//! Markdown with tables, as GitHub renders it.

use std::fmt::Write;

use super::answer::{Answer, answers, headline, tally, tiles};
use super::digest::Digest;
use super::table::{Datum, Table};
use super::terminal::effect;
use super::{facts, figures};
use crate::results::{Clock, Results};

/// The report as Markdown, short enough for a comment on a pull request: what each box costs, what
/// became of the claims, what failed, and how to do it again. The HTML report has the rest.
pub fn render_markdown(results: &Results) -> String {
    let digest = Digest::new(results);
    let mut text = format!("## {}\n", escaped(&digest.title));
    let _ = write!(text, "\n{}\n", escaped(&headline(results)));
    if results.clock == Clock::Virtual {
        text += "\nAll times are virtual time: instructions of an emulated host.\n";
    }
    text.extend(figures::table(results).as_ref().map(table));
    text += &glance(results);
    if !digest.claims.is_empty() {
        let _ = write!(text, "\n{}\n", escaped(&tally(&digest.claims)));
        text += "\n| Verdict | Claim | Found | Effect |\n|---|---|---|---|\n";
        text.extend(answers(&digest.claims).iter().map(claim));
    }
    text.extend(facts::failures(results).as_ref().map(table));
    if !digest.warnings.is_empty() {
        text += "\n<details><summary>What distorts these figures</summary>\n\n";
        text.extend(digest.warnings.iter().map(|warning| format!("- {}\n", escaped(warning))));
        text += "\n</details>\n";
    }
    text += "\n<details><summary>Where and how</summary>\n\n";
    text.extend(digest.introduction.iter().map(|line| format!("{}\n\n", escaped(line))));
    for (name, value) in &digest.reproduce {
        let _ = writeln!(text, "- {}: {}", escaped(name), code(value));
    }
    text += "\n</details>\n";
    text
}

/// A row for each backend; nothing where no plain start was measured.
fn glance(results: &Results) -> String {
    let tiles = tiles(results);
    if tiles.is_empty() {
        return String::new();
    }
    let mut text =
        "\n| | Start-up, launch → init | × process | Memory, idle |\n|---|---:|---:|---:|\n"
            .to_owned();
    for tile in tiles {
        let multiple = tile.multiple.as_ref().map_or_else(|| "1 ×".to_owned(), cell);
        let memory = tile.memory.as_ref().map_or_else(|| "–".to_owned(), cell);
        let _ = writeln!(
            text,
            "| {} | {} | {multiple} | {memory} |",
            escaped(&tile.backend),
            cell(&tile.start_up)
        );
    }
    text
}

fn claim(answer: &Answer<'_>) -> String {
    format!(
        "| {} **{}** | {} | {} | {} |\n",
        answer.symbol,
        answer.verdict.outcome.name(),
        escaped(&answer.verdict.statement),
        escaped(&answer.words),
        escaped(&effect(answer.verdict).unwrap_or_default())
    )
}

pub(super) fn table(table: &Table) -> String {
    let mut text = format!("\n## {}\n\n", escaped(&table.title));
    if !table.caption.is_empty() {
        let _ = write!(text, "{}\n\n", escaped(&table.caption));
    }
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text += &row(table.header.iter().map(|name| escaped(name)).collect());
    text += &row((0..table.header.len())
        .map(|c| if table.is_number(c) { "---:" } else { "---" }.to_owned())
        .collect());
    for data in &table.rows {
        text += &row(data.iter().map(cell).collect());
    }
    text
}

fn cell(datum: &Datum) -> String {
    match datum.ends() {
        Some(ends) => escaped(&format!("{} [{ends}]", datum.main())),
        None => escaped(&datum.main()),
    }
}

/// Everything that Markdown or the HTML in it would take for markup.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => escaped.extend(['\\', c]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text as code, between more backticks than it has in a row.
fn code(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    if longest > 0 { format!("{fence} {text} {fence}") } else { format!("{fence}{text}{fence}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_escaped_leaves_no_markup() {
        assert_eq!(escaped("a|b <i>*x*</i>\n"), "a\\|b &lt;i&gt;\\*x\\*&lt;/i&gt; ");
    }

    #[test]
    fn test_code_fences_outnumber_backticks() {
        assert_eq!(code("ls"), "`ls`");
        assert_eq!(code("a `` b"), "``` a `` b ```");
    }
}
