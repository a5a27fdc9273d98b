//! The members of a layer's archive: tar with the extensions of POSIX (pax) and GNU.
//!
//! The headers' fields are read by the `tar` crate. Its own iterator is not used, because what a
//! hostile archive declares as a name or an extended header it reads into memory at any length, and
//! because values of extended attributes may hold line breaks.

use tar::Header;

use super::layer_error::{LayerError, shown};
use super::limits::UnpackLimits;
use super::stream::Stream;

const BLOCK_BYTES: u64 = 512;
/// The longest name that is read; no path has more than PATH_MAX, 4096.
const NAME_MAX_BYTES: u64 = 64 << 10;
/// The most that one extended header may hold: an attribute's value has at most 64 KiB (xattr(7)).
const EXTENDED_MAX_BYTES: u64 = 1 << 20;

/// A member, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As it stands in the archive.
    pub(crate) path: Vec<u8>,
    /// What a hard or symbolic link is to.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Extended attributes, by name.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    SymbolicLink,
    Device { kind: &'static str, major: u32, minor: u32 },
    Directory,
    Fifo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// Reads one member after the other.
pub(crate) struct Archive<'s, 'a> {
    stream: &'s mut Stream<'a>,
    entries: u64,
    most_entries: u64,
    body_bytes: u64,
    padding_bytes: u64,
}

/// What extension headers say of the member that follows.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'s, 'a> Archive<'s, 'a> {
    pub(crate) fn new(stream: &'s mut Stream<'a>, limits: &UnpackLimits) -> Archive<'s, 'a> {
        Archive {
            stream,
            entries: 0,
            most_entries: limits.entries,
            body_bytes: 0,
            padding_bytes: 0,
        }
    }

    /// How many headers have been read, extensions too.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next member; what is left of the last one's content is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        let mut extension = Extension::default();
        let mut is_extended = false;
        loop {
            self.skip_content()?;
            let offset = self.stream.position();
            let malformed = |why: &str| LayerError::Malformed { offset, why: why.to_owned() };
            let Some(header) = self.header()? else {
                return match is_extended {
                    true => Err(malformed("an extended header is followed by nothing")),
                    false => Ok(None),
                };
            };
            self.entries += 1;
            if self.entries > self.most_entries {
                return Err(LayerError::Limit { what: "entries", limit: self.most_entries });
            }
            let field = |error: std::io::Error| malformed(&error.to_string());
            let size = header.entry_size().map_err(field)?;
            match header.as_old().linkflag {
                [b'L'] => extension.path = Some(self.name(size)?),
                [b'K'] => extension.link = Some(self.name(size)?),
                [b'x'] => {
                    let records = self.content(size, EXTENDED_MAX_BYTES, "an extended header")?;
                    extension.take(&records).map_err(malformed)?;
                }
                [b'g'] => {
                    let records = self.content(size, EXTENDED_MAX_BYTES, "an extended header")?;
                    only_comments(&records).map_err(malformed)?;
                }
                [flag] => {
                    let (member, size) =
                        member(&header, flag, size, extension).map_err(|why| match why {
                            Refused::Field(why) => malformed(&why),
                            Refused::Layer(error) => error,
                        })?;
                    self.begin_content(size)?;
                    return Ok(Some(member));
                }
            }
            is_extended = true;
        }
    }

    /// The next bytes of the member's content, empty at its end.
    pub(crate) fn chunk(&mut self) -> Result<&[u8], LayerError> {
        if self.body_bytes == 0 {
            return Ok(&[]);
        }
        let available = self.stream.fill()?;
        if available.is_empty() {
            return Err(truncated());
        }
        let most = usize::try_from(self.body_bytes).unwrap_or(usize::MAX);
        Ok(available.get(..most).unwrap_or(available))
    }

    /// So many bytes of the chunk have been used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.body_bytes = self.body_bytes.saturating_sub(count as u64);
    }

    /// A header, or nothing at the archive's end: a block of zeros, or no block at all.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let offset = self.stream.position();
        let mut header = Header::new_old();
        match self.stream.read_up_to(header.as_mut_bytes())? as u64 {
            0 => return Ok(None),
            BLOCK_BYTES => {}
            _ => return Err(truncated()),
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum's own field counts as spaces (POSIX, pax, "ustar Interchange Format").
        let (before, rest) = bytes.split_at(148);
        let (own, after) = rest.split_at(8);
        let sum = before.iter().chain(after).map(|byte| u32::from(*byte)).sum::<u32>()
            + own.len() as u32 * u32::from(b' ');
        match header.cksum() {
            Ok(declared) if declared == sum => Ok(Some(header)),
            _ => Err(LayerError::Malformed {
                offset,
                why: "this is no header of a tar archive (its checksum is wrong)".to_owned(),
            }),
        }
    }

    fn begin_content(&mut self, size: u64) -> Result<(), LayerError> {
        if size.checked_add(BLOCK_BYTES).is_none() {
            return Err(truncated());
        }
        self.body_bytes = size;
        self.padding_bytes = size.next_multiple_of(BLOCK_BYTES) - size;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        self.body_bytes += self.padding_bytes;
        self.padding_bytes = 0;
        loop {
            let count = self.chunk()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// The whole content of an extension header.
    fn content(&mut self, size: u64, most: u64, what: &str) -> Result<Vec<u8>, LayerError> {
        if size > most {
            let why = format!("{what} has {size} bytes, and {most} are the most");
            return Err(LayerError::Malformed { offset: self.stream.position(), why });
        }
        self.begin_content(size)?;
        let mut content = Vec::new();
        loop {
            let chunk = self.chunk()?;
            let count = chunk.len();
            if count == 0 {
                return Ok(content);
            }
            content.extend_from_slice(chunk);
            self.consume(count);
        }
    }

    /// A name of GNU's, which ends with a zero.
    fn name(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.content(size, NAME_MAX_BYTES, "a name")?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }
}

fn truncated() -> LayerError {
    LayerError::Read(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "it ends in the middle of a member",
    ))
}

