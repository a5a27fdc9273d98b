//! The cgroup of one box: one directory in each hierarchy needed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::CgroupError;
use super::files::{make_directory_at, open_at};
use super::group::{Groups, Hierarchy, MOST};
use super::limits::CgroupStatistics;
use super::name::Name;
use super::statistics::collect;
use super::sweep::remove_group;

/// Made at each start, removed by [`Leaf::remove`] or when dropped.
#[derive(Debug)]
pub(crate) struct Leaf {
    groups: Arc<Groups>,
    name: Name,
    directories: [Option<OwnedFd>; MOST],
    present: bool,
}

impl Leaf {
    /// Makes the directories and writes the limits.
    pub(crate) fn make(groups: &Arc<Groups>) -> Result<Leaf, CgroupError> {
        let name = Name::next(&groups.owner);
        let mut leaf = Leaf {
            groups: Arc::clone(groups),
            name,
            directories: [const { None }; MOST],
            present: true,
        };
        for (hierarchy, slot) in groups.hierarchies.iter().zip(&mut leaf.directories) {
            let parent = hierarchy.directory.as_fd();
            let not_writable = |source| {
                let path = hierarchy.path.join(name.as_str());
                CgroupError::NotWritable { path, source }
            };
            make_directory_at(parent, name.as_c_str()).map_err(not_writable)?;
            let directory = open_at(parent, name.as_c_str(), libc::O_DIRECTORY | libc::O_RDONLY)
                .map_err(not_writable)?;
            hierarchy.apply(directory.as_fd(), &name)?;
            *slot = Some(directory);
        }
        Ok(leaf)
    }

    /// The directory for `CLONE_INTO_CGROUP`, if the unified hierarchy is used.
    pub(crate) fn unified(&self) -> Option<RawFd> {
        self.each().find(|(h, _)| h.unified).map(|(_, directory)| directory.as_raw_fd())
    }

    /// `cgroup.procs` of the v1 hierarchies, for the child to write itself into.
    pub(crate) fn open_v1_procs(&self) -> Result<[Option<OwnedFd>; MOST], CgroupError> {
        let mut opened = [const { None }; MOST];
        for ((hierarchy, directory), slot) in
            self.each().filter(|(h, _)| !h.unified).zip(&mut opened)
        {
            let procs = open_at(directory, c"cgroup.procs", libc::O_WRONLY).map_err(|source| {
                CgroupError::NotWritable {
                    path: hierarchy.file(&self.name, c"cgroup.procs"),
                    source,
                }
            })?;
            *slot = Some(procs);
        }
        Ok(opened)
    }

    /// The directories, in the host's view.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.groups.hierarchies.iter().map(|h| h.path.join(self.name.as_str())).collect()
    }

    /// What has been counted so far.
    pub(crate) fn statistics(&self) -> Result<CgroupStatistics, CgroupError> {
        let mut all = CgroupStatistics::default();
        for (hierarchy, directory) in self.each() {
            let path = || hierarchy.path.join(self.name.as_str());
            collect(&mut all, directory, hierarchy.unified, path)?;
        }
        Ok(all)
    }

    /// Removes the directories, ending what still runs in them.
    pub(crate) fn remove(mut self) -> Result<(), CgroupError> {
        self.remove_all()
    }

    fn remove_all(&mut self) -> Result<(), CgroupError> {
        if !std::mem::take(&mut self.present) {
            return Ok(());
        }
        let mut result = Ok(());
        for hierarchy in &self.groups.hierarchies {
            let removed = remove_group(hierarchy.directory.as_fd(), self.name.as_c_str());
            if let Err(source) = removed {
                let path = hierarchy.path.join(self.name.as_str());
                result = Err(CgroupError::NotRemoved { path, source });
            }
        }
        result
    }

    fn each(&self) -> impl Iterator<Item = (&Hierarchy, BorrowedFd<'_>)> {
        self.groups
            .hierarchies
            .iter()
            .zip(&self.directories)
            .filter_map(|(hierarchy, fd)| Some((hierarchy, fd.as_ref()?.as_fd())))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let _ = self.remove_all();
    }
}
