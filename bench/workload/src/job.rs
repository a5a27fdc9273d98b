//! What a box is asked to do, in a form that fits on a command line.
//!
//! `channel=com1 workload=file block_bytes=4096 …`: the same words are the agent's arguments in a
//! process or container, and the text behind ` -- ` on a guest kernel's command line. Values are
//! percent-encoded, so that spaces, quotes and non-ASCII survive the kernel's own parser.
//!
//! | word | field |
//! |---|---|
//! | `channel=fd:N` or `channel=com1` | [`Job::channel`] |
//! | `workload=NAME` | [`Job::workload`] |
//! | `park=1` | [`Job::parks`] |
//! | `hold_ms=N` | [`Job::hold_ms`] |
//! | `modules=PATH`, `root=PATH`, `scratch=PATH`, `scratch_device=PATH` | the fields of these names |
//! | `stdio=fd:N` or `stdio=vsock:PORT`, `terminal=ROWSxCOLUMNS` | the fields of these names |
//! | `network=NAME,MAC,ADDRESS/PREFIX,GATEWAY` | [`Job::network`] |
//! | `peer=vsock:PORT` or `peer=tcp:ADDRESS:PORT` | [`Job::peer`] |
//! | `command=PROGRAM,ARGUMENT,…` | [`Job::command`]; a comma inside an argument is `%2C` |
//! | any other `key=value` | [`Job::parameters`] |

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::channel::Channel;
use crate::conversation::{Line, WindowSize};
use crate::exchange::Peer;
use crate::network::Network;
use crate::percent;
use crate::report::clipped;

/// Most words that a guest kernel hands to its init: `MAX_INIT_ARGS` (init/main.c) is 32, of which
/// the program's own name is one. With more the kernel panics.
pub const CMDLINE_WORDS_MAX: usize = 31;
/// A kernel's command line is at most this long on x86: `COMMAND_LINE_SIZE` less the final NUL.
pub const CMDLINE_MAX_BYTES: usize = 2047;
/// A job with more words is refused.
pub const JOB_WORDS_MAX: usize = 64;
/// A job with a longer word is refused. The kernel's own limit for an argument is 128 KiB.
pub const JOB_WORD_MAX_BYTES: usize = 128 << 10;

/// The word of [`Job::parks`]; the agent looks for it before it reads anything else.
pub const PARK_WORD: &str = "park=1";

/// A job: a workload by name, its parameters, and how to behave around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Where marks and results go.
    pub channel: Channel,
    /// Name of the workload, see [`find`](crate::find).
    pub workload: String,
    /// Parameters by name; what is absent takes the workload's default.
    pub parameters: BTreeMap<String, String>,
    /// Before `init`, stop at our VMM's renewal port, to be the template of other guests, which each
    /// go on from there (microVM only).
    pub parks: bool,
    /// Stay idle this long between `done` and the end, so that the host can weigh the box.
    pub hold_ms: u32,
    /// File of the initial RAM file system that lists kernel modules to insert first, one path a
    /// line (microVM only).
    pub modules: Option<String>,
    /// What holds the box's root file system: a block device for a microVM, a directory for a
    /// process, which changes its root into it.
    pub root: Option<String>,
    /// Directory in which workloads may create files.
    pub scratch: Option<String>,
    /// Block device to mount on `scratch` first (microVM only).
    pub scratch_device: Option<String>,
    /// Who the box is on its network, where it has one of its own: the agent gives it to the interface
    /// before all else, so that copies of one guest are not all the same.
    pub network: Option<Network>,
    /// The program of the host that the box exchanges data with.
    pub peer: Option<Peer>,
    /// Command to run, for the workload `run`: program and arguments.
    pub command: Vec<String>,
    /// The socket that carries the command's standard streams, where they are not the agent's own.
    pub stdio: Option<Line>,
    /// Size of the terminal that the command gets, if it gets one; only with `stdio`.
    pub terminal: Option<WindowSize>,
}

