//! COPY and ADD: from a build's directory, a stage or an image into a stage.

use std::path::{Component, Path, PathBuf};

use super::entry::{Entries, Entry, EntryKind};
use super::error::BuildError;
use super::glob::Glob;
use super::ignore::Ignore;
use super::merged::{Found, Merged};
use super::staging::Staging;
use super::unpacking::{is_archive, unpack};

/// The deepest directory that is copied: deeper names no layer may have.
const DEPTH_MAX: usize = 256;

/// Where files are taken from.
pub(super) struct Origin<'a> {
    pub(super) root: &'a Merged,
    /// For the build's own directory, whose owners and attributes are the host's affair.
    pub(super) ignore: Option<&'a Ignore>,
    /// What it is called in messages.
    pub(super) name: &'a str,
}

/// How they are put down.
pub(super) struct Copying<'a> {
    pub(super) origin: Origin<'a>,
    /// The owner they all get.
    pub(super) owner: Option<(u32, u32)>,
    /// The mode they all get.
    pub(super) mode: Option<u32>,
    /// Whether archives are unpacked, and where to keep what is in them meanwhile.
    pub(super) unpacks_into: Option<PathBuf>,
}

/// What is copied.
pub(super) enum Given {
    /// Files by a path or pattern.
    Path(String),
    /// A file with this text, which is kept in the file named second.
    Inline(String, PathBuf),
}

