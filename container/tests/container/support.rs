//! Root file systems made of busybox, and boxes that run a shell script.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use tare_container::{Exit, Program, Rootfs, Spec, Stream};
use tempfile::TempDir;

/// What every test needs; `None` after a loud skip.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    /// Some tests list everything on the machine before and after.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Bench {
    pub(crate) fn new(test: &str) -> Option<Bench> {
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return skip(test, "not root");
        }
        let Some(busybox) = busybox() else {
            return skip(test, "no static busybox (set TARE_TEST_BUSYBOX)");
        };
        let directory = tempfile::Builder::new().prefix("tare-test-").tempdir().unwrap();
        make_rootfs(&directory.path().join("rootfs"), &busybox);
        Some(Bench { directory, _alone: alone })
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub(crate) fn overlay(&self) -> Rootfs {
        Rootfs::Overlay { lower: vec![self.rootfs()], size_bytes: None }
    }

    /// A default container that runs `script` in a shell.
    pub(crate) fn shell(&self, script: &str) -> Spec {
        Spec::container(self.overlay(), Program::command("/bin/sh")).args(["sh", "-c", script])
    }

    /// Runs `spec` to its end; its exit and what it wrote to standard output and error.
    pub(crate) fn run(&self, mut spec: Spec) -> (Exit, String) {
        let mut output = tempfile::tempfile().unwrap();
        spec.stdio = [Stream::Null, stream(&output), stream(&output)];
        let mut container = spec.prepare().unwrap().spawn().unwrap();
        let exit = container.wait().unwrap();
        container.remove().unwrap();
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        (exit, text)
    }

    /// What `script` prints in a default container; it must succeed.
    pub(crate) fn output(&self, script: &str) -> String {
        let (exit, text) = self.run(self.shell(script));
        assert!(exit.success(), "{script}: {exit:?}\n{text}");
        text
    }
}

pub(crate) fn stream(file: &File) -> Stream {
    Stream::File(OwnedFd::from(file.try_clone().unwrap()))
}

pub(crate) fn busybox() -> Option<PathBuf> {
    let named = std::env::var_os("TARE_TEST_BUSYBOX").map(PathBuf::from);
    named.or_else(|| Some("/bin/busybox".into())).filter(|path| path.is_file())
}

pub(crate) fn skip<T>(test: &str, why: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {why}, and CI=true");
    // Past the capture of the test runner: what is skipped must be seen.
    let line = format_args!("SKIPPED {test}: {why}\n");
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
    None
}

fn make_rootfs(root: &Path, busybox: &Path) {
    for directory in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.join("bin/busybox"), executable).unwrap();
    for name in [
        "sh", "true", "false", "cat", "ls", "mount", "umount", "hostname", "id", "grep", "sleep",
        "kill", "mkdir", "mknod", "touch", "dd", "echo", "readlink", "chroot", "head", "wc",
        "tail", "env", "ps", "stty", "cmp", "cut", "tr", "test", "unshare", "stat", "ip", "rm",
        "seq", "printf", "ln", "date", "nc", "timeout",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}
