//! Kernel configuration fragments: reading, merging, and checking what became of them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Why a fragment could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line is neither comment nor assignment.
    #[error(
        "{fragment}, line {line}: `{text}` is neither `CONFIG_X=value` nor `# CONFIG_X is not set`"
    )]
    Syntax {
        /// The fragment's name.
        fragment: String,
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// The finished configuration differs from what was asked, mostly because a dependency is
    /// missing or another symbol selects it.
    #[error("the kernel's configuration did not take {} of the symbols asked for: {}", .0.len(), .0.join("; "))]
    NotTaken(Vec<String>),
}

/// Symbols and their values; `n` stands for "is not set". Later assignments replace earlier
/// ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    symbols: BTreeMap<String, String>,
}

impl Config {
    /// Adds the lines of a fragment (or of a whole `.config`).
    pub(crate) fn merge(&mut self, name: &str, text: &str) -> Result<(), Error> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let unset = line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set"));
            let assignment = match unset {
                Some(symbol) => Some((symbol, "n")),
                None if line.is_empty() || line.starts_with('#') => continue,
                None => line.split_once('='),
            };
            match assignment {
                Some((symbol, value)) if is_symbol(symbol) && !value.is_empty() => {
                    self.symbols.insert(symbol.to_owned(), value.to_owned());
                }
                // A sentence that happens to end in "is not set" is a comment.
                Some(_) if unset.is_some() => {}
                _ => {
                    let (fragment, text) = (name.to_owned(), line.to_owned());
                    return Err(Error::Syntax { fragment, line: index + 1, text });
                }
            }
        }
        Ok(())
    }

    /// The text that Kconfig reads, sorted, thus the same for the same symbols.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (symbol, value) in &self.symbols {
            let _ = match value.as_str() {
                "n" => writeln!(text, "# {symbol} is not set"),
                _ => writeln!(text, "{symbol}={value}"),
            };
        }
        text
    }

    /// Checks that `finished`, the `.config` that Kconfig made, has all that is asked here.
    pub(crate) fn verify(&self, finished: &Config) -> Result<(), Error> {
        let differing: Vec<String> = self
            .symbols
            .iter()
            .filter_map(|(symbol, asked)| {
                // A symbol whose dependencies are off is not mentioned at all.
                let got = finished.symbols.get(symbol).map_or("n", String::as_str);
                (got != asked).then(|| format!("{symbol}: asked {asked}, got {got}"))
            })
            .collect();
        if differing.is_empty() { Ok(()) } else { Err(Error::NotTaken(differing)) }
    }
}

fn is_symbol(text: &str) -> bool {
    text.strip_prefix("CONFIG_").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(text: &str) -> Config {
        let mut config = Config::default();
        config.merge("test", text).unwrap();
        config
    }

    #[test]
    fn test_merge_later_fragment_replaces_earlier() {
        let mut merged = config("CONFIG_A=y\nCONFIG_B=0x10\n");
        merged.merge("later", "# a comment\n\n# CONFIG_A is not set\n").unwrap();
        assert_eq!(merged.text(), "# CONFIG_A is not set\nCONFIG_B=0x10\n");
    }

    #[test]
    fn test_merge_invalid_line_returns_syntax_with_place() {
        for text in ["CONFIG_A", "A=y", "CONFIG_=y", "CONFIG_A=", "CONFIG_A B=y"] {
            let error = Config::default().merge("x.config", &format!("\n{text}\n")).unwrap_err();
            assert!(error.to_string().starts_with("x.config, line 2"), "{error}");
        }
    }

    #[test]
    fn test_merge_sentence_ending_in_not_set_is_comment() {
        assert_eq!(config("# what the host has is not set\n"), Config::default());
    }

    #[test]
    fn test_verify_missing_symbol_is_listed() {
        let asked =
            config("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n");
        asked.verify(&config("CONFIG_A=y\nCONFIG_B=y\n")).unwrap();
        let error = asked.verify(&config("CONFIG_A=y\nCONFIG_C=y\n")).unwrap_err().to_string();
        assert!(error.contains("CONFIG_B: asked y, got n"), "{error}");
        assert!(error.contains("CONFIG_C: asked n, got y"), "{error}");
        assert!(!error.contains("CONFIG_A") && !error.contains("CONFIG_D"), "{error}");
    }

    proptest! {
        #[test]
        fn test_text_any_config_reads_back(
            symbols in proptest::collection::btree_map("CONFIG_[A-Z0-9_]{1,10}", "y|n|0x[0-9]{1,4}|\"a b\"", 0..20)
        ) {
            let original = Config { symbols };
            prop_assert_eq!(config(&original.text()), original);
        }

        #[test]
        fn test_merge_any_text_never_panics(text in ".{0,200}") {
            let _ = Config::default().merge("any", &text);
        }
    }
}
