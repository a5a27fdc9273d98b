//! SHA-256 digests, by which everything in a store is named.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::error::Error;

/// A SHA-256 digest; written `sha256:` and 64 hexadecimal digits (OCI image specification,
/// descriptor.md, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// What a hasher has come to.
    pub(crate) fn finish(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }

    /// The 64 hexadecimal digits alone: the name of its file.
    #[must_use]
    pub fn hex(&self) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The digest that 64 lower-case hexadecimal digits are of.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Digest> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            if let [high, low] = pair {
                *byte = nibble(*high)? << 4 | nibble(*low)?;
            }
        }
        Some(Digest(bytes))
    }

    /// That of a layer upon others, whose chain is `below` (OCI image specification, config.md,
    /// "Layer ChainID").
    #[must_use]
    pub fn chained(below: Option<Digest>, diff_id: Digest) -> Digest {
        match below {
            None => diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest, Error> {
        text.strip_prefix("sha256:")
            .and_then(Digest::from_hex)
            .ok_or_else(|| Error::NoDigest(text.chars().take(100).collect()))
    }
}

impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = Error;

    fn try_from(digest: &oci_spec::image::Digest) -> Result<Digest, Error> {
        digest.as_ref().parse()
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_digest_of_nothing_is_the_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn test_parse_of_anything_else_returns_an_error() {
        let upper = format!("sha256:{}", Digest::of(b"").hex().to_uppercase());
        for text in
            ["", "sha256:", "sha256:00", "md5:00", &"a".repeat(64), &upper, "sha256:../../x"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn test_chained_of_the_lowest_layer_is_its_own() {
        let (low, high) = (Digest::of(b"low"), Digest::of(b"high"));
        assert_eq!(Digest::chained(None, low), low);
        assert_ne!(Digest::chained(Some(low), high), Digest::chained(Some(high), low));
    }
}
