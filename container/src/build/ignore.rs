//! `.dockerignore`: which files of a build's directory do not exist for the build.
//!
//! One pattern a line; a line that begins with `#` is a comment. A pattern with `!` before it takes
//! files in again; the last one that matches a path, or a directory above it, decides.
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

use super::glob::Glob;
use super::staging::clean;

/// The longest file that is read.
pub(super) const FILE_MAX_BYTES: u64 = 1 << 20;

/// The rules of a `.dockerignore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    includes: bool,
    glob: Glob,
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The number of the line whose pattern is malformed.
    pub(super) fn parse(text: &str) -> Result<Ignore, usize> {
        let mut rules = Vec::new();
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (includes, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            if line.is_empty() {
                continue;
            }
            let pattern = clean(pattern);
            let pattern = pattern.trim_start_matches('/');
            // An exclamation mark alone, or the root, is no path of the context.
            if pattern.is_empty() {
                if includes { return Err(index + 1) } else { continue }
            }
            rules.push(Rule { includes, glob: Glob::new(pattern, true).ok_or(index + 1)? });
        }
        Ok(Ignore { rules })
    }

    /// Whether `path`, relative and with single slashes, is ignored.
    pub(super) fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.rules {
            if rule.includes == ignored && rule.reaches(path) {
                ignored = !rule.includes;
            }
        }
        ignored
    }

    /// Whether something below an ignored directory can be taken in again.
    pub(super) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.includes)
    }
}

impl Rule {
    /// Whether it matches `path` or a directory above it.
    fn reaches(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(index, _)| &path[..index]);
        above.chain([path]).any(|path| self.glob.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let ignore = Ignore::parse(text).unwrap();
        paths.iter().copied().filter(|path| ignore.ignores(path)).collect()
    }

    #[test]
    fn test_ignores_by_pattern_and_what_is_below() {
        let text = "# comment\n\n*/temp*\n/build/\n ./x/../y \n**/*.o\n";
        let paths = [
            "a/temp1",
            "temp",
            "build",
            "build/a/b",
            "y",
            "y/z",
            "x",
            "q.o",
            "a/b/q.o",
            "a/temp/f",
        ];
        let expected = ["a/temp1", "build", "build/a/b", "y", "y/z", "q.o", "a/b/q.o", "a/temp/f"];
        assert_eq!(ignored(text, &paths), expected);
    }

    #[test]
    fn test_ignores_last_match_decides() {
        let paths = ["README.md", "README-secret.md", "a.md", "docs/a.md", "docs/b"];
        assert_eq!(
            ignored("*.md\n!README*.md\nREADME-secret.md\n", &paths),
            ["README-secret.md", "a.md"]
        );
        assert_eq!(
            ignored("*\n!docs\ndocs/b\n", &paths),
            ["README.md", "README-secret.md", "a.md", "docs/b"]
        );
        assert!(Ignore::parse("*\n!a").unwrap().has_exceptions());
    }

    #[test]
    fn test_parse_malformed_pattern_returns_its_line() {
        assert_eq!(Ignore::parse("a\n[\n"), Err(2));
        assert_eq!(Ignore::parse("!\n"), Err(1));
        assert_eq!(Ignore::parse("/\n.\n").unwrap(), Ignore::default());
    }
}
