//! Names of a layer's members.

use super::layer_error::{LayerError, shown};

/// Longest path and longest part of one that Linux takes (limits.h, PATH_MAX and NAME_MAX).
const PATH_MAX_BYTES: usize = 4095;
const PART_MAX_BYTES: usize = 255;
/// How deep directories may lie in each other: some of what walks a tree calls itself for each.
const PARTS_MAX: usize = 256;
/// OCI image specification, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// aufs keeps things of its own under such names; they describe no file.
const OF_AUFS: &[u8] = b".wh..wh.";

/// A path within a layer: its parts with one slash between them, none of them `.` or `..`, and no
/// slash at its beginning. Empty for the layer's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Checks a path as it stands in an archive.
    pub(crate) fn new(path: &[u8]) -> Result<Name, LayerError> {
        let wrong = |why| LayerError::Name { path: shown(path), why };
        if path.is_empty() {
            return Err(wrong("it is empty"));
        }
        if path.starts_with(b"/") {
            return Err(wrong("it is absolute"));
        }
        if path.contains(&0) {
            return Err(wrong("it has a zero byte"));
        }
        if path.len() > PATH_MAX_BYTES {
            return Err(wrong("it has more than 4095 bytes"));
        }
        let mut name = Vec::with_capacity(path.len());
        let mut parts = 0;
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(wrong("it leads upwards")),
                _ if part.len() > PART_MAX_BYTES => {
                    return Err(wrong("a part of it has more than 255 bytes"));
                }
                _ => {}
            }
            parts += 1;
            if parts > PARTS_MAX {
                return Err(wrong("it lies more than 256 directories deep"));
            }
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(part);
        }
        Ok(Name(name))
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.0
    }

    /// The directory it is in, and its last part; nothing for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        split(&self.0)
    }
}

/// The directory that a checked path is in, and its last part.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        None => Some((b"", path)),
        Some(slash) => Some((path.get(..slash)?, path.get(slash + 1..)?)),
    }
}

/// What a whiteout hides.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hidden<'a> {
    /// Everything that the layers below have in its directory.
    All,
    /// That file or directory of the layers below.
    One(&'a [u8]),
    /// Nothing: it is of aufs.
    Nothing,
}

/// What a member hides if it is a whiteout.
pub(crate) fn whiteout<'a>(
    name: &Name,
    parent: &[u8],
    last: &'a [u8],
) -> Result<Option<Hidden<'a>>, LayerError> {
    let wrong = |why| Err(LayerError::Name { path: shown(name.path()), why });
    if parent.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        // As they are directories there.
        let is_of_aufs = parent.split(|byte| *byte == b'/').any(|part| part.starts_with(OF_AUFS));
        return if is_of_aufs {
            Ok(Some(Hidden::Nothing))
        } else {
            wrong("nothing lies below a whiteout")
        };
    }
    let Some(hidden) = last.strip_prefix(WHITEOUT) else { return Ok(None) };
    match hidden {
        _ if last == OPAQUE_WHITEOUT => Ok(Some(Hidden::All)),
        _ if last.starts_with(OF_AUFS) => Ok(Some(Hidden::Nothing)),
        b"" | b"." | b".." => wrong("such a whiteout hides no file"),
        _ => Ok(Some(Hidden::One(hidden))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_new_drops_what_says_nothing() {
        for (path, name) in [
            (&b"./"[..], &b""[..]),
            (b".", b""),
            (b"a/", b"a"),
            (b"./a//b/./c", b"a/b/c"),
            (b"a/...", b"a/..."),
            (b"\xff\xfe", b"\xff\xfe"),
        ] {
            assert_eq!(Name::new(path).unwrap().path(), name);
        }
    }

    #[test]
    fn test_new_of_what_leads_out_returns_an_error() {
        let long = [&b"aaaaaaaaaaaaaaaa/".repeat(256)[..], b"a"].concat();
        for (path, why) in [
            (&b""[..], "empty"),
            (b"/etc/passwd", "absolute"),
            (b"//etc", "absolute"),
            (b"..", "upwards"),
            (b"../a", "upwards"),
            (b"a/../../b", "upwards"),
            (b"a/..", "upwards"),
            (b"a\0b", "zero"),
            (&[b'a'; 256], "255"),
            (&long, "4095"),
            (&b"a/".repeat(257), "deep"),
        ] {
            let error = Name::new(path).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn test_whiteout_tells_what_is_hidden() {
        let hides = |path: &[u8]| {
            let name = Name::new(path).unwrap();
            let (parent, last) = name.split().unwrap();
            whiteout(&name, parent, last).map(|hidden| match hidden {
                None => "no whiteout".to_owned(),
                Some(Hidden::All) => "all".to_owned(),
                Some(Hidden::Nothing) => "nothing".to_owned(),
                Some(Hidden::One(one)) => String::from_utf8_lossy(one).into_owned(),
            })
        };
        assert_eq!(hides(b"a/b").unwrap(), "no whiteout");
        assert_eq!(hides(b"a/.wh.b").unwrap(), "b");
        assert_eq!(hides(b".wh..wh..opq").unwrap(), "all");
        assert_eq!(hides(b"a/.wh..wh.plnk").unwrap(), "nothing");
        assert_eq!(hides(b"a/.wh..wh.plnk/1.2").unwrap(), "nothing");
        assert_eq!(hides(b".wh.a.wh.b").unwrap(), "a.wh.b");
        for path in [&b".wh."[..], b".wh..", b"a/.wh...", b".wh.a/b"] {
            assert!(hides(path).is_err(), "{}", shown(path));
        }
    }

    proptest! {
        #[test]
        fn test_new_of_anything_never_leads_out(path in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..64,
        )) {
            if let Ok(name) = Name::new(&path) {
                prop_assert!(!name.path().starts_with(b"/"));
                for part in name.path().split(|byte| *byte == b'/') {
                    prop_assert!(part != b".." && part != b"." && !part.contains(&0));
                    prop_assert!(!part.is_empty() || name.path().is_empty());
                }
                prop_assert_eq!(Name::new(&[b"./", name.path()].concat()).unwrap(), name);
            }
        }
    }
}