impl Copying<'_> {
    /// Copies `sources` to `target`, an absolute path, which is a directory if it ends with a slash.
    pub(super) fn run(
        &self,
        below: &Merged,
        sources: &[Given],
        target: &str,
    ) -> Result<Entries, BuildError> {
        let mut staging = Staging::new(below, self.owner.unwrap_or((0, 0)));
        let found = self.find(sources)?;
        let place = staging.resolve(Path::new(target))?;
        let ends_as_directory = target.ends_with('/') || target.ends_with("/.");
        let is_directory = ends_as_directory || staging.is_directory(&place)? == Some(true);
        if found.len() > 1 && !is_directory {
            return Err(BuildError::invalid(
                format!("{} files are to be copied to the one path {target}", found.len()),
                "end the target by a slash: it is a directory then",
            ));
        }
        for source in found {
            self.take(&mut staging, source, &place, is_directory)?;
        }
        Ok(staging.finish())
    }

    fn take(
        &self,
        staging: &mut Staging<'_>,
        source: Named,
        place: &Path,
        is_directory: bool,
    ) -> Result<(), BuildError> {
        let entry = match &source.what {
            What::Found(path, found) if found.is_directory() => {
                let place = staging.put_directory(place, self.described(found.entry()?))?;
                return self.contents(staging, path, &place, 0);
            }
            What::Found(_, found) => {
                if let Some(scratch) = &self.unpacks_into
                    && found.is_file()
                    && is_archive(&found.on_host)?
                {
                    let directory = self.described(Entry::implied_directory());
                    let place = staging.put_directory(place, directory)?;
                    let adjust = |entry| self.adjusted(entry);
                    return unpack(&found.on_host, scratch, staging, &place, &adjust);
                }
                self.described(found.entry()?)
            }
            What::Inline(path) => {
                let content = super::entry::Content::of(path.clone())?;
                let kind = EntryKind::File(content);
                self.described(Entry { kind, mode: 0o644, ..Entry::implied_directory() })
            }
        };
        let path = if is_directory { place.join(&source.name) } else { place.to_owned() };
        staging.put_file(&path, entry).map(drop)
    }

    fn contents(
        &self,
        staging: &mut Staging<'_>,
        from: &Path,
        to: &Path,
        depth: usize,
    ) -> Result<(), BuildError> {
        if depth > DEPTH_MAX {
            return Err(BuildError::TooDeep(from.to_owned()));
        }
        for name in self.origin.root.names(from)? {
            let (from, to) = (from.join(&name), to.join(&name));
            let Some(found) = self.origin.root.find(&from)? else { continue };
            let ignored = self.ignores(&from);
            if found.is_directory() {
                if ignored && !self.has_exceptions() {
                    continue;
                }
                // One that is ignored is made for what in it is not.
                let to = match ignored {
                    true => to,
                    false => staging.put_directory(&to, self.described(found.entry()?))?,
                };
                self.contents(staging, &from, &to, depth + 1)?;
            } else if !ignored && !found.is_socket() {
                staging.put_file(&to, self.described(found.entry()?))?;
            }
        }
        Ok(())
    }

    /// What the sources name.
    fn find(&self, sources: &[Given]) -> Result<Vec<Named>, BuildError> {
        let mut all = Vec::new();
        for source in sources {
            let text = match source {
                Given::Inline(name, path) => {
                    all.push(Named { name: name.into(), what: What::Inline(path.clone()) });
                    continue;
                }
                Given::Path(text) => text,
            };
            let paths = self.matching(text)?;
            let before = all.len();
            for path in paths {
                if let Some((real, found)) = self.origin.root.follow(&path)? {
                    if self.ignores(&path) && !(found.is_directory() && self.has_exceptions()) {
                        continue;
                    }
                    let name = path.file_name().unwrap_or_default().into();
                    all.push(Named { name, what: What::Found(real, found) });
                }
            }
            if all.len() == before {
                let hint = self.origin.ignore.map_or("", |_| ", or it is ignored");
                return Err(BuildError::invalid(
                    format!("there is no {text} in {}{hint}", self.origin.name),
                    "check its spelling; paths are relative to that directory",
                ));
            }
        }
        Ok(all)
    }

    /// The paths that a source stands for; one that is no pattern stands for itself.
    fn matching(&self, text: &str) -> Result<Vec<PathBuf>, BuildError> {
        let mut paths = vec![PathBuf::new()];
        for part in Path::new(text).components() {
            let name = match part {
                Component::Normal(name) => name.to_string_lossy(),
                Component::ParentDir => {
                    for path in &mut paths {
                        path.pop();
                    }
                    continue;
                }
                _ => continue,
            };
            let glob = Glob::new(&name, false).ok_or_else(|| {
                BuildError::invalid(
                    format!("the pattern {text} is malformed"),
                    "close its brackets",
                )
            })?;
            if !glob.is_pattern() {
                let name = glob.literal();
                paths.iter_mut().for_each(|path| path.push(&name));
                continue;
            }
            let mut next = Vec::new();
            for path in paths {
                let Some((directory, found)) = self.origin.root.follow(&path)? else { continue };
                if !found.is_directory() {
                    continue;
                }
                let names = self.origin.root.names(&directory)?;
                let names = names.iter().filter(|name| glob.matches(&name.to_string_lossy()));
                next.extend(names.map(|name| path.join(name)));
            }
            paths = next;
        }
        Ok(paths)
    }

    fn ignores(&self, path: &Path) -> bool {
        self.origin.ignore.is_some_and(|ignore| ignore.ignores(&path.to_string_lossy()))
    }

    fn has_exceptions(&self) -> bool {
        self.origin.ignore.is_some_and(Ignore::has_exceptions)
    }

    /// A file of the origin as it is put down.
    fn described(&self, entry: Entry) -> Entry {
        let entry = match self.origin.ignore {
            Some(_) => Entry { uid: 0, gid: 0, attributes: Vec::new(), ..entry },
            None => entry,
        };
        self.adjusted(entry)
    }

    fn adjusted(&self, mut entry: Entry) -> Entry {
        if let Some((uid, gid)) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(mode) = self.mode.filter(|_| !matches!(entry.kind, EntryKind::Symlink(_))) {
            entry.mode = mode;
        }
        entry
    }
}

/// A source and the name it has where the target is a directory.
struct Named {
    name: PathBuf,
    what: What,
}

enum What {
    Found(PathBuf, Found),
    Inline(PathBuf),
}

