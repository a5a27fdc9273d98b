//! The lab's initramfs: the order, its program, and what that program needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tare_kernels::{Cache, Initramfs, Stderr, lab as lab_kernel};

use super::closure::shared_libraries;
use super::inside::{MODULES_DIR, ORDER_FILE, encode_order};
use super::{Error, Order};

/// Where the order's program is put, under its own name: some look at it to know what to do.
const PROGRAM_DIR: &str = "/tare/bin";
/// What the emulated host needs beyond what its kernel has built in.
const MODULES: [&str; 10] = [
    "kvm-amd",
    "overlay",
    "brd",
    "tun",
    "vhost_net",
    "vhost_vsock",
    // The bridge that boxes share, and their way outside.
    "bridge",
    "veth",
    "nft_masq",
    "nft_chain_nat",
];

/// A thing that goes into the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A file, under another name.
    File {
        /// On this host.
        from: PathBuf,
        /// In the lab, absolute.
        to: String,
    },
    /// A directory with all that is in it.
    Tree {
        /// On this host.
        from: PathBuf,
        /// In the lab, absolute.
        to: String,
    },
    /// A program of this host at its own path, with the shared libraries it needs.
    Program(PathBuf),
}

/// Writes the initramfs and returns the path of the lab's kernel.
pub(super) fn build(order: &Order, initramfs_path: &Path) -> Result<PathBuf, Error> {
    let kernel = lab_kernel::kernel(&Cache::open()?, &Stderr::new())?;
    let mut image = Image { initramfs: Initramfs::new(), present: BTreeSet::new() };
    let program = read(&order.program)?;
    if !is_static(&program) {
        return Err(Error::NotStatic(order.program.clone()));
    }
    image.bytes("/init", 0o755, &read(&own_program()?)?)?;
    let name = order.program.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("{PROGRAM_DIR}/{name}");
    image.bytes(&path, 0o755, &program)?;
    let order_text = encode_order(&path, &order.arguments, &order.environment);
    image.bytes(ORDER_FILE, 0o644, &order_text)?;
    for (index, module) in kernel.modules(&MODULES)?.iter().enumerate() {
        let name = format!("{MODULES_DIR}/{index:02}-{}.ko", module.name);
        image.bytes(&name, 0o644, &read(&module.path)?)?;
    }
    for payload in &order.payload {
        match payload {
            Payload::File { from, to } => image.file(from, to)?,
            Payload::Tree { from, to } => image.tree(from, to)?,
            Payload::Program(program) => {
                for path in shared_libraries(program)?.iter().chain([program]) {
                    image.file(path, &path.to_string_lossy())?;
                }
            }
        }
    }
    image.initramfs.write_to(initramfs_path)?;
    Ok(kernel.vmlinuz)
}

fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe()
        .map_err(Error::io("cannot find this program's own file", "/proc/self/exe"))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("cannot read", path))
}

struct Image {
    initramfs: Initramfs,
    present: BTreeSet<String>,
}

impl Image {
    /// Adds a file unless that name is taken: two programs may need the same library.
    fn bytes(&mut self, to: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
        if self.present.insert(to.to_owned()) {
            self.parents(to)?;
            self.initramfs.file(to.trim_start_matches('/'), mode, bytes)?;
        }
        Ok(())
    }

    fn parents(&mut self, path: &str) -> Result<(), Error> {
        for (end, _) in path.match_indices('/').skip(1) {
            let parent = &path[..end];
            if self.present.insert(parent.to_owned()) {
                self.initramfs.directory(parent.trim_start_matches('/'), 0o755)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &str) -> Result<(), Error> {
        let metadata = fs::metadata(from).map_err(Error::io("cannot read", from))?;
        self.bytes(to, metadata.permissions().mode() & 0o7777, &read(from)?)
    }

    fn tree(&mut self, from: &Path, to: &str) -> Result<(), Error> {
        let mut entries: Vec<_> = fs::read_dir(from)
            .and_then(Iterator::collect::<Result<_, _>>)
            .map_err(Error::io("cannot list", from))?;
        // The order of a directory's entries is chance; a round's image is not.
        entries.sort_by_key(fs::DirEntry::file_name);
        self.parents(to)?;
        if self.present.insert(to.to_owned()) {
            let metadata = fs::metadata(from).map_err(Error::io("cannot read", from))?;
            let mode = metadata.permissions().mode() & 0o7777;
            self.initramfs.directory(to.trim_start_matches('/'), mode)?;
        }
        for entry in entries {
            let to = format!("{to}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(Error::io("cannot read", entry.path()))?;
            if kind.is_dir() {
                self.tree(&entry.path(), &to)?;
            } else if kind.is_symlink() {
                let target =
                    fs::read_link(entry.path()).map_err(Error::io("cannot read", entry.path()))?;
                if self.present.insert(to.clone()) {
                    let target = target.to_string_lossy();
                    self.initramfs.symlink(to.trim_start_matches('/'), &target)?;
                }
            } else if kind.is_file() {
                self.file(&entry.path(), &to)?;
            }
            // Device nodes, sockets and pipes are left out: a box has a /dev of its own.
        }
        Ok(())
    }
}

/// True for a 64-bit x86 ELF image that asks for no interpreter (ELF specification, PT_INTERP = 3).
fn is_static(elf: &[u8]) -> bool {
    let field = |offset: usize, bytes: usize| -> Option<usize> {
        let slice = elf.get(offset..offset.checked_add(bytes)?)?;
        Some(slice.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let has_interpreter = || -> Option<bool> {
        let (table, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
        (0..count)
            .map(|index| Some(field(table.checked_add(index * size)?, 4)? == 3))
            .try_fold(false, |found, header| Some(found | header?))
    };
    elf.starts_with(b"\x7fELF\x02") && field(18, 2) == Some(62) && has_interpreter() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_is_static_knows_this_test_from_a_dynamic_program_and_from_rubbish() {
        assert!(is_static(&read(&own_program().unwrap()).unwrap()));
        assert!(!is_static(&read(Path::new("/bin/ls")).unwrap()));
        assert!(!is_static(b"\x7fELF\x02 cut short"));
        assert!(!is_static(b"#!/bin/sh\n"));
    }
}
