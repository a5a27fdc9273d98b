//! Running the kernel's own make: same result whatever the caller's environment is, every line
//! seen and kept.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// Why make did not make.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// make is missing or could not be started.
    #[error(transparent)]
    Tool(#[from] tool::Error),
    /// make ended with an error.
    #[error(
        "`make {target}` of the kernel failed ({status}); the whole log is {log}. It ends:\n{tail}"
    )]
    Failed {
        /// What was made.
        target: &'static str,
        /// make's exit status in words.
        status: String,
        /// The log file.
        log: PathBuf,
        /// The lines that tell of errors, and the last ones.
        tail: String,
    },
    /// The log could not be kept.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path of the log.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Runs make in a kernel tree, out of tree.
pub(crate) struct Make<'a> {
    /// The source tree, only read.
    pub(crate) tree: &'a Path,
    /// Where everything is written.
    pub(crate) objects: &'a Path,
    /// All that make prints is added to this file ...
    pub(crate) log: &'a Path,
    /// ... which is open here.
    pub(crate) log_file: File,
}

impl Make<'_> {
    /// Makes `target` with all processors and hands every line of output to `on_line`.
    ///
    /// `variables` are more of make's own, `all_config` is the file of symbols for the target `allnoconfig`.
    pub(crate) fn run(
        &self,
        target: &'static str,
        variables: &[&str],
        all_config: Option<&Path>,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let (reader, writer) = io::pipe().map_err(io("make a pipe for the log", self.log))?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = tool::command("make");
        command
            .arg("-C")
            .arg(self.tree)
            .arg(format!("O={}", self.objects.display()))
            .args([&format!("-j{jobs}"), "ARCH=x86_64", "LOCALVERSION=", target])
            .args(variables)
            .stdout(writer.try_clone().map_err(io("duplicate the log of", self.log))?)
            .stderr(writer);
        pin_environment(&mut command, all_config);
        let mut child = command.spawn().map_err(|e| tool::start_error("make", e))?;
        // The command holds the pipe's writing end; the reader would wait for it for ever.
        drop(command);

        let mut log = &self.log_file;
        let mut lines = BufReader::new(reader);
        let mut line = Vec::new();
        let mut copied = Ok(());
        while copied.is_ok() {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {
                    copied = log.write_all(&line);
                    on_line(&String::from_utf8_lossy(&line));
                }
                Err(error) => copied = Err(error),
            }
        }
        // make gets SIGPIPE if the loop above gave up, for instance on a full disk.
        drop(lines);
        let status = child.wait().map_err(|e| tool::start_error("make", e))?;
        copied.map_err(io("write", self.log))?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&fs::read(self.log).map_err(io("read", self.log))?)
            .into_owned();
        let (log, tail) = (self.log.to_owned(), telling_lines(&text));
        Err(Error::Failed { target, status: status.to_string(), log, tail })
    }
}

/// Removes what would leak from the caller's environment into the build (an outer make's
/// jobserver, cross compilers, flags), and fixes what the kernel would stamp into its image.
fn pin_environment(command: &mut Command, all_config: Option<&Path>) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let leaks = ["KBUILD", "KCONFIG", "MAKE", "KCFLAGS", "KAFLAGS", "KCPPFLAGS", "CARGO"];
        let exact = [
            "ARCH",
            "CROSS_COMPILE",
            "CC",
            "LD",
            "CFLAGS",
            "LDFLAGS",
            "LLVM",
            "V",
            "W",
            "C",
            "M",
            "O",
            "MFLAGS",
            "INSTALL_MOD_PATH",
            "LOCALVERSION",
            "HOSTCC",
            "SOURCE_DATE_EPOCH",
        ];
        if leaks.iter().any(|start| text.starts_with(start)) || exact.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
        .env("KBUILD_BUILD_USER", "tare")
        .env("KBUILD_BUILD_HOST", "tare")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026");
    if let Some(path) = all_config {
        command.env("KCONFIG_ALLCONFIG", path);
    }
    // SAFETY: prctl is a bare system call, safe between fork and exec; it touches no memory.
    unsafe {
        command.pre_exec(|| {
            // make must not go on, unobserved, when tare is killed.
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// The object of a line like `  CC      mm/slub.o`, by which make tells a step.
pub(crate) fn step(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    let (verb, object) = line.split_once(' ')?;
    let shape = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (!verb.is_empty() && verb.bytes().all(shape)).then(|| object.trim())
}

/// With parallel jobs the error is often far above the end: lines that look like one, then
/// the end.
fn telling_lines(log: &str) -> String {
    let errors = log.lines().filter(|l| l.contains("error:") || l.contains("***"));
    let mut telling: Vec<&str> = errors.take(8).collect();
    let end = tool::tail(log, 6);
    telling.extend(end.lines());
    telling.join("\n")
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_step_recognizes_make_lines() {
        assert_eq!(step("  CC      mm/slub.o\n"), Some("mm/slub.o"));
        assert_eq!(step("  LD [M]  a.ko"), Some("[M]  a.ko"));
        for line in ["make[1]: Entering", "  cc x", "CC x", "", "   x"] {
            assert_eq!(step(line), None, "{line}");
        }
    }
}
