//! All that can be done before a microVM is launched.
//!
//! What a launch costs up to the first `KVM_RUN`, and a boot up to init, in ms of the lab's virtual
//! time (`tare compare --host lab --on microvm --workload start --replicates 1`: 128 MiB, practical
//! kernel of 4 MB in five large pages, host Linux 6.12 with `init_on_alloc=1`):
//!
//! | what | enter | init |
//! |---|---|---|
//! | files parsed and read by the launch, initramfs at the top of RAM | 6.02 | 22.41 |
//! | packed image, copied from its mapping; initramfs behind the kernel | 5.39* | 21.77* |
//! | CPUID asked for beforehand: as kept | 5.29 | 21.52 |
//! | instead: image mapped copy-on-write, faulted in pages of 4 KiB | 1.05* | 30.20* |
//! | instead: low 2 MiB in small pages | 4.85* | 23.54* |
//! | instead: boot data behind the kernel, low 2 MiB left to the guest | 4.73 | 23.88 |
//! | as kept, on a lab host with `init_on_alloc=0` | 3.31 | 18.68 |
//!
//! `*`: with stamps in the code, which add 0.02 to the first figure and 0.23 to the second.
//!
//! A large page costs 0.57 with `init_on_alloc=1`, about half without. The low 2 MiB are better
//! touched by the VMM: left to the guest they end up in small pages, presumably because the guest
//! reads there first, and cost it more than the large page costs the VMM.
//!
//! Where a launch spends its time up to there, in the jail that `tare` gives its VMM, in µs (release
//! build; stamps in the code; practical kernel of 4.5 MB in three large pages):
//!
//! | step | before | now | what changed |
//! |---|---|---|---|
//! | fork of the harness, into namespaces | 261 | 149 | mounts, names, IPC and network are made once and entered |
//! | its signals and descriptors | 50 | 80 | |
//! | devices, guest RAM mapped | 96 | 87 | |
//! | KVM: VM 215, controllers 117, vCPU | 493 | 460 | no CPUID entries of zeros: the vCPU takes 90 instead of 126 |
//! | the same in a cgroup of its own | | +120 | its memory is accounted from the first object on |
//! | image: four large pages 2,250, copy 580 | 2,903 | 2,918 | |
//! | registers | 25 | 30 | |
//! | jail | 178 | 55 | as above; and no bounding set to empty |
//! | seccomp filter | 423 | 178 | words instead of a tree, made beforehand |
//!
//! A restore has the first and last of these in common, and does not ask the disk any more for pages
//! of the working set (73 written, 282 read) that are in memory. With a cgroup, which `tare` makes before the launch (120 µs where a launch makes it), in
//! ms:
//!
//! | what | enter before | now | init before | now |
//! |---|---|---|---|---|
//! | boot | 4.37 | 4.05 | 20.62 | 20.40 |
//! | restore from files | 2.70 | 2.02 | 3.76 | 3.13 |
//! | restore from an open snapshot | 2.08 | 1.75 | 2.73 | 2.47 |
//!
//! Later, with a practical kernel of 4.46 MiB (medians of two or three samples, in ms):
//!
//! | what | enter | init |
//! |---|---|---|
//! | boot | 4.05 | 16.04 |
//! | image copied by vectors, which is fewer instructions and no more than that | 3.84 | 15.8 |
//! | boot in memory filled before ([`Prepared::fill`]), in the 14 MiB that a guest comes to | 1.26 | 11.57 |
//! | restore from files of ext4 | 2.07 | 3.25 |
//! | restore from files of tmpfs, in large pages | 2.09 | 3.04 |
//! | the same, not asked whether they are in memory, mapped without slack | 2.06 | 3.01 |
//!
//! And then, of a boot and of a restore from files of tmpfs, in ms, a sample or two each. They are not
//! to be trusted further than that: in another round a single boot took 1.8 more up to `enter`
//! (5.00 and 17.2; `bare` 3.30 and 12.3), and why is not known.
//!
//! | what | enter | init | done to exit |
//! |---|---|---|---|
//! | boot as it was | 3.90 | 15.8 | 26.5 |
//! | boot data in small pages, no RAM for the guest beside them up to 2 MiB; copied by 16 vectors at a time, not 4 | 3.41 | 15.5 | 27.0 |
//! | the same with `bare` (was 12.0) | 2.66 | 11.6 | 26.4 |
//! | and no 8254 timer, whose kernel thread the end of the VM waits for | 3.20 | 15.3 | 12.6 |
//! | restore as it was | 2.08 | 3.04 | 28.0 |
//! | restore without that timer | 1.95 | 2.90 | 9.9 |
//!
//! What is left of `enter` with the practical kernel are three large pages of 0.56 (1.68), the copy
//! (0.32), and 1.2 for the rest, by the host's trace points: `KVM_CREATE_VM` 0.30, of which two thirds
//! are its 60 files in debugfs; clone3 0.12; 35 page faults of the fork 0.25; the seccomp filter 0.18;
//! interrupt controllers 0.09; what the harness does meanwhile on the same processor 0.03; the vCPU
//! 0.09; the jail 0.08.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use crate::boot::{self, Image};
use crate::confine::Filters;
use crate::layout::VIRTIO_IRQS;
use crate::{BlockError, Config, Error, NetBackend, cpu, devices, kvm, memory};