/// A job's words could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Not of the form `key=value`.
    #[error("'{0}' is not of the form key=value")]
    NotAPair(String),
    /// A value is not valid percent-encoding or not valid for its key.
    #[error("{key}={value} is not valid: {why}")]
    Value {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What was expected.
        why: &'static str,
    },
    /// A key occurs twice.
    #[error("'{0}=' is given twice")]
    Twice(String),
    /// `workload=` or `channel=` is absent.
    #[error("the job does not say '{0}='")]
    Missing(&'static str),
    /// There are more words than [`JOB_WORDS_MAX`], or for a kernel command line more than
    /// [`CMDLINE_WORDS_MAX`].
    #[error("the job has {words} words and at most {most} are possible")]
    Words {
        /// How many there are.
        words: usize,
        /// How many there may be.
        most: usize,
    },
    /// A word is over [`JOB_WORD_MAX_BYTES`], or a kernel command line over [`CMDLINE_MAX_BYTES`].
    #[error("the job has {bytes} bytes where at most {most} are possible; shorten its command")]
    Length {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
}

impl Job {
    /// A job that runs `workload` with its defaults.
    pub fn new(channel: Channel, workload: &str) -> Job {
        Job {
            channel,
            workload: workload.to_owned(),
            parameters: BTreeMap::new(),
            parks: false,
            hold_ms: 0,
            modules: None,
            root: None,
            scratch: None,
            scratch_device: None,
            network: None,
            peer: None,
            command: Vec::new(),
            stdio: None,
            terminal: None,
        }
    }

    /// The same with a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Job {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The job as the agent's arguments, without the program's own name.
    pub fn to_words(&self) -> Vec<String> {
        let channel = match self.channel {
            Channel::Fd(fd) => alloc::format!("channel=fd:{fd}"),
            Channel::Com1 => "channel=com1".to_owned(),
        };
        let mut words = alloc::vec![channel, pair("workload", &self.workload)];
        if self.parks {
            words.push(PARK_WORD.to_owned());
        }
        if self.hold_ms > 0 {
            words.push(alloc::format!("hold_ms={}", self.hold_ms));
        }
        for (key, value) in [
            ("modules", &self.modules),
            ("root", &self.root),
            ("scratch", &self.scratch),
            ("scratch_device", &self.scratch_device),
        ] {
            words.extend(value.as_ref().map(|value| pair(key, value)));
        }
        words.extend(self.network.as_ref().map(|network| alloc::format!("network={network}")));
        words.extend(self.peer.map(|peer| alloc::format!("peer={peer}")));
        words.extend(self.stdio.map(|line| alloc::format!("stdio={line}")));
        words.extend(self.terminal.map(|size| alloc::format!("terminal={size}")));
        if !self.command.is_empty() {
            let arguments: Vec<_> = self.command.iter().map(|word| percent::encode(word)).collect();
            words.push(alloc::format!("command={}", arguments.join(",")));
        }
        words.extend(self.parameters.iter().map(|(name, value)| pair(name, value)));
        words
    }

    /// The job as the part of a guest kernel's command line that follows ` -- `.
    ///
    /// # Errors
    /// [`JobError::Words`] or [`JobError::Length`] if it alone is over what a kernel takes; the
    /// kernel's own options come on top.
    pub fn to_cmdline(&self) -> Result<String, JobError> {
        let words = self.to_words();
        if words.len() > CMDLINE_WORDS_MAX {
            return Err(JobError::Words { words: words.len(), most: CMDLINE_WORDS_MAX });
        }
        let line = words.join(" ");
        if line.len() > CMDLINE_MAX_BYTES {
            return Err(JobError::Length { bytes: line.len(), most: CMDLINE_MAX_BYTES });
        }
        Ok(line)
    }

    /// Reads a job from the agent's arguments.
    ///
    /// # Errors
    /// [`JobError`] for the first word that is not understood.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Job, JobError> {
        let (mut channel, mut workload) = (None, None);
        let mut job = Job::new(Channel::Com1, "");
        let mut seen = Vec::new();
        for (index, word) in words.into_iter().enumerate() {
            if index >= JOB_WORDS_MAX {
                return Err(JobError::Words { words: index + 1, most: JOB_WORDS_MAX });
            }
            if word.len() > JOB_WORD_MAX_BYTES {
                return Err(JobError::Length { bytes: word.len(), most: JOB_WORD_MAX_BYTES });
            }
            let (key, value) =
                word.split_once('=').ok_or_else(|| JobError::NotAPair(clipped(word)))?;
            if !is_key(key) {
                return Err(JobError::NotAPair(clipped(word)));
            }
            if seen.contains(&key) {
                return Err(JobError::Twice(clipped(key)));
            }
            seen.push(key);
            match key {
                "channel" => {
                    channel = Channel::from_word(word.as_bytes());
                    if channel.is_none() {
                        return Err(invalid(key, value, "it must be fd:NUMBER or com1"));
                    }
                }
                "workload" => workload = Some(decoded(key, value)?),
                "park" if word == PARK_WORD => job.parks = true,
                "park" => return Err(invalid(key, value, "it must be 1")),
                "hold_ms" => {
                    job.hold_ms = value.parse().map_err(|_| {
                        invalid(key, value, "it must be a whole number of milliseconds below 2^32")
                    })?;
                }
                "modules" => job.modules = Some(decoded(key, value)?),
                "root" => job.root = Some(decoded(key, value)?),
                "scratch" => job.scratch = Some(decoded(key, value)?),
                "scratch_device" => job.scratch_device = Some(decoded(key, value)?),
                "network" => {
                    let network = Network::parse(value);
                    let wrong =
                        || invalid(key, value, "it must be NAME,MAC,ADDRESS/PREFIX[,GATEWAY]");
                    job.network = Some(network.ok_or_else(wrong)?);
                }
                "peer" => {
                    let wrong = || invalid(key, value, "it must be vsock:PORT or tcp:ADDRESS:PORT");
                    job.peer = Some(Peer::parse(value).ok_or_else(wrong)?);
                }
                "stdio" => {
                    let line = Line::parse(value);
                    let wrong = || invalid(key, value, "it must be fd:NUMBER or vsock:PORT");
                    job.stdio = Some(line.ok_or_else(wrong)?);
                }
                "terminal" => {
                    let size = WindowSize::parse(value);
                    let wrong = || invalid(key, value, "it must be ROWSxCOLUMNS");
                    job.terminal = Some(size.ok_or_else(wrong)?);
                }
                "command" => {
                    job.command = value
                        .split(',')
                        .map(|word| decoded(key, word))
                        .collect::<Result<_, _>>()?;
                }
                _ => {
                    job.parameters.insert(key.to_owned(), decoded(key, value)?);
                }
            }
        }
        job.channel = channel.ok_or(JobError::Missing("channel"))?;
        job.workload = workload.ok_or(JobError::Missing("workload"))?;
        Ok(job)
    }
}

