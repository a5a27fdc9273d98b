//! erofs images, made by `mkfs.erofs`: read-only and dense.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::tool;

/// A fixed identity and time, so that equal content gives equal images.
const UUID: &str = "7a7e0000-7a7e-4a7e-8a7e-7a7e00000003";
/// 2026-01-01T00:00:00Z, as on other images.
const TIME_S: &str = "1767225600";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `mkfs.erofs` is missing or refused.
    #[error("cannot make the erofs image {path}: {source}")]
    Mkfs {
        /// The image.
        path: PathBuf,
        /// What happened.
        source: tool::Error,
    },
    /// The image could not be replaced.
    #[error("cannot replace {path}: {source}")]
    Io {
        /// The image.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Makes an image with the content of a directory, which is not compressed: guests read it fast,
/// and kernels need no decompressor. An existing file is replaced.
///
/// # Errors
/// Any [`Error`]; no image is left then.
pub fn build(path: &Path, tree: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Io { path: path.to_owned(), source });
        }
        _ => {}
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut command = tool::command("mkfs.erofs");
    command.args(["--quiet", "-T", TIME_S, "-U", UUID]).arg(absolute(path)).arg(tree);
    let made = tool::output(&mut command);
    if made.is_err() {
        // Half an image must not be taken for a whole one; the first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    made.map(drop).map_err(|source| Error::Mkfs { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_build_of_equal_trees_gives_equal_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let made: Vec<_> = ["one", "other"]
            .iter()
            .map(|name| {
                let tree = directory.path().join(name);
                fs::create_dir_all(tree.join("etc")).unwrap();
                fs::write(tree.join("etc/file"), "content").unwrap();
                std::os::unix::fs::symlink("etc/file", tree.join("link")).unwrap();
                let image = directory.path().join(format!("{name}.erofs"));
                build(&image, &tree).unwrap();
                fs::read(image).unwrap()
            })
            .collect();
        assert!(made[0] == made[1]);
        // EROFS_SUPER_MAGIC_V1 at EROFS_SUPER_OFFSET (fs/erofs/erofs_fs.h).
        assert_eq!(made[0][1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
    }

    #[test]
    fn test_build_of_nothing_leaves_no_image() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let error = build(&image, &directory.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("image"), "{error}");
        assert!(!image.exists());
    }
}
