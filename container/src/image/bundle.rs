//! A file or directory that images are in: an OCI layout or an archive of `docker save`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex};
use rustix::fs::OFlags;

use super::digest::Digest;
use super::docker;
use super::error::Error;
use super::import::{BlobSource, Import};
use super::intake::{Intake, Tally};
use super::limits::UnpackLimits;
use super::lower::open_beneath;
use super::manifest::{self, DOCUMENT_MAX_BYTES, Document};
use super::name::Name;
use super::reference::Reference;
use super::store::Store;
use super::stored::Image;
use super::stream::Stream;

/// Members of an archive that are looked at.
const MEMBERS_MAX: usize = 100_000;
/// Links that are followed from one member of an archive to another.
const LINKS_MAX: usize = 8;
/// Of the entry of a layout's index (OCI image specification, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd, and Docker with it, adds to that: the whole name.
const WHOLE_NAME: &str = "io.containerd.image.name";
/// Docker leaves that away where it shows a name.
const DOCKER_HUB: [&str; 2] = ["docker.io/library/", "docker.io/"];

/// See the module's text.
pub struct Bundle {
    place: PathBuf,
    files: Files,
    entries: Vec<Entry>,
}

enum Files {
    Directory(File),
    Archive { file: File, members: BTreeMap<Vec<u8>, Member> },
}

enum Member {
    File { offset: u64, size_bytes: u64 },
    Link(Vec<u8>),
}

/// An image in a bundle.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name there, if it has one.
    pub name: Option<String>,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Manifest(Box<Descriptor>),
    Docker(docker::Saved),
}

impl Bundle {
    /// Opens a directory or an archive, which may be compressed; `-` is standard input. What cannot
    /// be read anywhere but at its beginning is copied into a nameless file of the store first.
    ///
    /// # Errors
    /// It cannot be read, or is no bundle of images.
    pub fn open(store: &Store, path: &Path) -> Result<Bundle, Error> {
        let place = path.to_owned();
        let files = if path.is_dir() {
            Files::Directory(File::open(path).map_err(Error::io("open", path))?)
        } else {
            let file = seekable(store, path)?;
            let members = members(&file).map_err(Error::io("read the archive", path))?;
            Files::Archive { file, members }
        };
        let mut bundle = Bundle { place, files, entries: Vec::new() };
        bundle.entries = bundle.list()?;
        Ok(bundle)
    }

    /// The images in it.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The image of that name, or the only one.
    ///
    /// # Errors
    /// There is none of that name; or none is named and there are several, or none.
    pub fn select(&self, name: Option<&str>) -> Result<&Entry, Error> {
        let matches = |entry: &&Entry| {
            name.is_none_or(|name| {
                entry.name.as_deref().is_some_and(|has| {
                    has == name || has.rsplit_once(':').is_some_and(|(_, tag)| tag == name)
                })
            })
        };
        let mut found = self.entries.iter().filter(matches);
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(_), Some(_)) => {
                let names = self.entries.iter().map(|entry| match &entry.name {
                    Some(name) => name.clone(),
                    None => "(one without a name)".to_owned(),
                });
                Err(Error::Several { place: self.place.clone(), names: names.collect() })
            }
            (None, _) => {
                let what = name.map_or("an image".to_owned(), |name| format!("the image {name}"));
                Err(Error::Missing { what, place: self.place.clone() })
            }
        }
    }

    /// Stores one of its images; see [`Store::import`].
    ///
    /// # Errors
    /// As of [`Store::import`].
    pub fn import(
        &self,
        store: &Store,
        entry: &Entry,
        import: &Import<'_>,
    ) -> Result<Image, Error> {
        match &entry.content {
            Content::Manifest(descriptor) => store.import(self, descriptor, import),
            Content::Docker(saved) => docker::import(store, self, saved, import),
        }
    }

    /// What an image is called in the store unless the user says otherwise: its own name, or that of
    /// the file it comes from.
    ///
    /// # Errors
    /// [`Error::NoReference`]: neither is one.
    pub fn reference(&self, entry: &Entry) -> Result<Reference, Error> {
        let own = entry.name.as_deref().unwrap_or_default();
        if own.contains([':', '/']) {
            return own.parse();
        }
        let stem = self.place.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let stem = stem.strip_suffix(".tar").unwrap_or(&stem);
        if own.is_empty() { stem.parse() } else { format!("{stem}:{own}").parse() }
    }

    /// Opens one of its files.
    pub(crate) fn file(&self, path: &[u8]) -> Result<Box<dyn Read + '_>, Error> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let missing = || Error::Missing { what: shown.clone(), place: self.place.clone() };
        let name = Name::new(path).map_err(|_| missing())?;
        match &self.files {
            Files::Directory(directory) => {
                match open_beneath(directory.as_fd(), name.path(), OFlags::RDONLY) {
                    Ok(file) => Ok(Box::new(File::from(file))),
                    Err(rustix::io::Errno::NOENT) => Err(missing()),
                    Err(errno) => Err(Error::os("open", &self.place.join(&shown))(errno)),
                }
            }
            Files::Archive { file, members } => {
                let mut path = name.path();
                for _ in 0..LINKS_MAX {
                    match members.get(path) {
                        Some(Member::File { offset, size_bytes }) => {
                            let part = Part { file, offset: *offset, left: *size_bytes };
                            return Ok(Box::new(part));
                        }
                        Some(Member::Link(target)) => path = target,
                        None => break,
                    }
                }
                Err(missing())
            }
        }
    }

    /// The whole of a small file.
    pub(crate) fn document(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.file(path.as_bytes())?
            .take(DOCUMENT_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.place.join(path)))?;
        if bytes.len() as u64 > DOCUMENT_MAX_BYTES {
            return Err(Error::TooLarge { what: path.to_owned(), limit_bytes: DOCUMENT_MAX_BYTES });
        }
        Ok(bytes)
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        match self.document("oci-layout") {
            Ok(_) => self.list_layout(),
            Err(Error::Missing { .. }) => match self.document("manifest.json") {
                Ok(bytes) => docker::list(&bytes),
                Err(Error::Missing { .. }) => Err(Error::NotAnImage(self.place.clone())),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn list_layout(&self) -> Result<Vec<Entry>, Error> {
        let bytes = self.document("index.json")?;
        let Document::Index(index) = manifest::document(&bytes, "index.json")? else {
            let why = "it is a manifest, and no list of them".to_owned();
            return Err(Error::Malformed { what: "index.json".to_owned(), why });
        };
        let entries: Vec<Entry> = index.manifests().iter().map(entry).collect();
        let name = entries.first().and_then(|entry| entry.name.clone());
        let has_platforms = index.manifests().iter().all(|entry| entry.platform().is_some());
        if entries.len() > 1 && has_platforms && entries.iter().all(|entry| entry.name == name) {
            // One image for several machines, listed at the top.
            return Ok(vec![of_several_platforms(&index, name)?]);
        }
        Ok(entries)
    }
}

fn of_several_platforms(index: &ImageIndex, name: Option<String>) -> Result<Entry, Error> {
    let descriptor = manifest::choose(index, "index.json")?.clone();
    Ok(Entry { name, content: Content::Manifest(Box::new(descriptor)) })
}

fn entry(descriptor: &Descriptor) -> Entry {
    let annotation = |key| descriptor.annotations().as_ref().and_then(|all| all.get(key));
    let name = annotation(WHOLE_NAME).or_else(|| annotation(REF_NAME)).map(|name| {
        let short = DOCKER_HUB.iter().find_map(|hub| name.strip_prefix(hub));
        short.unwrap_or(name).to_owned()
    });
    Entry { name, content: Content::Manifest(Box::new(descriptor.clone())) }
}

impl BlobSource for Bundle {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
        let digest: Digest = descriptor.digest().try_into()?;
        self.file(format!("blobs/sha256/{}", digest.hex()).as_bytes())
    }
}