/// Keys that are no parameters of a workload.
#[cfg(test)]
pub(crate) const RESERVED_KEYS: [&str; 13] = [
    "channel",
    "park",
    "workload",
    "hold_ms",
    "modules",
    "root",
    "scratch",
    "scratch_device",
    "network",
    "peer",
    "stdio",
    "terminal",
    "command",
];

fn pair(key: &str, value: &str) -> String {
    alloc::format!("{key}={}", percent::encode(value))
}

fn decoded(key: &str, value: &str) -> Result<String, JobError> {
    percent::decode(value).map_err(|why| invalid(key, value, why))
}

fn invalid(key: &str, value: &str, why: &'static str) -> JobError {
    JobError::Value { key: clipped(key), value: clipped(value), why }
}

fn is_key(key: &str) -> bool {
    (1..=48).contains(&key.len())
        && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<Job, JobError> {
        Job::parse(line.split(' '))
    }

    #[test]
    fn test_job_reads_like_its_documentation() {
        let line = "channel=com1 workload=run hold_ms=5 root=/dev/vda command=/bin/echo,a%2Cb,,%20";
        let mut job = Job::new(Channel::Com1, "run");
        job.hold_ms = 5;
        job.root = Some("/dev/vda".to_string());
        job.command = ["/bin/echo", "a,b", "", " "].map(str::to_string).to_vec();
        assert_eq!(parse(line), Ok(job.clone()));
        assert_eq!(job.to_cmdline().unwrap(), line);
    }

    #[test]
    fn test_unknown_key_is_a_parameter_of_the_workload() {
        let job = parse("channel=fd:3 workload=file block_bytes=4096").unwrap();
        assert_eq!(job, Job::new(Channel::Fd(3), "file").with("block_bytes", "4096"));
    }

    #[test]
    fn test_job_invalid_words_return_an_error_that_names_them() {
        for (line, text) in [
            ("workload=start", "the job does not say 'channel='"),
            ("channel=com1", "the job does not say 'workload='"),
            ("channel=com1 workload=start quiet", "'quiet' is not of the form key=value"),
            ("channel=com1 workload=start =1", "'=1' is not of the form key=value"),
            ("channel=com1 workload=start A=1", "'A=1' is not of the form key=value"),
            ("channel=com1 workload=a workload=b", "'workload=' is given twice"),
            (
                "channel=fd:-1 workload=a",
                "channel=fd:-1 is not valid: it must be fd:NUMBER or com1",
            ),
            ("channel=com2 workload=a", "channel=com2 is not valid: it must be fd:NUMBER or com1"),
            ("channel=com1 workload=a park=yes", "park=yes is not valid: it must be 1"),
            (
                "channel=com1 workload=a hold_ms=-1",
                "hold_ms=-1 is not valid: it must be a whole number of milliseconds below 2^32",
            ),
            (
                "channel=com1 workload=a x=%4",
                "x=%4 is not valid: a percent sign must be followed by two hexadecimal digits",
            ),
            (
                "channel=com1 workload=a command=a%00b",
                "command=a%00b is not valid: a NUL cannot be part of it",
            ),
            (
                "channel=com1 workload=a stdio=com1",
                "stdio=com1 is not valid: it must be fd:NUMBER or vsock:PORT",
            ),
            (
                "channel=com1 workload=a peer=udp:1",
                "peer=udp:1 is not valid: it must be vsock:PORT or tcp:ADDRESS:PORT",
            ),
            (
                "channel=com1 workload=a terminal=80",
                "terminal=80 is not valid: it must be ROWSxCOLUMNS",
            ),
            (
                "channel=com1 workload=a network=eth0",
                "network=eth0 is not valid: it must be NAME,MAC,ADDRESS/PREFIX[,GATEWAY]",
            ),
            ("channel=com1 workload=a x=%ff", "x=%ff is not valid: it is not UTF-8"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), text, "{line}");
        }
    }

    #[test]
    fn test_job_too_long_for_a_kernel_returns_words_or_length() {
        let mut job = Job::new(Channel::Com1, "run");
        job.command = std::vec!["x".repeat(3000)];
        assert!(matches!(job.to_cmdline(), Err(JobError::Length { most: 2047, .. })));
        let mut job = Job::new(Channel::Com1, "start");
        for n in 0..30 {
            job = job.with(&std::format!("p{n}"), "1");
        }
        assert_eq!(job.to_cmdline(), Err(JobError::Words { words: 32, most: 31 }));
        let words = std::vec!["a=1"; 65];
        assert!(matches!(Job::parse(words), Err(JobError::Twice(_))));
        let words: Vec<_> = (0..65).map(|n| std::format!("a{n}=1")).collect();
        let error = Job::parse(words.iter().map(String::as_str)).unwrap_err();
        assert_eq!(error, JobError::Words { words: 65, most: 64 });
    }

    prop_compose! {
        fn any_job()(
            channel in prop_oneof![Just(Channel::Com1), (0..1000).prop_map(Channel::Fd)],
            workload in "[^\0]{0,8}",
            parameters in proptest::collection::btree_map("p[a-z0-9_]{1,12}", "[^\0]{0,12}", 0..6),
            parks in any::<bool>(),
            hold_ms in any::<u32>(),
            paths in proptest::array::uniform4(proptest::option::of("[^\0]{0,12}")),
            command in proptest::collection::vec("[^\0]{0,12}", 0..5),
            peer in proptest::option::of(prop_oneof![
                any::<u32>().prop_map(Peer::Vsock),
                any::<([u8; 4], u16)>().prop_map(|(address, port)| Peer::Tcp(address, port)),
            ]),
            stdio in proptest::option::of(any::<u32>().prop_map(Line::Vsock)),
            terminal in proptest::option::of(any::<(u16, u16)>()),
            network in proptest::option::of(any::<(u8, [u8; 4], Option<[u8; 4]>)>()),
        ) -> Job {
            let [modules, root, scratch, scratch_device] = paths;
            let network = network.map(|(mac, address, gateway)| Network {
                interface: "eth0".to_string(),
                mac: [2, mac, 0, 0, 0, 1],
                address,
                prefix: mac % 33,
                gateway,
            });
            let terminal = terminal.map(|(rows, columns)| WindowSize { rows, columns });
            Job {
                channel, workload, parameters, parks, hold_ms, modules, root, scratch,
                scratch_device, network, peer, command, stdio, terminal,
            }
        }
    }

    proptest! {
        #[test]
        fn test_any_job_round_trips_through_words(job in any_job()) {
            let words = job.to_words();
            prop_assert_eq!(Job::parse(words.iter().map(String::as_str)), Ok(job));
        }

        #[test]
        fn test_any_job_round_trips_through_a_plain_ascii_line(job in any_job()) {
            if let Ok(line) = job.to_cmdline() {
                prop_assert!(line.bytes().all(|byte| (b'!'..=b'~').contains(&byte) || byte == b' '));
                prop_assert!(!line.contains(['"', '\'']));
                prop_assert_eq!(parse(&line), Ok(job));
            }
        }

        #[test]
        fn test_any_words_parse_without_panic(words in proptest::collection::vec(".{0,20}", 0..8)) {
            let _ = Job::parse(words.iter().map(String::as_str));
        }
    }
}
