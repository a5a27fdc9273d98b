//! The claims of the comparison of virtual machines with Docker, and what decides each.

/// "Milliseconds": below a tenth of a second, which a person takes for at once (Miller, "Response
/// time in man-computer conversational transactions", 1968).
const AT_ONCE_NS: f64 = 100e6;
const AT_ONCE: &str =
    "100 ms: below a tenth of a second a person takes it for at once (Miller 1968)";

/// "Minutes": the least that the word can mean.
const A_MINUTE_NS: f64 = 60e9;
const A_MINUTE: &str = "60 s: the least that \"minutes\" can mean";

/// Differences below 5 % say nothing of what is compared: the order of object files in a link or
/// the size of the environment alone does as much to a program (Mytkowicz and others, "Producing
/// wrong data without doing anything obviously wrong!", 2009).
const PRACTICAL: f64 = 1.05;
const PRACTICALLY_MORE: &str =
    "1.05 ×: below 5 % link order and environment size alone make a difference (Mytkowicz 2009)";

/// A kernel that answers half the calls still offers half the ways in; less than that is another
/// kind of wall. Counted are kinds of calls, which do not vary by chance.
const HALF: f64 = 0.5;
const LESS_THAN_HALF: &str = "0.5 ×: with half the calls, half the ways into the kernel are left";

/// A claim, and what decides it.
#[derive(Debug)]
pub struct Claim {
    /// Stable identifier.
    pub id: &'static str,
    /// The old statement, in plain words.
    pub statement: &'static str,
    /// What is measured to decide it.
    pub experiment: &'static str,
    /// The threshold in words, and why it lies there.
    pub threshold: &'static str,
    /// What was found, in a plain sentence with `{}` for the effect.
    pub words: &'static str,
    /// How the figures decide.
    pub rule: Rule,
}

/// How figures decide a claim.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// The median start-up time, `launch` to `init`, of a backend is below the limit.
    StartsWithin {
        /// The backend.
        backend: &'static str,
        /// The limit.
        limit_ns: f64,
    },
    /// The median start-up time, `launch` to `init`, of a backend is at least the limit.
    StartsNotBefore {
        /// The backend.
        backend: &'static str,
        /// The limit.
        limit_ns: f64,
    },
    /// The microVM costs more than `factor` times what the container costs: the geometric mean,
    /// over the metrics, of the ratios of medians, each taken so that more is worse.
    MicrovmCostsMore {
        /// The workload.
        workload: &'static str,
        /// A key of the variant and its value, where the workload has several.
        variant: Option<(&'static str, &'static str)>,
        /// The metrics.
        metrics: &'static [&'static str],
        /// The threshold.
        factor: f64,
        /// What the metrics depend on.
        quantity: Quantity,
    },
    /// A microVM ships more than `factor` times the bytes that a container ships for the same program.
    ShipsMore {
        /// The threshold.
        factor: f64,
    },
    /// A program in a microVM reaches fewer than `share` of the system calls of the host's kernel that
    /// it reaches in a container.
    ReachesLess {
        /// The threshold.
        share: f64,
    },
    /// This run has no experiment for it.
    NoExperiment,
}

/// What a cost depends on, which decides what virtual time can say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Time, of which instructions are the better part.
    Time,
    /// Time, of which caches and TLBs are the better part.
    HardwareTime,
    /// Bytes.
    Size,
}

const fn not_measured(
    id: &'static str,
    statement: &'static str,
    experiment: &'static str,
) -> Claim {
    Claim { id, statement, experiment, threshold: "", words: "", rule: Rule::NoExperiment }
}

