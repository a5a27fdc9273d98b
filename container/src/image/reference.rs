//! Names of images.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// The tag of a name that has none.
const DEFAULT_TAG: &str = "latest";
/// The distribution specification's bound of a tag.
const TAG_MAX_BYTES: usize = 128;
/// And of a repository's name, so that it fits into a file's.
const NAME_MAX_BYTES: usize = 120;

/// The name of an image in a store: `name:tag`, where the name may begin with a registry, as in
/// `localhost:5000/team/app:1.2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// All before the tag.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name of its file: `%` stands for what separates the parts of a name, `@` for the tag's
    /// colon; neither occurs in names.
    pub(crate) fn file_name(&self) -> String {
        format!("{}@{}", self.name.replace('/', "%").replace(':', "+"), self.tag)
    }

    /// The reverse of [`Reference::file_name`].
    pub(crate) fn from_file_name(file_name: &str) -> Option<Reference> {
        let (name, tag) = file_name.split_once('@')?;
        let reference: Reference =
            format!("{}:{tag}", name.replace('%', "/").replace('+', ":")).parse().ok()?;
        (reference.file_name() == file_name).then_some(reference)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// The grammar is that of the distribution specification ("Pulling manifests").
    fn from_str(text: &str) -> Result<Reference, Error> {
        let wrong = |why| Error::NoReference { text: text.chars().take(200).collect(), why };
        let last = text.rsplit('/').next().unwrap_or(text);
        let (name, tag) = match last.rsplit_once(':') {
            Some((_, tag)) => (&text[..text.len() - tag.len() - 1], tag),
            None => (text, DEFAULT_TAG),
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let tag_is_valid = tag.len() <= TAG_MAX_BYTES
            && tag.bytes().next().is_some_and(is_word)
            && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
        if !tag_is_valid {
            return Err(wrong(
                "a tag has at most 128 letters, digits, `_`, `.` and `-`, and begins with none of \
                 the last two",
            ));
        }
        if name.len() > NAME_MAX_BYTES {
            return Err(wrong("it has more than 120 bytes before the tag"));
        }
        let mut parts = name.split('/').peekable();
        if parts.clone().count() > 1 && parts.peek().is_some_and(|first| is_registry(first)) {
            parts.next();
        }
        if !parts.all(is_component) {
            return Err(wrong(
                "its parts have lower-case letters and digits, with `.`, `_`, `__` or dashes \
                 between them",
            ));
        }
        Ok(Reference { name: name.to_owned(), tag: tag.to_owned() })
    }
}

/// The first part of a name is a registry if it looks like a host.
fn is_registry(part: &str) -> bool {
    let (host, port) = part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
    let is_host = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    is_host && is_port && (port.is_some() || host.contains('.') || host == "localhost")
}

fn is_component(part: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separated = bytes.split(is_plain).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    });
    is_plain(first) && is_plain(last) && separated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_fills_in_the_tag_and_keeps_a_port() {
        for (text, name, tag) in [
            ("busybox", "busybox", "latest"),
            ("busybox:1.36", "busybox", "1.36"),
            ("localhost:5000/a", "localhost:5000/a", "latest"),
            ("localhost:5000/a/b__c:v1", "localhost:5000/a/b__c", "v1"),
            ("quay.io/x/y-z:_t", "quay.io/x/y-z", "_t"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.name(), reference.tag()), (name, tag), "{text}");
            assert_eq!(Reference::from_file_name(&reference.file_name()), Some(reference));
        }
    }

    #[test]
    fn test_parse_of_what_is_no_name_returns_an_error() {
        let long = "a".repeat(121);
        for text in [
            "", ":", "a:", ":t", "A", "a/", "/a", "../a", "a/../b", "a b", "a:-t", "a..b", "a@b",
            "a%b", "a+b", "a:b:c", "a\0", "é", &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
