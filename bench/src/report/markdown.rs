//! Markdown with tables, as GitHub renders it.

use std::fmt::Write;

use super::digest::Digest;
use super::table::{Datum, Table};
use super::terminal::effect;
use crate::results::{Results, Verdict};

/// The report as Markdown.
pub fn render_markdown(results: &Results) -> String {
    let digest = Digest::new(results);
    let mut text = format!("# {}\n", escaped(&digest.title));
    for line in &digest.introduction {
        let _ = write!(text, "\n{}\n", escaped(line));
    }
    for warning in &digest.warnings {
        let _ = write!(text, "\n> **Note:** {}\n", escaped(warning));
    }
    if !digest.claims.is_empty() {
        text += "\n## Claims\n\n| Claim | Verdict | Effect | Why |\n|---|---|---|---|\n";
        text.extend(digest.claims.iter().map(claim));
        let _ = write!(text, "\nThe verdicts hold for {}.\n", escaped(&digest.holds_for));
    }
    for section in &digest.tables {
        text += &table(section);
    }
    text += "\n## Reproduce\n\n";
    for (name, value) in &digest.reproduce {
        let _ = writeln!(text, "- {}: {}", escaped(name), code(value));
    }
    text
}

fn claim(verdict: &Verdict) -> String {
    format!(
        "| {} | **{}** | {} | {} |\n",
        escaped(&verdict.statement),
        verdict.outcome.name(),
        escaped(&effect(verdict).unwrap_or_default()),
        escaped(&verdict.why)
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
