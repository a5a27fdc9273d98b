//! The kit: what boxes are made of, made once and only when something asks for it.

use std::cell::{OnceCell, RefCell};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tare_container::{Bridge, Reach};
use tare_kernels::modules::{self, GUEST_MODULES, MODULES_LIST, Module, Modules};
use tare_kernels::{Cache, Initramfs, Stderr, ext4, rootfs};
use tare_vmm::{BlockEngine, BootProtocol, Config, CpuProfile, NetBackend, Pages};
use tare_workload::Job;

use crate::backend::{Assignment, reach_state};
use crate::guest_kernel::{self, GuestKernel};
use crate::image::{self, SampleImage, UsedImage};
use crate::rundir::RunDir;

/// The agent, built by `build.rs`: the same bytes in every box.
pub const AGENT: &[u8] = include_bytes!(env!("TARE_GUEST_PATH"));

/// Free space in a root file system's image, beyond its files.
const ROOT_SLACK_BYTES: u64 = 64 << 20;

/// The kit could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be written or read.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] tare_kernels::CacheError),
    /// The guest kernel.
    #[error(transparent)]
    Kernel(#[from] guest_kernel::Error),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] tare_kernels::InitramfsError),
    /// The guest kernel's modules.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// Modules that do not go into the initramfs.
    #[error(transparent)]
    AddModules(#[from] modules::AddError),
    /// The root file system.
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    /// The bridge.
    #[error(transparent)]
    Network(#[from] tare_container::NetworkError),
    /// A disk's image.
    #[error(transparent)]
    Disk(#[from] ext4::Error),
    /// The image that boxes run.
    #[error(transparent)]
    Image(#[from] image::Error),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// What the user may choose instead of the defaults.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The guest kernel.
    pub kernel: guest_kernel::Choice,
    /// A root file system other than the one that tare makes.
    pub rootfs: Option<PathBuf>,
    /// The image of the store whose tree is the root file system instead.
    pub image: Option<String>,
    /// How our own microVM's disks move their data.
    pub disk_engine: BlockEngine,
    /// Directory with the guest kernel's modules.
    pub modules: Option<PathBuf>,
    /// The machine that a microVM is.
    pub machine: GuestMachine,
    /// What boxes on the bridge reach.
    pub reach: Reach,
}

impl Default for Choice {
    fn default() -> Choice {
        Choice {
            kernel: guest_kernel::Choice::default(),
            rootfs: None,
            image: None,
            disk_engine: BlockEngine::default(),
            modules: None,
            machine: GuestMachine::default(),
            reach: Reach::Host,
        }
    }
}

/// The machine that a microVM is, but for its memory and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestMachine {
    /// How many vCPUs.
    pub vcpus: u8,
    /// What they say of themselves.
    pub cpu_profile: CpuProfile,
    /// What guest RAM is made of.
    pub pages: Pages,
    /// Whether all of guest RAM is allocated by the launch.
    pub prefault: bool,
    /// How the kernel is entered.
    pub protocol: BootProtocol,
    /// Who moves its network's packets, if not the VMM.
    pub net_backend: Option<NetBackend>,
}

impl Default for GuestMachine {
    fn default() -> GuestMachine {
        let Config { vcpus, cpu_profile, pages, prefault, protocol, .. } = Config::default();
        GuestMachine { vcpus, cpu_profile, pages, prefault, protocol, net_backend: None }
    }
}

/// See the module's text.
pub struct Kit {
    directory: RunDir,
    /// None where the system has no shared memory.
    memory_directory: OnceCell<Option<RunDir>>,
    choice: Choice,
    agent: PathBuf,
    kernel: OnceCell<GuestKernel>,
    other_kernels: RefCell<Vec<GuestKernel>>,
    modules: OnceCell<Vec<Module>>,
    initramfs: OnceCell<PathBuf>,
    rootfs: OnceCell<PathBuf>,
    image: OnceCell<Option<UsedImage>>,
    sample_layout: OnceCell<PathBuf>,
    empty_root: OnceCell<PathBuf>,
    bridge: OnceCell<Bridge>,
}

impl Kit {
    /// Makes the run's directory, with the agent in it, and removes what dead runs left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(choice: Choice) -> Result<Kit, Error> {
        let directory =
            RunDir::new().map_err(io_error("cannot make a directory in", &std::env::temp_dir()))?;
        // A cgroup that this user may not remove was not left by this user's runs.
        let _ = tare_container::sweep();
        // Nor such a bridge.
        let _ = tare_container::sweep_networks();
        let agent = directory.path().join("tare-guest");
        fs::write(&agent, AGENT).map_err(io_error("cannot write", &agent))?;
        fs::set_permissions(&agent, Permissions::from_mode(0o755))
            .map_err(io_error("cannot make executable", &agent))?;
        Ok(Kit {
            directory,
            memory_directory: OnceCell::new(),
            choice,
            agent,
            kernel: OnceCell::new(),
            other_kernels: RefCell::default(),
            modules: OnceCell::new(),
            initramfs: OnceCell::new(),
            rootfs: OnceCell::new(),
            image: OnceCell::new(),
            sample_layout: OnceCell::new(),
            empty_root: OnceCell::new(),
            bridge: OnceCell::new(),
        })
    }

    /// How our own microVM's disks move their data.
    pub fn disk_engine(&self) -> BlockEngine {
        self.choice.disk_engine
    }

    /// Path of the agent on this host.
    pub fn agent(&self) -> &Path {
        &self.agent
    }

    /// The kernel that microVMs boot.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn guest_kernel(&self) -> Result<&GuestKernel, Error> {
        once(&self.kernel, || {
            let kernel = self.choice.kernel.find()?;
            Ok(kernel.prepare(self.directory.path(), self.choice.machine.vcpus)?)
        })
    }

    /// The kernel that the microVMs of an assignment boot.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn kernel_for(&self, assignment: &Assignment) -> Result<GuestKernel, Error> {
        let Some(variant) = assignment.kernel else { return self.guest_kernel().cloned() };
        let kernel = guest_kernel::Choice::Variant(variant).find()?;
        let kernel = kernel.prepare(self.directory.path(), self.choice.machine.vcpus)?;
        let mut others = self.other_kernels.borrow_mut();
        if !others.contains(&kernel) {
            others.push(kernel.clone());
        }
        Ok(kernel)
    }

    /// Every kernel that was asked for so far, once.
    pub fn kernels(&self) -> Vec<GuestKernel> {
        let mut kernels: Vec<GuestKernel> = self.kernel.get().cloned().into_iter().collect();
        let others = self.other_kernels.borrow();
        kernels.extend(others.iter().filter(|other| self.kernel.get() != Some(other)).cloned());
        kernels
    }

    /// The machine that a microVM is.
    pub fn machine(&self) -> GuestMachine {
        self.choice.machine
    }

    /// The modules that the guest kernel needs for its devices: none, if no directory of modules
    /// is named or found beside the kernel.
    ///
    /// # Errors
    /// [`Error::Modules`].
    pub fn modules(&self) -> Result<&[Module], Error> {
        once(&self.modules, || {
            match self.choice.modules.clone().or_else(|| self.choice.kernel.modules()) {
                Some(directory) => Ok(Modules::of(&directory)?.closure(GUEST_MODULES)?),
                None => Ok(Vec::new()),
            }
        })
        .map(Vec::as_slice)
    }

    /// Tells the agent of the modules that the initramfs has, unless the assignment has a kernel of
    /// its own, for which they are not.
    ///
    /// # Errors
    /// As of [`modules`](Kit::modules).
    pub fn name_modules_in(&self, assignment: &Assignment, job: &mut Job) -> Result<(), Error> {
        let has_modules = assignment.kernel.is_none() && !self.modules()?.is_empty();
        job.modules = has_modules.then(|| MODULES_LIST.to_owned());
        Ok(())
    }

    /// The initramfs of microVMs: the agent as `/init`, and the modules that the kernel needs.
    ///
    /// # Errors
    /// [`Error::Initramfs`].
    pub fn initramfs(&self) -> Result<&Path, Error> {
        once(&self.initramfs, || {
            let mut initramfs = Initramfs::new();
            initramfs.file("init", 0o755, AGENT)?;
            if !self.modules()?.is_empty() {
                modules::add(&mut initramfs, self.modules()?)?;
            }
            let path = self.directory.path().join("initramfs.cpio");
            initramfs.write_to(&path)?;
            Ok(path)
        })
        .map(PathBuf::as_path)
    }

    /// The root file system for commands: the user's directory, or tare's own small one.
    ///
    /// # Errors
    /// [`Error::Rootfs`].
    pub fn rootfs(&self) -> Result<&Path, Error> {
        once(&self.rootfs, || match (self.image()?, &self.choice.rootfs) {
            (Some(image), _) => Ok(image.tree()?),
            (None, Some(directory)) => Ok(directory.clone()),
            (None, None) => Ok(rootfs::base(&Cache::open()?, &Stderr::new())?),
        })
        .map(PathBuf::as_path)
    }

    /// The same as directories that an overlay puts together, topmost first.
    ///
    /// # Errors
    /// As of [`rootfs`](Kit::rootfs).
    pub fn root_layers(&self) -> Result<Vec<PathBuf>, Error> {
        match self.image()? {
            Some(image) => Ok(image.layers().to_vec()),
            None => Ok(vec![self.rootfs()?.to_owned()]),
        }
    }

    /// The image that boxes run, if they run one.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn image(&self) -> Result<Option<&UsedImage>, Error> {
        let open = || Ok(self.choice.image.as_deref().map(UsedImage::open).transpose()?);
        once(&self.image, open).map(Option::as_ref)
    }

    /// The OCI layout of [`SampleImage::FIVE_LAYERS`], which is to be unpacked.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sample_layout(&self) -> Result<&Path, Error> {
        once(&self.sample_layout, || {
            let layout = self.directory.path().join("sample");
            SampleImage::FIVE_LAYERS
                .write_to(&layout)
                .map_err(io_error("cannot write", &layout))?;
            Ok(layout)
        })
        .map(PathBuf::as_path)
    }

    /// A root file system with nothing in it, for boxes that run the agent alone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn empty_root(&self) -> Result<&Path, Error> {
        once(&self.empty_root, || {
            let root = self.directory.path().join("empty-root");
            for mount_point in ["proc", "sys", "dev", "tmp", "scratch"] {
                let path = root.join(mount_point);
                fs::create_dir_all(&path).map_err(io_error("cannot make", &path))?;
            }
            Ok(root)
        })
        .map(PathBuf::as_path)
    }

    /// The bridge that boxes with a network share.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn bridge(&self) -> Result<&Bridge, Error> {
        once(&self.bridge, || Ok(Bridge::new(self.choice.reach)?))
    }

    /// The bridge in plain words, for a cell's declared state.
    pub fn bridge_state(&self) -> String {
        let leads_to = reach_state(self.choice.reach);
        match self.bridge.get() {
            Some(bridge) => format!(
                "bridge {} is there with the host's address {}/{}; it leads to {leads_to}",
                bridge.name(),
                bridge.gateway(),
                bridge.prefix()
            ),
            None => "there is no bridge".to_owned(),
        }
    }

    /// A new, empty directory in which one cell's boxes may write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new_scratch_dir(&self) -> Result<PathBuf, Error> {
        new_dir(self.directory.path())
    }

    /// The same for an assignment's scratch space: in memory where it asks for that and files
    /// there can be read directly, which takes Linux 6.6.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new_scratch_dir_for(&self, assignment: &Assignment) -> Result<PathBuf, Error> {
        let memory = if assignment.in_memory { self.memory_directory()? } else { None };
        let memory = memory.filter(|directory| allows_direct(directory.path()));
        new_dir(memory.unwrap_or(&self.directory).path())
    }

    /// A new, empty directory for files that are to be in the host's memory, if they can.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new_memory_dir(&self) -> Result<PathBuf, Error> {
        new_dir(self.memory_directory()?.unwrap_or(&self.directory).path())
    }

    fn memory_directory(&self) -> Result<Option<&RunDir>, Error> {
        let directory = once(&self.memory_directory, || Ok(RunDir::in_memory().ok()))?;
        Ok(directory.as_ref())
    }
}

