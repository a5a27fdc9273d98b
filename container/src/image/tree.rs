//! The directory that a layer is unpacked into.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::archive::{Member, Time};
use super::layer_error::{LayerError, shown};
use super::lower::{Lower, OPAQUE, is_whiteout, open_beneath, open_directory};
use super::name::split;

/// How many directories are kept open.
const OPEN_DIRECTORIES: usize = 128;

/// Why unpacking stopped.
pub(crate) enum Halt {
    Refused(LayerError),
    /// The layers below must be looked at, and are not at hand.
    NeedsBelow,
}

impl From<LayerError> for Halt {
    fn from(error: LayerError) -> Halt {
        Halt::Refused(error)
    }
}

/// Owner, mode and time of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: Time,
}

/// Extended attributes: names and values.
pub(crate) type Extended<'a> = [(&'a [u8], &'a [u8])];

impl Attributes {
    /// Of a directory that nothing describes.
    const IMPLIED: Attributes =
        Attributes { uid: 0, gid: 0, mode: 0o755, mtime: Time { seconds: 0, nanoseconds: 0 } };

    pub(crate) fn of(member: &Member) -> Attributes {
        let Member { uid, gid, mode, mtime, .. } = *member;
        Attributes { uid, gid, mode, mtime }
    }

    fn of_stat(stat: &Stat) -> Attributes {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: Time { seconds: stat.st_mtime, nanoseconds },
        }
    }

    pub(crate) fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }

    pub(crate) fn times(&self) -> Timestamps {
        let Time { seconds, nanoseconds } = self.mtime;
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// For `map_err`: what could not be done to which member.
pub(crate) fn write<'a>(
    action: &'static str,
    path: &'a [u8],
) -> impl FnOnce(Errno) -> LayerError + 'a {
    move |errno| LayerError::Write { action, path: shown(path), source: errno.into() }
}

