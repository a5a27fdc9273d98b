//! The arguments of an instruction: flags, words, pairs, JSON.

use super::error::DockerfileProblem;

/// One `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// Takes the flags from the front of `rest`.
pub(super) fn flags(rest: &str) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = rest.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let end = flag.find(char::is_whitespace).unwrap_or(flag.len());
        let (flag, after) = flag.split_at(end);
        rest = after.trim_start();
        // A lone `--` ends them.
        if flag.is_empty() {
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        flags.push(Flag { name: name.to_owned(), value });
    }
    (flags, rest)
}

/// A JSON list of texts, if `rest` is one.
pub(super) fn json(rest: &str) -> Option<Vec<String>> {
    if !rest.starts_with('[') {
        return None;
    }
    serde_json::from_str(rest).ok()
}

/// JSON, or words between white space.
pub(super) fn json_or_words(rest: &str) -> Vec<String> {
    json(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect())
}

/// Words between white space that is neither quoted nor escaped; quotes and escapes stay.
pub(super) fn quoted_words(rest: &str, escape: char) -> Result<Vec<String>, DockerfileProblem> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match quote {
            None if character.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if open == character => quote = None,
            // Nothing is escaped between single quotes.
            _ if character == escape && quote != Some('\'') => {
                word.push(character);
                word.extend(characters.next());
                continue;
            }
            _ => {}
        }
        word.push(character);
    }
    if let Some(open) = quote {
        return Err(DockerfileProblem::OpenQuote(open));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// `name=value …`; or, if `takes_one` and the first word has no `=`, one `name value`.
pub(super) fn pairs(
    rest: &str,
    escape: char,
) -> Result<Result<Vec<(String, String)>, String>, DockerfileProblem> {
    let words = quoted_words(rest, escape)?;
    if words.first().is_some_and(|first| !first.contains('=')) {
        let Some((name, value)) = rest.split_once(char::is_whitespace) else {
            return Ok(Err(format!("{rest:?} has no value")));
        };
        return Ok(Ok(vec![(name.to_owned(), value.trim().to_owned())]));
    }
    let mut pairs = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                pairs.push((name.to_owned(), value.to_owned()));
            }
            _ => return Ok(Err(format!("{word:?} is not NAME=VALUE"))),
        }
    }
    Ok(Ok(pairs))
}

/// A time as Go writes it (`1m30s`, `500ms`), in nanoseconds.
pub(super) fn duration_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total_ns = 0.0;
    if text == "0" {
        return Some(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let ns = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total_ns += number.parse::<f64>().ok()? * ns;
        rest = after;
    }
    (!text.is_empty() && total_ns < i64::MAX as f64).then_some(total_ns as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_flags_are_taken_from_the_front() {
        let (all, rest) = flags("--from=a  --link b --c");
        let names: Vec<_> =
            all.iter().map(|flag| (flag.name.as_str(), flag.value.as_deref())).collect();
        assert_eq!(names, [("from", Some("a")), ("link", None)]);
        assert_eq!(rest, "b --c");
        assert_eq!(flags("-- --a"), (vec![], "--a"));
    }

    #[test]
    fn test_json_of_anything_but_a_list_of_texts_returns_none() {
        assert_eq!(json(r#"["a", "b c"]"#), Some(vec!["a".into(), "b c".into()]));
        for rest in [r#"[ "$x" = y ]"#, "[1]", "['a']", "x", "[\"a\"] b"] {
            assert_eq!(json(rest), None, "{rest}");
        }
    }

    #[test]
    fn test_quoted_words_keep_quotes_and_escapes() {
        let words = quoted_words(r#"a="b c" d=\ e 'f g'\"h "#, '\\').unwrap();
        assert_eq!(words, [r#"a="b c""#, r"d=\ e", r#"'f g'\"h"#]);
        assert!(quoted_words("a='b", '\\').is_err());
    }

    #[test]
    fn test_pairs_take_both_forms() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("a=1 b=\"2 3\"", '\\').unwrap().unwrap(),
            [pair("a", "1"), pair("b", "\"2 3\"")]
        );
        assert_eq!(pairs("a  x = y", '\\').unwrap().unwrap(), [pair("a", "x = y")]);
        assert!(pairs("a", '\\').unwrap().is_err());
        assert!(pairs("a=1 b", '\\').unwrap().is_err());
        assert!(pairs("=1", '\\').unwrap().is_err());
    }

    #[test]
    fn test_duration_of_several_units_adds_them() {
        assert_eq!(duration_ns("1m30s"), Some(90_000_000_000));
        assert_eq!(duration_ns("1.5ms"), Some(1_500_000));
        assert_eq!(duration_ns("0"), Some(0));
        for bad in ["", "5", "s", "1x", "1.2.3s", "-1s", "99999999999999h"] {
            assert_eq!(duration_ns(bad), None, "{bad}");
        }
    }
}