/// The type of the file system that holds a path, as far as its magic number is known (statfs(2)).
pub fn file_system_of(path: &Path) -> String {
    let magic = nix::sys::statfs::statfs(path).map(|statfs| statfs.filesystem_type().0);
    match magic {
        Ok(0xef53) => "ext4".to_owned(),
        Ok(0x0102_1994) => "tmpfs".to_owned(),
        Ok(0x5846_5342) => "xfs".to_owned(),
        Ok(0x9123_683e) => "btrfs".to_owned(),
        Ok(0x794c_7630) => "overlay".to_owned(),
        Ok(other) => format!("a file system of type {other:#x}"),
        Err(_) => "an unknown file system".to_owned(),
    }
}

fn new_dir(parent: &Path) -> Result<PathBuf, Error> {
    let directory = tempfile::Builder::new()
        .prefix("scratch-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(io_error("cannot make a directory in", parent))?;
    Ok(directory.keep())
}

/// Whether files in a directory can be opened with O_DIRECT.
fn allows_direct(directory: &Path) -> bool {
    let flags = libc::O_DIRECT | libc::O_TMPFILE;
    fs::File::options().read(true).write(true).custom_flags(flags).open(directory).is_ok()
}

/// `OnceCell::get_or_try_init`, which is not stable yet.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// The disks of a microVM: ext4 images beside the scratch directories of the other backends.
#[derive(Debug, Default)]
pub struct GuestDisks {
    /// Image of the kit's root file system.
    pub root: Option<PathBuf>,
    /// An empty file system for the workload.
    pub scratch: Option<PathBuf>,
    scratch_bytes: Option<u64>,
}

impl GuestDisks {
    /// Makes the images that an assignment needs.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(kit: &Kit, assignment: &Assignment) -> Result<GuestDisks, Error> {
        let mut disks = GuestDisks::default();
        if !assignment.with_rootfs && assignment.scratch_mib.is_none() {
            return Ok(disks);
        }
        if assignment.with_rootfs {
            let path = kit.new_scratch_dir()?.join("root.ext4");
            match kit.image()? {
                // Guests write to it: each assignment has its own.
                Some(image) => image::copy_sparse(&image.disk()?, &path)
                    .map_err(io_error("cannot copy the image's disk to", &path))?,
                None => {
                    let tree = kit.rootfs()?;
                    let size_bytes = ext4::size_for(tree)? + ROOT_SLACK_BYTES;
                    let (path, tree) = (&path, Some(tree));
                    ext4::build(&ext4::Image { path, size_bytes, label: "root", tree })?;
                }
            }
            disks.root = Some(path);
        }
        if let Some(mib) = assignment.scratch_mib {
            let image = kit.new_scratch_dir_for(assignment)?.join("scratch.ext4");
            disks.scratch_bytes = Some(mib << 20);
            disks.scratch = Some(image);
            disks.reset()?;
        }
        Ok(disks)
    }

    /// Makes the scratch disk anew, as it was before the last box used it.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn reset(&self) -> Result<(), Error> {
        let (Some(path), Some(size_bytes)) = (&self.scratch, self.scratch_bytes) else {
            return Ok(());
        };
        Ok(ext4::build(&ext4::Image { path, size_bytes, label: "scratch", tree: None })?)
    }

    /// What lies beneath the scratch disk, for a cell's declared state.
    pub fn state(&self) -> Option<String> {
        let path = self.scratch.as_ref()?;
        Some(format!("scratch: a fresh ext4 disk image on {}", file_system_of(path)))
    }

    /// Tells the agent which block device is which: the root first, the scratch space after it.
    pub fn name_in(&self, job: &mut Job) {
        let mut devices = ["/dev/vda", "/dev/vdb"].into_iter().map(str::to_owned);
        if self.root.is_some() {
            job.root = devices.next();
        }
        if self.scratch.is_some() {
            job.scratch_device = devices.next();
            job.scratch = Some("/scratch".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_agent_is_a_static_elf() {
        assert_eq!(&AGENT[..4], b"\x7fELF");
        assert!(!AGENT.windows(8).any(|window| window == b"ld-linux"), "needs a dynamic loader");
    }

    #[test]
    fn test_new_scratch_dir_for_is_in_memory_where_it_is_asked_for_and_possible() {
        let kit = Kit::new(Choice::default()).unwrap();
        let assignment = |in_memory| Assignment {
            scratch_mib: Some(1),
            in_memory,
            direct: true,
            output: crate::backend::Output::Null,
            ..Assignment::new(Job::new(tare_workload::Channel::Com1, "file"))
        };
        let plain = kit.new_scratch_dir_for(&assignment(false)).unwrap();
        assert!(plain.starts_with(kit.directory.path()), "{}", plain.display());
        let memory = kit.new_scratch_dir_for(&assignment(true)).unwrap();
        assert_eq!(memory.starts_with("/dev/shm"), allows_direct(Path::new("/dev/shm")));
        drop(kit);
        assert!(!plain.exists() && !memory.exists());
    }
}