impl Extension {
    fn take(&mut self, records: &[u8]) -> Result<(), &'static str> {
        for record in Records(records) {
            let (key, value) = record?;
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.mtime = Some(time(value)?),
                _ if key.starts_with(b"GNU.sparse.") => return Err("it has a sparse file"),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.attributes.push((name.to_owned(), value.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a global header may hold: it would else change the meaning of all members after it.
fn only_comments(records: &[u8]) -> Result<(), &'static str> {
    for record in Records(records) {
        if record?.0 != b"comment" {
            return Err("a global extended header has more than a comment");
        }
    }
    Ok(())
}

/// Records `length key=value\n` (POSIX, pax, "pax Header Block").
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = record(self.0);
        self.0 = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(record, _)| record).ok_or("a record of an extended header is malformed"))
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn record(records: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(records.get(..space)?).ok()?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some(((text.get(..equals)?, text.get(equals + 1..)?), rest))
}

fn number(digits: &[u8]) -> Result<u64, &'static str> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or("a number of an extended header is none")
}

/// Seconds and their fraction, both decimal.
fn time(text: &[u8]) -> Result<Time, &'static str> {
    let wrong = "a time of an extended header is none";
    let text = std::str::from_utf8(text).map_err(|_| wrong)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong);
    }
    let mut seconds: i64 = whole.parse().map_err(|_| wrong)?;
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let mut nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    // Before 1970 the fraction leads further back.
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or(wrong)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Time { seconds, nanoseconds })
}

enum Refused {
    Field(String),
    Layer(LayerError),
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Refused {
        Refused::Field(error.to_string())
    }
}

