//! Patterns of paths, as Go's `path/filepath.Match` has them and `.dockerignore` extends them.

use std::iter::Peekable;
use std::str::Chars;

/// The longest pattern: matching takes time by its length times that of the path.
const PATTERN_MAX_BYTES: usize = 4096;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Literal(char),
    /// `?`: any but a slash.
    One,
    /// `*`: any number of any but slashes.
    Star,
    /// `**` at the end: anything.
    All,
    /// `**/`: any number of directories, none included.
    Directories,
    /// `[…]`, but no slash.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Reads a pattern; `deep` gives `**` its meaning. `None` if it is malformed or too long.
    pub(super) fn new(pattern: &str, deep: bool) -> Option<Glob> {
        if pattern.len() > PATTERN_MAX_BYTES {
            return None;
        }
        let mut tokens = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' if deep && characters.next_if_eq(&'*').is_some() => {
                    let _ = characters.next_if_eq(&'/');
                    if characters.peek().is_none() { Token::All } else { Token::Directories }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut characters)?,
                '\\' => Token::Literal(characters.next()?),
                other => Token::Literal(other),
            });
        }
        Some(Glob(tokens))
    }

    /// Whether some other text than its own is matched.
    pub(super) fn is_pattern(&self) -> bool {
        self.0.iter().any(|token| !matches!(token, Token::Literal(_)))
    }

    /// The text that a pattern which is none stands for.
    pub(super) fn literal(&self) -> String {
        let character = |token: &Token| match token {
            Token::Literal(character) => Some(*character),
            _ => None,
        };
        self.0.iter().filter_map(character).collect()
    }

    /// Whether all of `path` matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        // reached[i]: the tokens so far match the first i characters.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for token in &self.0 {
            reached = token.advance(&path, &reached);
        }
        reached[path.len()]
    }
}

impl Token {
    /// From what is matched before this token to what is matched with it.
    fn advance(&self, path: &[char], before: &[bool]) -> Vec<bool> {
        let mut after = vec![false; before.len()];
        let mut under_way = false;
        for at in 0..before.len() {
            let last = at.checked_sub(1).and_then(|index| path.get(index).copied());
            let came = at.checked_sub(1).is_some_and(|index| before[index]);
            after[at] = match self {
                Token::Literal(_) | Token::One | Token::Class { .. } => {
                    came && last.is_some_and(|character| self.takes(character))
                }
                Token::Star => {
                    under_way = before[at] || under_way && last != Some('/');
                    under_way
                }
                Token::All => {
                    under_way |= before[at];
                    under_way
                }
                Token::Directories => {
                    let ends = under_way && last == Some('/');
                    under_way |= before[at];
                    before[at] || ends
                }
            };
        }
        after
    }

    fn takes(&self, character: char) -> bool {
        match self {
            Token::Literal(own) => *own == character,
            Token::Class { negated, ranges } => {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                character != '/' && inside != *negated
            }
            _ => character != '/',
        }
    }
}

/// Reads a class after its opening bracket.
fn class(characters: &mut Peekable<Chars<'_>>) -> Option<Token> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match characters.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            ']' | '-' => return None,
            '\\' => characters.next()?,
            other => other,
        };
        let mut high = low;
        if characters.next_if_eq(&'-').is_some() {
            high = match characters.next()? {
                ']' | '-' => return None,
                '\\' => characters.next()?,
                other => other,
            };
        }
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_matches_as_go_does() {
        for (pattern, path, expected) in [
            ("a/b", "a/b", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("a*b*c", "axxbyyc", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a]", "/", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*/*.go", "x/y.go", true),
            ("", "", true),
        ] {
            assert_eq!(
                Glob::new(pattern, false).unwrap().matches(path),
                expected,
                "{pattern} {path}"
            );
        }
        for bad in ["[", "[]", "[a", "[-a]", "a\\"] {
            assert_eq!(Glob::new(bad, false), None, "{bad}");
        }
    }

    #[test]
    fn test_two_stars_match_directories() {
        for (pattern, path, expected) in [
            ("**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/bc", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("**/*.o", "x/y.o", true),
            ("**/*.o", "y.o", true),
        ] {
            assert_eq!(
                Glob::new(pattern, true).unwrap().matches(path),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn test_matches_of_hostile_pattern_ends_soon() {
        let pattern = Glob::new(&"*a".repeat(1000), true).unwrap();
        assert!(!pattern.matches(&"a".repeat(999)));
        assert_eq!(Glob::new(&"*".repeat(PATTERN_MAX_BYTES + 1), true), None);
    }
}