/// See the module's text.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    lower: Option<&'a Lower>,
    depends: bool,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Set when all is there: whatever is made in a directory changes its time.
    directories: HashMap<Vec<u8>, Attributes>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(
        root: BorrowedFd<'a>,
        lower: Option<&'a Lower>,
    ) -> Result<Tree<'a>, LayerError> {
        let (open, directories) = (HashMap::new(), HashMap::new());
        let mut tree = Tree { root, lower, depends: false, open, directories };
        tree.describe_root(&Attributes::IMPLIED, &[])?;
        Ok(tree)
    }

    /// Gives directories their times. Returns whether the layers below were looked at.
    pub(crate) fn finish(self) -> Result<bool, LayerError> {
        for (path, attributes) in &self.directories {
            match open_directory(self.root, path) {
                Ok(directory) => futimens(directory, &attributes.times())
                    .map_err(write("set the time of", path))?,
                // A later member has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(write("open", path)(errno)),
            }
        }
        Ok(self.depends)
    }

    pub(crate) fn describe_root(
        &mut self,
        attributes: &Attributes,
        extended: &Extended<'_>,
    ) -> Result<(), LayerError> {
        let root = open_directory(self.root, b"").map_err(write("open", b"."))?;
        describe_directory(&root, b".", attributes, extended)?;
        self.directories.insert(Vec::new(), *attributes);
        Ok(())
    }

    /// The directory of that path, made if it is implied.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Halt> {
        if let Some(directory) = self.open.get(path) {
            return Ok(Rc::clone(directory));
        }
        let directory = match open_directory(self.root, path) {
            Ok(directory) => Rc::new(directory),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.imply(path)?,
            Err(errno) => return Err(write("open", path)(errno).into()),
        };
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        self.open.insert(path.to_owned(), Rc::clone(&directory));
        Ok(directory)
    }

    /// Makes a directory that members are in, but which is none itself so far.
    fn imply(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Halt> {
        let Some((parent, last)) = split(path) else {
            return Ok(Rc::new(open_directory(self.root, b"").map_err(write("open", b"."))?));
        };
        let directory = self.directory(parent)?;
        let mut was_hidden = false;
        match statat(&*directory, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {
                unlinkat(&*directory, last, AtFlags::empty()).map_err(write("replace", path))?;
                was_hidden = true;
            }
            Ok(stat) => return Err(not_a_directory(path, &stat).into()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(write("look at", path)(errno).into()),
        }
        let attributes =
            if was_hidden { Attributes::IMPLIED } else { self.attributes_below(path)? };
        mkdirat(&*directory, last, Mode::RWXU).map_err(write("make the directory", path))?;
        let made = openat(&*directory, last, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(write("open", path))?;
        describe_directory(&made, path, &attributes, &[])?;
        if was_hidden {
            set_opaque(&made, path)?;
        }
        self.directories.insert(path.to_owned(), attributes);
        Ok(Rc::new(made))
    }

    /// What the layers below say of a directory.
    fn attributes_below(&mut self, path: &[u8]) -> Result<Attributes, Halt> {
        let lower = self.lower.ok_or(Halt::NeedsBelow)?;
        self.depends = true;
        match lower.find(path).map_err(write("look below for", path))? {
            None => Ok(Attributes::IMPLIED),
            Some(found) if is_directory(&found.stat) => Ok(Attributes::of_stat(&found.stat)),
            Some(found) => Err(not_a_directory(path, &found.stat).into()),
        }
    }

    /// Makes something new by `make`, in the place of whatever has that name.
    pub(crate) fn replacing<T>(
        &mut self,
        directory: &OwnedFd,
        parent: &[u8],
        last: &[u8],
        action: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Halt> {
        let path = || joined(parent, last);
        match make() {
            Err(Errno::EXIST) => {}
            made => return made.map_err(|errno| write(action, &path())(errno).into()),
        }
        let path = path();
        match unlinkat(directory, last, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => {
                // Descriptors of what is below it would lead nowhere.
                self.open.clear();
                std::fs::remove_dir_all(through(directory, last)).map_err(|source| {
                    LayerError::Write { action: "replace", path: shown(&path), source }
                })?;
            }
            Err(errno) => return Err(write("replace", &path)(errno).into()),
        }
        Ok(make().map_err(write(action, &path))?)
    }

    pub(crate) fn make_directory(
        &mut self,
        parent: &[u8],
        last: &[u8],
        attributes: &Attributes,
        extended: &Extended<'_>,
    ) -> Result<(), Halt> {
        let directory = self.directory(parent)?;
        let path = joined(parent, last);
        let replaces = match mkdirat(&*directory, last, Mode::RWXU) {
            Ok(()) => false,
            Err(Errno::EXIST) => {
                let stat = statat(&*directory, last, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(write("look at", &path))?;
                if !is_directory(&stat) {
                    unlinkat(&*directory, last, AtFlags::empty())
                        .and_then(|()| mkdirat(&*directory, last, Mode::RWXU))
                        .map_err(write("replace", &path))?;
                }
                !is_directory(&stat)
            }
            Err(errno) => return Err(write("make the directory", &path)(errno).into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&*directory, last, flags, Mode::empty()).map_err(write("open", &path))?;
        describe_directory(&made, &path, attributes, extended)?;
        if replaces {
            // What had this name hid what is below, and what is below stays hidden.
            set_opaque(&made, &path)?;
        }
        self.directories.insert(path, *attributes);
        Ok(())
    }

    pub(crate) fn make_link(
        &mut self,
        parent: &[u8],
        last: &[u8],
        target: &[u8],
        attributes: &Attributes,
        extended: &Extended<'_>,
    ) -> Result<(), Halt> {
        let directory = self.directory(parent)?;
        let make = || symlinkat(target, &*directory, last);
        self.replacing(&directory, parent, last, "make the symbolic link", make)?;
        Ok(describe(&directory, parent, last, attributes, extended)?)
    }

    pub(crate) fn make_fifo(
        &mut self,
        parent: &[u8],
        last: &[u8],
        attributes: &Attributes,
        extended: &Extended<'_>,
    ) -> Result<(), Halt> {
        let directory = self.directory(parent)?;
        let make = || mknodat(&*directory, last, FileType::Fifo, Mode::empty(), 0);
        self.replacing(&directory, parent, last, "make the pipe", make)?;
        let path = through(&directory, last);
        rustix::fs::chmodat(&*directory, last, attributes.mode(), AtFlags::empty())
            .map_err(write("set the mode of", path.as_os_str().as_encoded_bytes()))?;
        Ok(describe(&directory, parent, last, attributes, extended)?)
    }

    /// A hard link within the layer, or to a file of the layers below, which is copied up first.
    pub(crate) fn link(&mut self, parent: &[u8], last: &[u8], target: &[u8]) -> Result<(), Halt> {
        let path = joined(parent, last);
        let refused = |why| {
            let (path, target) = (shown(&path), shown(target));
            Halt::Refused(LayerError::LinkTarget { path, target, why })
        };
        let Some((target_parent, target_last)) = split(target) else {
            return Err(refused("which is the root of the layer"));
        };
        if target == path {
            return Err(refused("which is itself"));
        }
        let stat_target = |from: &OwnedFd| statat(from, target_last, AtFlags::SYMLINK_NOFOLLOW);
        let mut from = match open_directory(self.root, target_parent) {
            Ok(directory) => Some(Rc::new(directory)),
            Err(Errno::NOENT) => None,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(refused("which lies behind a symbolic link or a file"));
            }
            Err(errno) => return Err(write("look at", target)(errno).into()),
        };
        let found = from.as_ref().map(|from| stat_target(from)).transpose();
        match found {
            Ok(Some(stat)) if is_whiteout(&stat) => return Err(refused("which the layer removes")),
            Ok(Some(stat)) if is_directory(&stat) => return Err(refused("which is a directory")),
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::NOENT) => {
                self.copy_up(target).map_err(|halt| match halt {
                    Copy::Halt(halt) => halt,
                    Copy::Refused(why) => refused(why),
                })?;
                from = None;
            }
            Err(errno) => return Err(write("look at", target)(errno).into()),
        }
        let from = match from {
            Some(from) => from,
            None => self.directory(target_parent)?,
        };
        let directory = self.directory(parent)?;
        let make = || linkat(&*from, target_last, &*directory, last, AtFlags::empty());
        self.replacing(&directory, parent, last, "make the hard link", make)
    }

    /// Copies a file of the layers below into this one, as a change of it would.
    fn copy_up(&mut self, path: &[u8]) -> Result<(), Copy> {
        let lower = self.lower.ok_or(Copy::Halt(Halt::NeedsBelow))?;
        self.depends = true;
        let (parent, last) = split(path).ok_or(Copy::Refused("which is the root of the layer"))?;
        let found = lower.find(path).map_err(write("look below for", path)).map_err(Halt::from)?;
        let found = found.ok_or(Copy::Refused("which is not there"))?;
        if FileType::from_raw_mode(found.stat.st_mode) != FileType::RegularFile {
            return Err(Copy::Refused("which is no file"));
        }
        let directory = self.directory(parent)?;
        let copied = || -> Result<(), io::Error> {
            let from = open_beneath(found.tree, path, OFlags::RDONLY)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = openat(&*directory, last, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
            io::copy(&mut from, &mut to)?;
            let attributes = Attributes::of_stat(&found.stat);
            let (uid, gid) = attributes.owner();
            fchown(&to, uid, gid)?;
            fchmod(&to, attributes.mode())?;
            copy_extended(&from, &to)?;
            Ok(futimens(&to, &attributes.times())?)
        };
        copied().map_err(|source| {
            let path = shown(path);
            Copy::Halt(LayerError::Write { action: "copy up", path, source }.into())
        })
    }

    /// Hides what the layers below have of that name.
    pub(crate) fn hide(&mut self, parent: &[u8], last: &[u8]) -> Result<(), Halt> {
        let directory = self.directory(parent)?;
        let path = joined(parent, last);
        let nothing = makedev(0, 0);
        match mknodat(&*directory, last, FileType::CharacterDevice, Mode::empty(), nothing) {
            // The same archive gives the same tree.
            Ok(()) => {
                let times = Attributes::IMPLIED.times();
                return Ok(utimensat(&*directory, last, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(write("set the time of", &path))?);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(write("make the whiteout of", &path)(errno).into()),
        }
        let stat = statat(&*directory, last, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(write("look at", &path))?;
        // The layer has one of its own; only a directory would let anything below show through.
        if is_directory(&stat) { self.make_opaque(&path) } else { Ok(()) }
    }

    /// Hides all that the layers below have in that directory.
    pub(crate) fn make_opaque(&mut self, path: &[u8]) -> Result<(), Halt> {
        let directory = self.directory(path)?;
        Ok(set_opaque(&directory, path)?)
    }
}

/// Why a file is not copied up.
enum Copy {
    Halt(Halt),
    Refused(&'static str),
}

impl From<Halt> for Copy {
    fn from(halt: Halt) -> Copy {
        Copy::Halt(halt)
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn not_a_directory(path: &[u8], stat: &Stat) -> LayerError {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        LayerError::ThroughLink { link: shown(path) }
    } else {
        LayerError::ThroughFile { parent: shown(path) }
    }
}

fn joined(parent: &[u8], last: &[u8]) -> Vec<u8> {
    if parent.is_empty() { last.to_owned() } else { [parent, b"/", last].concat() }
}

/// A path for calls that take no descriptor of a directory. Its last part is not followed by those
/// used here.
fn through(directory: &impl AsFd, last: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let directory = directory.as_fd().as_raw_fd();
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{directory}"));
    path.join(std::ffi::OsStr::from_bytes(last))
}

fn describe_directory(
    directory: &OwnedFd,
    path: &[u8],
    attributes: &Attributes,
    extended: &Extended<'_>,
) -> Result<(), LayerError> {
    let (uid, gid) = attributes.owner();
    fchown(directory, uid, gid).map_err(write("give an owner to", path))?;
    fchmod(directory, attributes.mode()).map_err(write("set the mode of", path))?;
    for (name, value) in extended {
        fsetxattr(directory, *name, value, XattrFlags::empty())
            .map_err(write("set an extended attribute of", path))?;
    }
    Ok(())
}

/// Of what cannot be opened: a link or a pipe. A link has no mode of its own.
fn describe(
    directory: &OwnedFd,
    parent: &[u8],
    last: &[u8],
    attributes: &Attributes,
    extended: &Extended<'_>,
) -> Result<(), LayerError> {
    let path = joined(parent, last);
    let (uid, gid) = attributes.owner();
    chownat(directory, last, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(write("give an owner to", &path))?;
    for (name, value) in extended {
        lsetxattr(through(directory, last), *name, value, XattrFlags::empty())
            .map_err(write("set an extended attribute of", &path))?;
    }
    utimensat(directory, last, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(write("set the time of", &path))
}

fn set_opaque(directory: &OwnedFd, path: &[u8]) -> Result<(), LayerError> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(write("hide what is below", path))
}

fn copy_extended(from: &impl AsFd, to: &impl AsFd) -> Result<(), Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0; 64 << 10];
    let listed = names.get(..length).unwrap_or_default();
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::fgetxattr(from, name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        fsetxattr(to, name, value, XattrFlags::empty())?;
    }
    Ok(())
}
