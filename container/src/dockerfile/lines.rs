//! From the file's text to one line an instruction: directives, comments, continuations, heredocs.

use super::error::{DockerfileError, DockerfileProblem};
use super::heredoc::{self, Heredoc};

/// An instruction as it is written, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// The instruction's name in capitals.
    pub(super) name: String,
    /// All after it.
    pub(super) rest: String,
    pub(super) heredocs: Vec<Heredoc>,
}

/// The lines of a file, and the character that escapes in it.
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) escape: char,
}

/// Instructions that may have heredocs.
const WITH_HEREDOCS: [&str; 3] = ["RUN", "COPY", "ADD"];

pub(super) fn split(text: &str) -> Result<Lines, DockerfileError> {
    let physical: Vec<&str> = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let escape = escape_directive(&physical)?;
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some(first) = physical.get(at) {
        if is_blank_or_comment(first) {
            at += 1;
            continue;
        }
        let number = at + 1;
        let logical = join(&physical, &mut at, escape);
        let logical = logical.trim();
        let (name, rest) = logical.split_once(char::is_whitespace).unwrap_or((logical, ""));
        let name = name.to_ascii_uppercase();
        let rest = rest.trim().to_owned();
        let heredocs = if WITH_HEREDOCS.contains(&name.as_str()) {
            heredoc::read(&rest, &physical, &mut at)
                .map_err(|problem| DockerfileError::new(number, problem))?
        } else {
            Vec::new()
        };
        lines.push(Line { number, name, rest, heredocs });
    }
    Ok(Lines { lines, escape })
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// One line of all that are continued from `at` on. Comments and empty lines between them are left
/// out.
fn join(physical: &[&str], at: &mut usize, escape: char) -> String {
    let mut logical = String::new();
    while let Some(line) = physical.get(*at) {
        *at += 1;
        if !logical.is_empty() && is_blank_or_comment(line) {
            continue;
        }
        match continued(line, escape) {
            Some(part) => {
                // Never empty from here on, so that the next line is known to continue it.
                logical.push_str(if logical.is_empty() && part.is_empty() { " " } else { part });
            }
            None => {
                logical.push_str(line);
                break;
            }
        }
    }
    logical
}

/// A line without its mark of continuation, if it has one. An escaped escape is none.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!part.ends_with(escape)).then_some(part)
}

/// Reads the directives at the top. `syntax` and `check` are for other builders.
fn escape_directive(physical: &[&str]) -> Result<char, DockerfileError> {
    let mut escape = None;
    let mut seen = Vec::new();
    for (index, line) in physical.iter().enumerate() {
        let Some((key, value)) = line
            .trim_start()
            .strip_prefix('#')
            .and_then(|directive| directive.split_once('='))
            .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()))
        else {
            break;
        };
        if !matches!(key.as_str(), "syntax" | "check" | "escape") {
            break;
        }
        let fail = |problem| Err(DockerfileError::new(index + 1, problem));
        if seen.contains(&key) {
            return fail(DockerfileProblem::RepeatedDirective(key));
        }
        if key == "escape" {
            escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                _ => return fail(DockerfileProblem::Escape(value.to_owned())),
            };
        }
        seen.push(key);
    }
    Ok(escape.unwrap_or('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Vec<(usize, String, String)> {
        let lines = split(text).unwrap().lines;
        lines.into_iter().map(|line| (line.number, line.name, line.rest)).collect()
    }

    fn line(number: usize, name: &str, rest: &str) -> (usize, String, String) {
        (number, name.into(), rest.into())
    }

    #[test]
    fn test_split_joins_continued_lines_and_drops_comments() {
        let text =
            "\u{feff}# hello\n\nfrom a\r\nRUN x && \\\n  # not this\n\n  y \\ \n z\nUSER u\\\\\n";
        let expected =
            [line(3, "FROM", "a"), line(4, "RUN", "x &&   y  z"), line(9, "USER", "u\\\\")];
        assert_eq!(plain(text), expected);
    }

    #[test]
    fn test_split_of_instruction_continued_at_once_goes_on() {
        assert_eq!(plain("\\\nFROM \\\n a"), [line(1, "FROM", "a")]);
        assert_eq!(plain("FROM a\\"), [line(1, "FROM", "a")]);
    }

    #[test]
    fn test_split_takes_the_escape_directive() {
        let text = "# syntax=docker/dockerfile:1\n# escape=`\nRUN a `\n b\nRUN c\\\nRUN d\n";
        let expected = [line(3, "RUN", "a  b"), line(5, "RUN", "c\\"), line(6, "RUN", "d")];
        assert_eq!(plain(text), expected);
        // Below anything else it is a comment.
        assert_eq!(split("\n# escape=`\n").unwrap().escape, '\\');
    }

    #[test]
    fn test_split_bad_directive_returns_its_line() {
        let error = split("# syntax=x\n# escape=x\n").err().unwrap();
        assert_eq!(
            error.to_string(),
            "Dockerfile line 2: the escape character is \\ or `, not \"x\""
        );
        assert!(split("# escape=\\\n# ESCAPE=`\n").is_err());
    }

    #[test]
    fn test_split_reads_heredocs() {
        let text = "RUN <<EOF cat - <<-\"E2\"\n# kept\n\nEOF\n\ta $x\n\tE2\nUSER <<u\n";
        let lines = split(text).unwrap().lines;
        assert_eq!(lines.len(), 2);
        let [first, second] = &lines[0].heredocs[..] else { panic!("{lines:?}") };
        assert_eq!((first.text.as_str(), first.expands), ("# kept\n\n", true));
        assert_eq!((second.text.as_str(), second.expands), ("a $x\n", false));
        assert_eq!((lines[1].number, lines[1].rest.as_str()), (7, "<<u"));
    }

    #[test]
    fn test_split_heredoc_without_end_returns_error() {
        let error = split("FROM a\nRUN <<EOF\nx\n").err().unwrap();
        assert!(error.to_string().contains("line 2: the heredoc <<EOF has no end"), "{error}");
    }
}