/// A part of a file, read without moving the file's own position.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let space = buffer.get_mut(..most).unwrap_or_default();
        let count = self.file.read_at(space, self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The archive itself where it can be read anywhere and is not compressed, or a copy.
fn seekable(store: &Store, path: &Path) -> Result<File, Error> {
    let read = || Error::io("read", path);
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut first = [0; 4];
        let count = if file.seek(SeekFrom::Start(0)).is_ok() {
            let count = file.read_at(&mut first, 0).map_err(read())?;
            Some(count)
        } else {
            None
        };
        let is_compressed = matches!(first, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]);
        if count.is_some() && !is_compressed {
            return Ok(file);
        }
        Box::new(file)
    };
    let mut copy =
        tempfile::tempfile_in(store.path()).map_err(Error::io("make a file in", store.path()))?;
    let (tally, limits) = (Tally::default(), UnpackLimits::default());
    let intake = Intake::new(&mut *source, None, &tally, &|_| {});
    let copied = || -> Result<(), super::LayerError> {
        let mut stream = Stream::new(intake, &tally, limits)?;
        loop {
            let chunk = stream.fill()?;
            let count = chunk.len();
            if count == 0 {
                return Ok(());
            }
            io::Write::write_all(&mut copy, chunk).map_err(super::LayerError::Read)?;
            stream.consume(count);
        }
    };
    copied().map_err(|source| Error::Layer { layer: path.display().to_string(), source })?;
    Ok(copy)
}

/// Where an archive has its files. Long names do not occur in those that are looked for.
fn members(file: &File) -> io::Result<BTreeMap<Vec<u8>, Member>> {
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()?.raw(true) {
        let entry = entry?;
        let Ok(name) = Name::new(&entry.path_bytes()) else { continue };
        let kind = entry.header().entry_type();
        let member = if kind.is_file() {
            Member::File { offset: entry.raw_file_position(), size_bytes: entry.size() }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            match target_of(&name, &target, kind.is_symlink()) {
                Some(target) => Member::Link(target),
                None => continue,
            }
        } else {
            continue;
        };
        members.insert(name.path().to_owned(), member);
        if members.len() > MEMBERS_MAX {
            return Err(io::Error::other(format!("it has more than {MEMBERS_MAX} members")));
        }
    }
    Ok(members)
}

/// The member that a link in an archive stands for. Old versions of Docker saved a layer that
/// several images share once, and links `../ID/layer.tar` to it.
fn target_of(name: &Name, target: &[u8], is_symbolic: bool) -> Option<Vec<u8>> {
    if !is_symbolic {
        return Some(Name::new(target).ok()?.path().to_owned());
    }
    let (parent, _) = name.split()?;
    let target = match target.strip_prefix(b"../") {
        Some(rest) if !parent.contains(&b'/') && !parent.is_empty() => rest.to_owned(),
        Some(_) => return None,
        None if parent.is_empty() => target.to_owned(),
        None => [parent, b"/", target].concat(),
    };
    Some(Name::new(&target).ok()?.path().to_owned())
}
