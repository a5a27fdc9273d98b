//! Recipes: ways to run a workload, each for any backend.
//!
//! Sizes differ between a machine and the lab: there each instruction is emulated, at a hundredth
//! of a machine's speed, and a sample repeats itself to the nanosecond, so little work and few
//! replicates say as much.

use std::collections::BTreeMap;
use std::time::Duration;

use tare_container::Limits;
use tare_kernels::Variant;
use tare_workload::{Channel, Job, ParameterError, Params};

use crate::backend::{self, Assignment, Output, Transport, Wiring};
use crate::harness::{Act, CellPlan, Lifecycle};
use crate::statistics::MEDIAN_INTERVAL_MIN;

/// Long enough for the harness to read the account of an idle box, on a slow machine too.
pub const WEIGH_MS: u32 = 100;

/// Longer than any crowd takes to be launched and weighed; it is ended then.
const CROWD_MS: u32 = 3_600_000;

/// Room for the files of the workload `file` and its file system, in MiB.
const SCRATCH_MIB: u64 = 64;

/// Parameters or words of a variant, by name.
pub type Pairs = &'static [(&'static str, &'static str)];

/// One way to run a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Name of the workload.
    pub workload: &'static str,
    /// What tells its cells from others of the same workload.
    pub variant: Pairs,
    /// Parameters everywhere.
    pub always: Pairs,
    /// More parameters in the lab; on a machine the workload's defaults.
    pub lab: Pairs,
    /// The box rests this long after `done` and is weighed meanwhile.
    pub weigh_ms: Option<u32>,
    /// The variant of guest kernel, where it is not the run's.
    pub kernel: Option<&'static Variant>,
    /// What a replicate does.
    pub act: Act,
    /// Whether the scratch space lies in the host's memory, if it can.
    pub in_memory: bool,
    /// Whether the scratch space's own caching is avoided below the box (O_DIRECT).
    pub is_direct: bool,
    /// By what the box talks with a program of the host, where the workload does.
    pub transport: Option<Transport>,
    /// The box's network.
    pub wiring: Wiring,
    /// What the box may use at most.
    pub limits: Limits,
    /// Rest before each launch, where it is not the run's.
    pub gap_ms: Option<u32>,
}

/// Bulk data to the host and from it, by virtual socket.
pub const STREAM_VSOCK: Recipe = by(Transport::Vsock, "stream", STREAM_LAB);
/// The same over a network.
pub const STREAM_NET: Recipe = by(Transport::Net, "stream", STREAM_LAB);
/// Messages to the host and back, by virtual socket.
pub const ROUNDTRIP_VSOCK: Recipe = by(Transport::Vsock, "roundtrip", ROUNDTRIP_LAB);
/// The same over a network.
pub const ROUNDTRIP_NET: Recipe = by(Transport::Net, "roundtrip", ROUNDTRIP_LAB);

const STREAM_LAB: Pairs = &[("bytes", "4194304"), ("repeats", "2")];
const ROUNDTRIP_LAB: Pairs = &[("count", "100")];

const fn by(transport: Transport, workload: &'static str, lab: Pairs) -> Recipe {
    let variant: Pairs = match transport {
        Transport::Vsock => &[("transport", "vsock")],
        Transport::Net => &[("transport", "net")],
    };
    let wiring = match transport {
        Transport::Vsock => Wiring::None,
        Transport::Net => Wiring::Pooled,
    };
    Recipe { variant, lab, transport: Some(transport), wiring, ..Recipe::plain(workload) }
}

/// What a run settles for all its cells.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Samples of each cell that is a plain start.
    pub start_replicates: u32,
    /// Samples of each other cell.
    pub other_replicates: u32,
    /// Memory of a microVM, in MiB.
    pub memory_mib: u64,
    /// Whether this host is the lab.
    pub is_lab: bool,
}

/// A recipe cannot be carried out by this build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workload is not there.
    #[error("there is no workload '{0}'")]
    NoWorkload(&'static str),
    /// The backend is not there.
    #[error("there is no backend '{0}'")]
    NoBackend(String),
    /// The workload does not take a parameter.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

impl Recipe {
    /// A workload with its defaults.
    pub const fn plain(workload: &'static str) -> Recipe {
        Recipe {
            workload,
            variant: &[],
            always: &[],
            lab: &[],
            weigh_ms: None,
            kernel: None,
            act: Act::Launch,
            in_memory: false,
            is_direct: false,
            transport: None,
            wiring: Wiring::None,
            limits: Limits { memory_bytes: None, cpu: None, pids: None, accounting: false },
            gap_ms: None,
        }
    }

    /// The variant as it stands in the results.
    pub fn variant(&self) -> BTreeMap<String, String> {
        self.variant.iter().map(owned).collect()
    }

    /// The cell of this recipe in a backend.
    ///
    /// # Errors
    /// [`Error`].
    pub fn cell(&self, backend: &str, setting: Setting) -> Result<CellPlan, Error> {
        let workload =
            tare_workload::find(self.workload).ok_or(Error::NoWorkload(self.workload))?;
        let backend = backend::find(backend).ok_or_else(|| Error::NoBackend(backend.to_owned()))?;
        let mut job = Job::new(Channel::Com1, self.workload);
        job.hold_ms = match self.act {
            Act::Crowd(_) => CROWD_MS,
            Act::Lifecycle(lifecycle) if lifecycle.stays() => CROWD_MS,
            Act::Launch | Act::Series(_) | Act::Capture | Act::Unpack | Act::Lifecycle(_) => {
                self.weigh_ms.unwrap_or(0)
            }
        };
        let sizes = if setting.is_lab { self.lab } else { &[] };
        job.parameters = self.always.iter().chain(sizes).map(owned).collect();
        workload.check(&Params::new(workload, &job.parameters)?)?;
        let is_launch = matches!(self.act, Act::Launch | Act::Lifecycle(Lifecycle::Isolated(_)));
        let is_plain_start = self.workload == "start" && self.weigh_ms.is_none() && is_launch;
        Ok(CellPlan {
            backend,
            workload,
            assignment: Assignment {
                job,
                kernel: self.kernel,
                memory_mib: setting.memory_mib,
                with_rootfs: false,
                scratch_mib: workload.needs_scratch().then_some(SCRATCH_MIB),
                in_memory: self.in_memory,
                direct: self.is_direct,
                transport: self.transport,
                wiring: self.wiring,
                limits: self.limits,
                unpacks: self.act == Act::Unpack,
                output: Output::Null,
            },
            variant: self.variant(),
            replicates: match self.act {
                _ if is_plain_start => setting.start_replicates,
                // Each takes many seconds.
                Act::Unpack => setting.other_replicates.min(MEDIAN_INTERVAL_MIN as u32),
                _ => setting.other_replicates,
            },
            weigh: self.weigh_ms.is_some(),
            act: self.act,
            gap: self.gap_ms.map(|gap_ms| Duration::from_millis(gap_ms.into())),
        })
    }
}

fn owned((key, value): &(&str, &str)) -> (String, String) {
    ((*key).to_owned(), (*value).to_owned())
}
