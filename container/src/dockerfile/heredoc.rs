//! Heredocs: lines after an instruction that are text for it.

use super::error::DockerfileProblem;

/// The text between `<<NAME` and `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heredoc {
    /// Its name, without quotes.
    pub(super) name: String,
    /// As it is written after the instruction: `<<-"NAME"`.
    pub(super) mark: String,
    /// Its lines, each ended by a newline.
    pub(super) text: String,
    /// Whether variables are substituted: not if its name was quoted.
    pub(super) expands: bool,
    /// Its lines as they stand in the file, the last one included.
    pub(super) raw: String,
}

/// Reads the heredocs that `rest` announces from the lines at `at` on.
pub(super) fn read(
    rest: &str,
    physical: &[&str],
    at: &mut usize,
) -> Result<Vec<Heredoc>, DockerfileProblem> {
    marks(rest)
        .into_iter()
        .map(|mark| {
            let mut heredoc = Heredoc {
                expands: !mark.is_quoted,
                name: mark.name,
                mark: mark.text,
                text: String::new(),
                raw: String::new(),
            };
            while let Some(line) = physical.get(*at) {
                *at += 1;
                heredoc.raw.push_str(line);
                heredoc.raw.push('\n');
                let line = if mark.strips_tabs { line.trim_start_matches('\t') } else { line };
                if *line == heredoc.name {
                    return Ok(heredoc);
                }
                heredoc.text.push_str(line);
                heredoc.text.push('\n');
            }
            Err(DockerfileProblem::OpenHeredoc(heredoc.name))
        })
        .collect()
}

struct Mark {
    name: String,
    text: String,
    strips_tabs: bool,
    is_quoted: bool,
}

/// Words of the form `<<NAME`, with a descriptor's number before or a dash after the arrows. What
/// is inside quotes, or is `<<<`, is none.
fn marks(rest: &str) -> Vec<Mark> {
    outside_quotes(rest).filter_map(mark).collect()
}

/// The words that begin outside quotes; a quotation belongs to its word.
fn outside_quotes(rest: &str) -> impl Iterator<Item = &str> {
    let mut quote = None;
    rest.split(move |character: char| {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        quote.is_none() && character.is_whitespace()
    })
}

fn mark(word: &str) -> Option<Mark> {
    let after = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strips_tabs, name) = after.strip_prefix('-').map_or((false, after), |name| (true, name));
    let unquoted =
        ['"', '\''].iter().find_map(|quote| name.strip_prefix(*quote)?.strip_suffix(*quote));
    let is_quoted = unquoted.is_some();
    let name = unquoted.unwrap_or(name);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (is_good && name.chars().all(is_name)).then(|| Mark {
        name: name.to_owned(),
        text: word.to_owned(),
        strips_tabs,
        is_quoted,
    })
}