/// The member that a header and its extensions describe, and the size of its content.
fn member(
    header: &Header,
    flag: u8,
    size: u64,
    extension: Extension,
) -> Result<(Member, u64), Refused> {
    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let named_link = || header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    let kind = match flag {
        // Before POSIX a directory was a file whose name ends with a slash.
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::SymbolicLink,
        b'3' | b'4' => Kind::Device {
            kind: if flag == b'3' { "character" } else { "block" },
            major: header.device_major()?.unwrap_or(0),
            minor: header.device_minor()?.unwrap_or(0),
        },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => {
            let kind = char::from(flag);
            return Err(Refused::Layer(LayerError::Kind { path: shown(&path), kind }));
        }
    };
    let id = |extended: Option<u64>, plain: std::io::Result<u64>| -> Result<u32, Refused> {
        let id = extended.map_or(plain, Ok)?;
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| Refused::Field(format!("{id} is no id of a user or group")))
    };
    let mtime = match extension.mtime {
        Some(mtime) => mtime,
        None => Time { seconds: header.mtime()?.cast_signed(), nanoseconds: 0 },
    };
    let member = Member {
        link: extension.link.unwrap_or_else(named_link),
        mode: header.mode()? & 0o7777,
        uid: id(extension.uid, header.uid())?,
        gid: id(extension.gid, header.gid())?,
        mtime,
        attributes: extension.attributes,
        path,
        kind,
    };
    // The others have no content, whatever their size says.
    let size = if kind == Kind::Regular { extension.size.unwrap_or(size) } else { 0 };
    Ok((member, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::intake::{Intake, Tally};

    fn members(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, LayerError> {
        let (tally, mut source) = (Tally::default(), bytes);
        let intake = Intake::new(&mut source, None, &tally, &|_| {});
        let limits = UnpackLimits { entries: 10, ..UnpackLimits::default() };
        let mut stream = Stream::new(intake, &tally, limits)?;
        let mut archive = Archive::new(&mut stream, &limits);
        let mut members = Vec::new();
        while let Some(member) = archive.next()? {
            let mut content = Vec::new();
            loop {
                let chunk = archive.chunk()?;
                let count = chunk.len();
                if count == 0 {
                    break;
                }
                content.extend_from_slice(chunk);
                archive.consume(count);
            }
            members.push((member, content));
        }
        Ok(members)
    }

    fn header(flag: u8, name: &str, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(flag));
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        header
    }

    fn block(flag: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(flag, name, content.len() as u64).as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = rest + (rest + 2).to_string().len();
            content.extend_from_slice(format!("{length} ").as_bytes());
            content.extend_from_slice(&[key, &b"="[..], value, b"\n"].concat());
        }
        block(b'x', "pax", &content)
    }

    #[test]
    fn test_next_takes_what_extensions_say() {
        let long = vec![b'n'; 300];
        let archive = [
            block(b'L', "long", &[&long[..], b"\0"].concat()),
            block(b'0', "short", b"one"),
            pax(&[
                (b"path", b"p\xff"),
                (b"uid", b"3000000"),
                (b"mtime", b"-1.25"),
                (b"SCHILY.xattr.user.a", b"x\n=y"),
            ]),
            block(b'0', "short", &[7; 1000]),
            vec![0; 1024],
        ]
        .concat();
        let members = members(&archive).unwrap();
        assert_eq!((&members[0].0.path, &members[0].1[..]), (&long, &b"one"[..]));
        let (second, content) = &members[1];
        assert_eq!((&second.path[..], second.uid, content.len()), (&b"p\xff"[..], 3_000_000, 1000));
        assert_eq!(second.mtime, Time { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(second.attributes, [(b"user.a".to_vec(), b"x\n=y".to_vec())]);
    }

    #[test]
    fn test_next_of_malformed_archives_returns_an_error() {
        let mut bad_sum = block(b'0', "a", b"");
        bad_sum[0] ^= 1;
        for (archive, why) in [
            (bad_sum, "checksum"),
            (block(b'0', "a", b"12345")[..514].to_vec(), "middle of a member"),
            (block(b'0', "a", b"")[..100].to_vec(), "middle of a member"),
            (header(b'L', "a", 1 << 40).as_bytes().to_vec(), "65536 are the most"),
            (header(b'x', "a", 1 << 40).as_bytes().to_vec(), "1048576 are the most"),
            (header(b'0', "a", u64::MAX >> 1).as_bytes().to_vec(), "middle of a member"),
            (block(b'x', "a", b"99 path=a\n"), "record"),
            (block(b'x', "a", b"x path=a\n"), "record"),
            (block(b'g', "a", b"10 path=a\n"), "global"),
            (pax(&[(b"path", b"a")]), "followed by nothing"),
            (pax(&[(b"GNU.sparse.major", b"1")]), "sparse"),
            ([pax(&[(b"uid", b"-1")]), block(b'0', "a", b"")].concat(), "number"),
            ([pax(&[(b"uid", b"4294967295")]), block(b'0', "a", b"")].concat(), "no id"),
            (block(b'S', "a", b""), "kind 'S'"),
            (block(b'0', "a", b"").repeat(11), "more than 10 entries"),
        ] {
            let error = members(&archive).unwrap_err();
            assert!(error.to_string().contains(why), "{error}, not {why}");
        }
    }
}
