//! Many small files: create, look up, remove.

use alloc::ffi::CString;
use alloc::vec::Vec;

use crate::clock::timed;
use crate::sys::{c_path, check};
use crate::{Context, Errno, Error, Report, Unit};

/// A directory for them, which is removed on drop with what is still in it.
pub(super) struct SmallFiles {
    directory: CString,
    names: Vec<CString>,
}

impl SmallFiles {
    /// Creates the directory and makes up the names.
    pub(super) fn prepare(scratch: &str, files: usize) -> Result<SmallFiles, Error> {
        let directory = alloc::format!("{scratch}/tare-files");
        let path = |text: &str| c_path(text).on("path", text);
        let names = (0..files)
            .map(|index| path(&alloc::format!("{directory}/{index:04}")))
            .collect::<Result<_, _>>()?;
        let small = SmallFiles { directory: path(&directory)?, names };
        // SAFETY: the path is NUL-terminated.
        match check(unsafe { libc::mkdir(small.directory.as_ptr(), 0o700) }) {
            Ok(_) => Ok(small),
            // Left by a run that was killed.
            Err(Errno(libc::EEXIST)) => {
                small.remove_files();
                Ok(small)
            }
            Err(errno) => Err(errno).on("mkdir", directory),
        }
    }

    /// Times each step over all files before the next step.
    pub(super) fn run(&mut self, report: &mut Report) -> Result<(), Error> {
        let create = self.each("open", |name| {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
            // SAFETY: the name is NUL-terminated.
            let fd = check(unsafe { libc::open(name.as_ptr(), flags, 0o600) })?;
            // SAFETY: the descriptor was just opened and is used nowhere else.
            check(unsafe { libc::close(fd) })
        })?;
        report.record("create_ns", Unit::Nanoseconds, create)?;
        let stat = self.each("stat", |name| {
            let mut found = core::mem::MaybeUninit::<libc::stat>::uninit();
            // SAFETY: the name is NUL-terminated and `found` valid for writing.
            check(unsafe { libc::stat(name.as_ptr(), found.as_mut_ptr()) })
        })?;
        report.record("stat_ns", Unit::Nanoseconds, stat)?;
        let unlink = self.each("unlink", |name| {
            // SAFETY: the name is NUL-terminated.
            check(unsafe { libc::unlink(name.as_ptr()) })
        })?;
        Ok(report.record("unlink_ns", Unit::Nanoseconds, unlink)?)
    }

    fn remove_files(&self) {
        for name in &self.names {
            // SAFETY: the name is NUL-terminated.
            unsafe { libc::unlink(name.as_ptr()) };
        }
    }

    fn each(
        &self,
        call: &'static str,
        step: impl Fn(&CString) -> Result<libc::c_int, Errno>,
    ) -> Result<Vec<f64>, Error> {
        let mut samples = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let (result, step_ns) = timed(|| step(name));
            result.on(call, name.to_string_lossy())?;
            samples.push(step_ns);
        }
        Ok(samples)
    }
}

impl Drop for SmallFiles {
    fn drop(&mut self) {
        self.remove_files();
        // SAFETY: the path is NUL-terminated.
        unsafe { libc::rmdir(self.directory.as_ptr()) };
    }
}