/// A microVM that is checked and laid out, to be launched as often as wanted
/// ([`Vmm::launch`](crate::Vmm::launch)).
///
/// It holds the kernel, the initramfs and the boot data as they will lie in the guest, packed into
/// a sealed file in memory, what the vCPU says of itself, and the threads' seccomp filters. It holds
/// nothing of a guest that runs: no guest memory, no KVM object. Files of block devices are opened by each launch.
///
/// A process that closes what it does not need must keep the descriptor that [`AsFd`] shows.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) config: Config,
    pub(crate) image: Arc<Image>,
    pub(crate) identity: cpu::Identity,
    pub(crate) filters: Arc<Filters>,
    digest: OnceLock<[u8; 32]>,
}

impl Prepared {
    /// Checks a configuration, reads its files, and asks KVM what processor a guest may have.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`], [`Error::Block`] and [`Error::Boot`] for a configuration or file that
    /// cannot be used, [`Error::Kvm`] and [`Error::Cpu`] for a host that cannot run such
    /// guests.
    pub fn new(config: &Config) -> Result<Prepared, Error> {
        let irqs = interrupt_lines(devices::count(config))?;
        // ACPI tables name them too, and a kernel that knows both would find each twice.
        let announced = if config.acpi { &[] } else { irqs };
        let cmdline = boot::compose(&config.cmdline, announced)?;
        memory::check_size(config.memory_bytes, config.pages)?;
        cpu::check_count(config.vcpus)?;
        let image = Arc::new(boot::lay_out(config, &cmdline, irqs)?);
        let identity = cpu::Identity::new(&kvm::open()?, config.vcpus, config.cpu_profile)?;
        let vhost = config.nets.iter().any(|net| net.backend == NetBackend::Vhost);
        let filters = Arc::new(Filters::new(vhost)?);
        let config = config.clone();
        Ok(Prepared { config, image, identity, filters, digest: OnceLock::new() })
    }

    /// SHA-256 of all that the guest has in its memory when it begins; computed once.
    pub(crate) fn digest(&self) -> io::Result<[u8; 32]> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let digest = Sha256::digest(self.image.view()?.bytes()).into();
        Ok(*self.digest.get_or_init(|| digest))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl AsFd for Prepared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }
}

/// The interrupt lines of so many virtio devices.
pub(crate) fn interrupt_lines(count: usize) -> Result<&'static [u32], BlockError> {
    let limit = VIRTIO_IRQS.len();
    VIRTIO_IRQS.get(..count).ok_or(BlockError::TooMany { count, limit })
}
