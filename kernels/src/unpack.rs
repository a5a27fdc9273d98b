//! Reading `.tar.xz`: the `xz` program decompresses, the `tar` crate reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};

use crate::tool;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `xz` is missing or found the archive damaged.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// Reading or writing failed, or the archive is truncated or not a tar.
    #[error(
        "cannot unpack {archive}: {source}; if it is damaged, remove it and run kernels/provision.sh"
    )]
    Io {
        /// The archive.
        archive: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A member's name leads out of the directory it is unpacked to.
    #[error("{archive} is not to be trusted: its member `{member}` leads outside")]
    Escape {
        /// The archive.
        archive: PathBuf,
        /// The member.
        member: PathBuf,
    },
}

/// Unpacks those members of an xz-compressed tar that `keep` wants, below `into`.
///
/// `compressed` is open at the start of the compressed data; `archive` only names it in errors.
/// `keep` gets each member's path with any leading `./` removed, and is called for every member
/// in order, thus also tells the progress.
pub(crate) fn tar_xz(
    archive: &Path,
    compressed: impl Into<Stdio>,
    into: &Path,
    mut keep: impl FnMut(&Path) -> bool,
) -> Result<(), Error> {
    let mut xz = tool::command("xz")
        .args(["--decompress", "--stdout"])
        .stdin(compressed)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| tool::start_error("xz", e))?;
    let unpacked = match xz.stdout.take() {
        Some(stdout) => members(archive, stdout, into, &mut keep),
        None => Ok(()),
    };
    if unpacked.is_err() {
        // It may be blocked on a pipe nobody reads any more; its own complaint is a follow-up,
        // unless the data was bad to begin with.
        let _ = xz.kill();
    }
    let output = xz.wait_with_output().map_err(|e| tool::start_error("xz", e))?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if !complaint.trim().is_empty() {
        return Err(Error::Tool(tool::Error::Failed {
            command: format!("xz --decompress < {}", archive.display()),
            status: output.status.to_string(),
            stderr: tool::tail(&complaint, 4),
        }));
    }
    unpacked
}

fn members(
    archive: &Path,
    stdout: ChildStdout,
    into: &Path,
    keep: &mut dyn FnMut(&Path) -> bool,
) -> Result<(), Error> {
    let io = |source| Error::Io { archive: archive.to_owned(), source };
    let mut tar = tar::Archive::new(stdout);
    tar.set_preserve_mtime(true);
    for entry in tar.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let path = entry.path().map_err(io)?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
        // unpack_in refuses names with `..` and names that lead through symbolic links.
        if keep(&path) && !entry.unpack_in(into).map_err(io)? {
            return Err(Error::Escape { archive: archive.to_owned(), member: path });
        }
    }
    // What pads the archive's end: xz must be able to write it.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(io)?;
    Ok(())
}

/// Decompresses `.xz` files in place, as `xz --decompress` does.
pub(crate) fn xz_files(files: &[PathBuf]) -> Result<(), tool::Error> {
    // Well below the limit on the size of an argument list.
    for chunk in files.chunks(256) {
        tool::output(tool::command("xz").args(["--decompress", "--"]).args(chunk))?;
    }
    Ok(())
}

/// Copies a member of an `ar` archive (a `.deb` is one) to a file and rewinds that.
pub(crate) fn ar_member(
    archive: &Path,
    wanted: impl Fn(&str) -> bool,
    to: &mut File,
) -> Result<bool, Error> {
    let io = |source| Error::Io { archive: archive.to_owned(), source };
    let mut ar = ar::Archive::new(File::open(archive).map_err(io)?);
    while let Some(entry) = ar.next_entry() {
        let entry = entry.map_err(io)?;
        if !wanted(&String::from_utf8_lossy(entry.header().identifier())) {
            continue;
        }
        let expected = entry.header().size();
        let copied = io::copy(&mut entry.take(expected), to).map_err(io)?;
        if copied != expected {
            return Err(io(io::ErrorKind::UnexpectedEof.into()));
        }
        io::Seek::rewind(to).map_err(io)?;
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    /// An xz-compressed tar of one member with a name that the `tar` crate would not write.
    fn archive(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(3);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut plain = tempfile::tempfile().unwrap();
        plain.write_all(header.as_bytes()).unwrap();
        plain.write_all(b"abc").unwrap();
        plain.write_all(&[0; 509 + 1024]).unwrap();
        plain.rewind().unwrap();
        tool::output(tool::command("xz").arg("--stdout").stdin(plain)).unwrap()
    }

    fn unpack(bytes: &[u8], into: &Path) -> Result<(), Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        tar_xz(Path::new("test.tar.xz"), file, into, |_| true)
    }

    #[test]
    fn test_tar_xz_plain_member_is_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        unpack(&archive("a/b"), directory.path()).unwrap();
        assert_eq!(std::fs::read(directory.path().join("a/b")).unwrap(), b"abc");
    }

    #[test]
    fn test_tar_xz_parent_member_returns_escape() {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let error = unpack(&archive("../evil"), &into).unwrap_err();
        assert!(matches!(error, Error::Escape { .. }), "{error}");
        assert!(!directory.path().join("evil").exists());
    }

    #[test]
    fn test_tar_xz_truncated_or_foreign_returns_error_with_name() {
        let directory = tempfile::tempdir().unwrap();
        let whole = archive("a");
        for bytes in [&whole[..whole.len() / 2], b"not xz at all", b""] {
            let error = unpack(bytes, directory.path()).unwrap_err();
            assert!(error.to_string().contains("test.tar.xz"), "{error}");
        }
    }
}