/// Every claim, in the order of reports.
pub const CLAIMS: &[Claim] = &[
    Claim {
        id: "container-starts-in-milliseconds",
        statement: "A container starts in milliseconds.",
        experiment: "container, workload start: launch to init",
        threshold: AT_ONCE,
        words: "A container is up after {}.",
        rule: Rule::StartsWithin { backend: "container", limit_ns: AT_ONCE_NS },
    },
    Claim {
        id: "vm-needs-minutes",
        statement: "A virtual machine needs minutes to start.",
        experiment: "microVM, workload start: launch to init",
        threshold: A_MINUTE,
        words: "A virtual machine is up after {}.",
        rule: Rule::StartsNotBefore { backend: "microvm", limit_ns: A_MINUTE_NS },
    },
    Claim {
        id: "container-starts-faster",
        statement: "A container starts faster than a virtual machine.",
        experiment: "workload start: launch to init, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "A virtual machine takes {} as long to start as a container.",
        rule: Rule::MicrovmCostsMore {
            workload: "start",
            variant: None,
            metrics: &["launch_to_init_ns"],
            factor: PRACTICAL,
            quantity: Quantity::Time,
        },
    },
    Claim {
        id: "container-needs-less-memory",
        statement: "A virtual machine wastes memory: a container needs less.",
        experiment: "an idle box: PSS of its host processes and the guest RAM that was touched, \
                     microVM ÷ container (kernel memory of the host is shown apart)",
        threshold: PRACTICALLY_MORE,
        words: "An idle virtual machine holds {} the memory of an idle container.",
        rule: Rule::MicrovmCostsMore {
            workload: "start",
            variant: None,
            metrics: &["memory_box_bytes"],
            factor: PRACTICAL,
            quantity: Quantity::Size,
        },
    },
    Claim {
        id: "vm-computes-slower",
        statement: "Programs run slower in a virtual machine.",
        experiment: "workload cpu: integers, floating point, SHA-256, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "The same computation takes {} as long in a virtual machine as in a container.",
        rule: Rule::MicrovmCostsMore {
            workload: "cpu",
            variant: None,
            metrics: &["integer_ns", "float_ns", "sha256_bytes_per_s"],
            factor: PRACTICAL,
            quantity: Quantity::Time,
        },
    },
    Claim {
        id: "vm-memory-slower",
        statement: "Programs reach their memory more slowly in a virtual machine.",
        experiment: "workload cpu: bandwidth of reading, writing, copying, and latency, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "Reaching memory takes {} as long in a virtual machine as in a container.",
        rule: Rule::MicrovmCostsMore {
            workload: "cpu",
            variant: None,
            metrics: &["read_bytes_per_s", "write_bytes_per_s", "copy_bytes_per_s", "latency_ns"],
            factor: PRACTICAL,
            quantity: Quantity::HardwareTime,
        },
    },
    Claim {
        id: "container-file-io-faster-buffered",
        statement: "File I/O is faster in a container (through the page cache).",
        experiment: "workload file, buffered: nine operations on data and names, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "File operations through the page cache take {} as long in a virtual machine as in a container.",
        rule: file_io(("direct", "0")),
    },
    Claim {
        id: "container-file-io-faster-direct",
        statement: "File I/O is faster in a container (past the page cache).",
        experiment: "workload file, O_DIRECT: nine operations on data and names, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "File operations past the page cache take {} as long in a virtual machine as in a container.",
        rule: file_io(("direct", "1")),
    },
    Claim {
        id: "more-containers-fit",
        statement: "More containers than virtual machines fit on one host.",
        experiment: "memory that each of ten boxes adds to the host, all alive and each having run its program, kernel \
                     memory included and what they share counted once, microVM ÷ container",
        threshold: PRACTICALLY_MORE,
        words: "A virtual machine takes {} the memory of its host that a container takes: as many more containers fit.",
        rule: Rule::MicrovmCostsMore {
            workload: "start",
            variant: Some(("live", "10")),
            metrics: &["each_system_bytes"],
            factor: PRACTICAL,
            quantity: Quantity::Size,
        },
    },
    Claim {
        id: "vm-ships-an-os",
        statement: "A virtual machine ships a full operating system, a container only the application.",
        experiment: "bytes that must be there for the same program: guest kernel and initramfs for a microVM, the program \
                     for a container",
        threshold: PRACTICALLY_MORE,
        words: "For the same program a virtual machine ships {} the bytes.",
        rule: Rule::ShipsMore { factor: PRACTICAL },
    },
    not_measured(
        "container-layers-shared",
        "Containers share the layers of their images.",
        "bytes on disk and in memory for many images with common layers",
    ),
    not_measured(
        "same-environment",
        "A container gives the same environment everywhere.",
        "digest of the file tree and observable environment, on several hosts",
    ),
    not_measured(
        "image-built-from-file",
        "A container's image is built from a file and serves continuous integration.",
        "time from a changed source line to a running box",
    ),
    not_measured(
        "container-moves-easily",
        "A container moves to another host more easily.",
        "bytes moved and time until it runs elsewhere",
    ),
    not_measured(
        "limits-hold",
        "Control groups limit a container's resources.",
        "a workload that asks for more memory, CPU and processes than its limit",
    ),
    Claim {
        id: "vm-isolates-better",
        statement: "A virtual machine isolates better.",
        experiment: "workload reach: system calls of the host's own kernel that a program in the box can make, \
                     microVM ÷ container; the host's kernel is told by the number of its boot",
        threshold: LESS_THAN_HALF,
        words: "A program in a virtual machine can make {} as many kinds of calls to the host's kernel as one in a container.",
        rule: Rule::ReachesLess { share: HALF },
    },
];

const fn file_io(variant: (&'static str, &'static str)) -> Rule {
    Rule::MicrovmCostsMore {
        workload: "file",
        variant: Some(variant),
        metrics: &[
            "seqread_bytes_per_s",
            "randread_ns",
            "seqwrite_bytes_per_s",
            "seqwrite_sync_bytes_per_s",
            "randwrite_ns",
            "fsync_ns",
            "create_ns",
            "stat_ns",
            "unlink_ns",
        ],
        factor: PRACTICAL,
        quantity: Quantity::Time,
    }
}
