//! Quotes, escapes and variables in a word, as a builder reads them.

use std::iter::Peekable;
use std::str::Chars;

use super::error::DockerfileProblem;

/// The longest value: without a bound, `ENV A=$A$A` doubles with each line.
const VALUE_MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of `${A:-${B:-…}}`.
const NESTING_MAX: usize = 32;

/// Values of variables by their names.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Removes quotes and escapes of `word` and puts in the values of its variables.
///
/// # Errors
/// A quotation or brace is not closed, a form in braces is not known, or the value is too large.
pub(crate) fn substitute(
    word: &str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<String, DockerfileProblem> {
    let mut reader = Reader { characters: word.chars().peekable(), escape, lookup };
    reader.read(None, 0)
}

/// As [`substitute`], for text in which quotes and escapes stay, but for one before a `$`.
pub(crate) fn substitute_text(
    text: &str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<String, DockerfileProblem> {
    let mut reader = Reader { characters: text.chars().peekable(), escape, lookup };
    let mut value = String::new();
    while let Some(character) = reader.characters.next() {
        if character == escape && reader.characters.next_if_eq(&'$').is_some() {
            value.push('$');
        } else if character == '$' {
            value.push_str(&reader.variable(0)?);
        } else {
            value.push(character);
        }
        bounded(&value)?;
    }
    Ok(value)
}

struct Reader<'a> {
    characters: Peekable<Chars<'a>>,
    escape: char,
    lookup: Lookup<'a>,
}

impl Reader<'_> {
    /// Up to `end`, which is taken but no part of the value; without one, up to the word's end.
    fn read(&mut self, end: Option<char>, depth: usize) -> Result<String, DockerfileProblem> {
        if depth > NESTING_MAX {
            return Err(too_large());
        }
        let mut value = String::new();
        while let Some(character) = self.characters.next() {
            match character {
                _ if Some(character) == end => return Ok(value),
                '\'' => self.single(&mut value)?,
                '"' => self.double(&mut value, depth)?,
                '$' => value.push_str(&self.variable(depth)?),
                _ if character == self.escape => value.extend(self.characters.next()),
                _ => value.push(character),
            }
            bounded(&value)?;
        }
        if end.is_some() { Err(DockerfileProblem::OpenBrace) } else { Ok(value) }
    }

    fn single(&mut self, value: &mut String) -> Result<(), DockerfileProblem> {
        for character in self.characters.by_ref() {
            if character == '\'' {
                return Ok(());
            }
            value.push(character);
        }
        Err(DockerfileProblem::OpenQuote('\''))
    }

    fn double(&mut self, value: &mut String, depth: usize) -> Result<(), DockerfileProblem> {
        while let Some(character) = self.characters.next() {
            match character {
                '"' => return Ok(()),
                '$' => value.push_str(&self.variable(depth)?),
                _ if character == self.escape => match self.characters.next() {
                    // Before anything else the escape stands for itself.
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        value.push(next);
                    }
                    Some(next) => value.extend([character, next]),
                    None => value.push(character),
                },
                _ => value.push(character),
            }
            bounded(value)?;
        }
        Err(DockerfileProblem::OpenQuote('"'))
    }

    /// What stands after a `$`.
    fn variable(&mut self, depth: usize) -> Result<String, DockerfileProblem> {
        if self.characters.next_if_eq(&'{').is_some() {
            return self.braces(depth);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok((self.lookup)(&name).unwrap_or_default())
    }

    fn braces(&mut self, depth: usize) -> Result<String, DockerfileProblem> {
        let name = self.name();
        let unknown = |rest: &str| DockerfileProblem::Substitution(format!("{name}{rest}"));
        if name.is_empty() {
            return Err(unknown("…"));
        }
        let value = (self.lookup)(&name);
        let (counts_empty, operator) = match self.characters.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (false, self.characters.next()),
            other => (true, other),
        };
        let operator = operator.ok_or(DockerfileProblem::OpenBrace)?;
        if !matches!(operator, '-' | '+' | '?') {
            let colon = if counts_empty { "" } else { ":" };
            return Err(unknown(&format!("{colon}{operator}…")));
        }
        let word = self.read(Some('}'), depth + 1)?;
        let value = value.filter(|value| counts_empty || !value.is_empty());
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(DockerfileProblem::Unset { name, message: word }),
        }
    }

    /// A name, or a positional number; empty if none begins here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(digit) = self.characters.next_if(char::is_ascii_digit) {
            name.push(digit);
            return name;
        }
        while let Some(character) =
            self.characters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(character);
        }
        name
    }
}

fn bounded(value: &str) -> Result<(), DockerfileProblem> {
    if value.len() > VALUE_MAX_BYTES { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> DockerfileProblem {
    DockerfileProblem::TooLarge { most_bytes: VALUE_MAX_BYTES, most_depth: NESTING_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a b".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn value(word: &str) -> String {
        substitute(word, '\\', &lookup).unwrap()
    }

    #[test]
    fn test_substitute_puts_in_values() {
        for (word, expected) in [
            ("$A", "a b"),
            ("x${A}y$A/z", "xa bya b/z"),
            ("$NONE.", "."),
            ("${NONE:-d${A}}", "da b"),
            ("${EMPTY:-d}${EMPTY-e}", "d"),
            ("${A:+set}${EMPTY:+no}${EMPTY+yes}", "setyes"),
            ("${A:?message}", "a b"),
            ("cost: 5$ $", "cost: 5$ $"),
            ("$1x", "x"),
        ] {
            assert_eq!(value(word), expected, "{word}");
        }
    }

    #[test]
    fn test_substitute_takes_quotes_and_escapes_away() {
        for (word, expected) in [
            ("'$A'", "$A"),
            ("\"$A\"", "a b"),
            (r"\$A \\ \'", r"$A \ '"),
            (r#""\$A \" \\ \n""#, r#"$A " \ \n"#),
            (r#"${NONE:-"}"}"#, "}"),
        ] {
            assert_eq!(value(word), expected, "{word}");
        }
        assert_eq!(substitute("`$A\\b", '`', &lookup).unwrap(), "$A\\b");
    }

    #[test]
    fn test_substitute_bad_form_returns_what_is_wrong() {
        for word in ["'a", "\"a", "${A", "${A:-b", "${}", "${A#x}", "${A:x}", "${A:", "${NONE:?no}"]
        {
            assert!(substitute(word, '\\', &lookup).is_err(), "{word}");
        }
        let error = substitute("${A##x}", '\\', &lookup).unwrap_err().to_string();
        assert!(error.starts_with("the substitution ${A#…} is not supported"), "{error}");
    }

    #[test]
    fn test_substitute_bounds_what_grows() {
        let nested = "${B:-".repeat(1000);
        assert!(matches!(
            substitute(&nested, '\\', &lookup),
            Err(DockerfileProblem::TooLarge { .. })
        ));
        let half = |_: &str| Some("x".repeat(VALUE_MAX_BYTES / 2 + 1));
        assert!(substitute("$A", '\\', &half).is_ok());
        assert!(substitute("$A$A", '\\', &half).is_err());
    }

    #[test]
    fn test_substitute_text_leaves_quotes() {
        assert_eq!(
            substitute_text("'$A' \"\\$A\" \\n", '\\', &lookup).unwrap(),
            "'a b' \"$A\" \\n"
        );
    }
}
