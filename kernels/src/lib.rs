//! What a guest is made of: its kernel, its initramfs, its disk images, its root file system.
//!
//! # Rules
//!
//! - Everything finished lies in a [`Cache`] under a name that says what it was made from, and
//!   is published whole or not at all. A second request finds it; a killed build leaves remains
//!   that the next one removes.
//! - The same input gives the same bytes: no time, user name, host name or directory order
//!   goes into a kernel, an initramfs or an image.
//! - Foreign programs are called where they are the reference (make and gcc for the kernel,
//!   mke2fs for ext4, xz). What is missing is named together with the way to get it;
//!   `kernels/provision.sh` gets all of it. Formats that are small are written here
//!   ([`Initramfs`], [`compact`]).
//! - Nothing here is on a timed path.
//!
//! # Example
//!
//! ```no_run
//! use tare_kernels::{Build, Cache, Initramfs, PRACTICAL, Source, Stderr};
//!
//! let cache = Cache::open()?;
//! let build = Build { cache: &cache, variant: &PRACTICAL, source: Source::Debian };
//! let kernel = build.run(&Stderr::new())?;
//!
//! let mut initramfs = Initramfs::new();
//! initramfs.file_from("init", 0o755, "target/guest/tare-guest".as_ref())?;
//! initramfs.write_to("start.cpio".as_ref())?;
//! println!("{} start.cpio {}", kernel.vmlinux.display(), tare_kernels::command_line(&PRACTICAL));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod cmdline;
mod config;
mod cpio;
mod elf;
pub mod erofs;
pub mod ext4;
mod image;
mod kernel;
pub mod lab;
mod link;
mod make;
pub mod modules;
mod progress;
pub mod rootfs;
mod source;
mod tool;
mod unpack;
mod variant;

pub use cache::{Cache, Error as CacheError};
pub use cmdline::{START_WORDS, WORDS, Word, command_line};
pub use config::Error as ConfigError;
pub use cpio::{Error as InitramfsError, Initramfs, MAX_ARCHIVE_BYTES};
pub use elf::{Error as ElfError, compact};
pub use image::takes_device_words;
pub use kernel::{Build, Error as KernelError, Kernel};
pub use make::Error as MakeError;
pub use progress::{Progress, Silent, Stderr};
pub use source::{Error as SourceError, Source};
pub use tool::Error as ToolError;
pub use unpack::Error as UnpackError;
pub use variant::{BARE, FULL, Fragment, PRACTICAL, VARIANTS, Variant};

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