/// What `--chmod` says.
pub(super) fn mode(text: &str) -> Result<u32, BuildError> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        BuildError::invalid(format!("--chmod={text} is no octal mode"), "write it as --chmod=755")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        context: tempfile::TempDir,
        image: tempfile::TempDir,
        scratch: tempfile::TempDir,
    }

    impl Place {
        fn new(files: &[&str]) -> Place {
            let directory = || tempfile::tempdir().unwrap();
            let place = Place { context: directory(), image: directory(), scratch: directory() };
            for file in files {
                let path = place.context.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, file).unwrap();
            }
            fs::create_dir_all(place.image.path().join("usr/lib")).unwrap();
            symlink("usr/lib", place.image.path().join("lib")).unwrap();
            place
        }

        fn copy(
            &self,
            ignore: &str,
            sources: &[&str],
            target: &str,
        ) -> Result<Vec<String>, BuildError> {
            let context = Merged::open(vec![self.context.path().into()])?;
            let image = Merged::open(vec![self.image.path().into()])?;
            let ignore = Ignore::parse(ignore).unwrap();
            let copying = Copying {
                origin: Origin { root: &context, ignore: Some(&ignore), name: "the directory" },
                owner: None,
                mode: None,
                unpacks_into: Some(self.scratch.path().into()),
            };
            let sources: Vec<_> =
                sources.iter().map(|source| Given::Path((*source).to_owned())).collect();
            let entries = copying.run(&image, &sources, target)?;
            Ok(entries.keys().map(|path| path.display().to_string()).collect())
        }
    }

    #[test]
    fn test_copy_puts_files_where_docker_does() {
        let place = Place::new(&["a", "b.txt", "d/x", "d/e/y"]);
        for (sources, target, expected) in [
            (&["a"][..], "/z", &["z"][..]),
            (&["a"], "/z/", &["z", "z/a"]),
            (&["a"], "/usr", &["usr", "usr/a"]),
            (&["d"], "/z", &["z", "z/e", "z/e/y", "z/x"]),
            (&["d"], "/", &["e", "e/y", "x"]),
            (&["*.txt", "d/*"], "/z/", &["z", "z/b.txt", "z/x", "z/y"]),
            (&["a"], "/lib/", &["usr", "usr/lib", "usr/lib/a"]),
            (&["../a", "/b.txt"], "/z/", &["z", "z/a", "z/b.txt"]),
        ] {
            assert_eq!(place.copy("", sources, target).unwrap(), expected, "{sources:?} {target}");
        }
    }

    #[test]
    fn test_copy_into_a_directory_behind_a_link_goes_through_it() {
        let place = Place::new(&["r/lib/z.so"]);
        assert_eq!(place.copy("", &["r"], "/").unwrap(), ["usr", "usr/lib", "usr/lib/z.so"]);
    }

    #[test]
    fn test_copy_leaves_out_what_is_ignored() {
        let place = Place::new(&["a", "d/x", "d/y", "d/e/z"]);
        assert_eq!(place.copy("d/*\n!d/y\n", &["."], "/t/").unwrap(), ["t", "t/a", "t/d", "t/d/y"]);
        assert_eq!(place.copy("d\n!d/e/z\n", &["d"], "/t/").unwrap(), ["t", "t/e", "t/e/z"]);
        assert!(place.copy("a", &["a"], "/").is_err());
    }

    #[test]
    fn test_copy_of_links_does_not_leave_the_context() {
        let place = Place::new(&["d/x"]);
        symlink("/etc/passwd", place.context.path().join("out")).unwrap();
        symlink("../../../d", place.context.path().join("in")).unwrap();
        assert!(place.copy("", &["out"], "/").is_err());
        assert_eq!(place.copy("", &["in"], "/t").unwrap(), ["t", "t/x"]);
        // In a directory a link is copied as one.
        assert_eq!(place.copy("d\n", &["."], "/t").unwrap(), ["t", "t/in", "t/out"]);
    }

    #[test]
    fn test_copy_that_cannot_be_returns_what_is_in_the_way() {
        let place = Place::new(&["a", "b", "lib", "d/x"]);
        for (sources, target, said) in [
            (&["nothing"][..], "/", "there is no nothing in the directory"),
            (&["*.c"], "/", "there is no *.c"),
            (&["a", "b"], "/z", "end the target by a slash"),
            (&["["], "/z", "malformed"),
            (&["a"], "/usr/lib/../../a/b/../../usr/lib/x/..", "/usr/lib/a"),
        ] {
            match place.copy("", sources, target) {
                Err(error) => assert!(error.to_string().contains(said), "{error}"),
                Ok(paths) => assert!(paths.iter().any(|path| said.contains(path)), "{paths:?}"),
            }
        }
        fs::write(place.image.path().join("file"), "").unwrap();
        let error = place.copy("", &["a"], "/file/x").unwrap_err().to_string();
        assert!(error.contains("/file is a file in the image"), "{error}");
        let error = place.copy("", &["d"], "/file").unwrap_err().to_string();
        assert!(error.contains("/file is a file in the image"), "{error}");
        assert!(mode("755").is_ok() && mode("u+x").is_err() && mode("77777").is_err());
    }
}
