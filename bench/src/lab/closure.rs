//! The shared libraries of a dynamically linked program.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// Lists the loader and libraries that `program` needs, as `ldd` names them; none if it is static.
///
/// # Errors
/// [`Error::Libraries`] where `ldd` fails or a library is not found.
pub(super) fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |why: String| Error::Libraries { program: program.to_owned(), why };
    let output = Command::new("ldd")
        .env("LC_ALL", "C")
        .arg(program)
        .output()
        .map_err(|error| failed(format!("ldd cannot be run: {error}")))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if listed.contains("statically linked") || complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        return Err(failed(complaint.trim().to_owned()));
    }
    listed
        .lines()
        .filter_map(|line| parse_line(line).transpose())
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// One line of `ldd`: `name => path (address)`, `path (address)`, or the vDSO, which is no file.
fn parse_line(line: &str) -> Result<Option<PathBuf>, String> {
    let line = line.trim();
    if line.ends_with("not found") {
        return Err(line.to_owned());
    }
    let named = line.split_once(" => ").map_or(line, |(_, path)| path);
    let path = named.split(" (").next().unwrap_or(named);
    Ok(path.starts_with('/').then(|| PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_line_knows_library_loader_and_vdso() {
        let library = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)";
        assert_eq!(parse_line(library), Ok(Some("/lib/x86_64-linux-gnu/libc.so.6".into())));
        let loader = "\t/lib64/ld-linux-x86-64.so.2 (0x00007f00)";
        assert_eq!(parse_line(loader), Ok(Some("/lib64/ld-linux-x86-64.so.2".into())));
        assert_eq!(parse_line("\tlinux-vdso.so.1 (0x00007ffc)"), Ok(None));
    }

    #[test]
    fn test_parse_line_missing_library_is_an_error() {
        assert!(parse_line("\tlibnone.so.1 => not found").is_err());
    }
}
