//! Running the few foreign programs this crate needs, and saying how to get a missing one.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

/// Why a foreign program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not installed.
    #[error(
        "`{tool}` is not installed; install it with `apt-get install {package}` or run kernels/provision.sh"
    )]
    Missing {
        /// The program.
        tool: String,
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// The program could not be started.
    #[error("cannot start `{tool}`: {source}")]
    Start {
        /// The program.
        tool: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The program with its arguments.
        command: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
}

/// The Debian package of each program that the crate calls.
fn package_of(tool: &str) -> &'static str {
    match tool {
        "make" => "make",
        "gcc" => "gcc",
        "ld" => "binutils",
        "xz" => "xz-utils",
        "mke2fs" => "e2fsprogs",
        "mkfs.erofs" => "erofs-utils",
        "busybox" | "/bin/busybox" | "/usr/bin/busybox" => "busybox-static",
        "flex" => "flex",
        "bison" => "bison",
        "bc" => "bc",
        "zstd" => "zstd",
        "gzip" => "gzip",
        _ => "dpkg",
    }
}

/// A command for `tool` with a fixed locale, and /sbin on its path: mke2fs lives there, and an
/// ordinary user's path lacks it.
pub(crate) fn command(tool: &str) -> Command {
    let mut command = Command::new(tool);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Maps the failure to start `tool`.
pub(crate) fn start_error(tool: &str, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::NotFound {
        Error::Missing { tool: tool.to_owned(), package: package_of(tool) }
    } else {
        Error::Start { tool: tool.to_owned(), source }
    }
}

/// Runs a command to its end and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| start_error(&tool, e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    Err(Error::Failed {
        command: words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "),
        status: output.status.to_string(),
        stderr: tail(&String::from_utf8_lossy(&output.stderr), 8),
    })
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_output_missing_tool_names_package() {
        let error = start_error("mke2fs", io::ErrorKind::NotFound.into());
        assert!(error.to_string().contains("apt-get install e2fsprogs"), "{error}");
    }

    #[test]
    fn test_output_failing_tool_returns_its_stderr() {
        let error = output(command("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert!(error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn test_tail_short_text_returns_all() {
        assert_eq!(tail("a\nb\n", 5), "a\nb");
        assert_eq!(tail("a\nb\nc", 1), "c");
    }
}
