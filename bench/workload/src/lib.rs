//! What runs in every box of tare, and what a box says to its host.
//!
//! A *workload* is one piece of work that tare runs as a process, in a container and in a microVM.
//! It is one file under `workloads/` and implements [`Workload`]: the host reads its description
//! (parameters, metrics, what it needs), and the agent in the box, `tare-guest`, prepares and runs
//! it. Both sides link this crate, so that neither can misunderstand the other:
//!
//! - a [`Job`] tells the agent what to do, as words on a command line;
//! - a [`Mark`] is a single byte by which the box says *now*;
//! - a [`Report`] carries the samples home, in a frame that the host's [`Decoder`] picks out of the
//!   stream;
//! - a [`Line`] carries a command's standard streams, both ways: `conversation.rs` has the rules.
//!
//! # Rules
//!
//! - The same code, with the same parameters, runs in every box. Nothing in a workload asks which
//!   box it is in.
//! - The span from `ready` to `done` holds the work and nothing else. Preparation comes before.
//! - Every sample is kept. Nothing is averaged away but groups of operations too short to be timed
//!   one by one, and their group is named.
//! - A workload checks its own results: a box that computes or stores wrongly is not fast.
//! - What comes from the box is hostile: the decoders here are bounded and never panic.
//! - No `std`: the agent is measured too, and a runtime that installs handlers, and 350 kB of
//!   panic machinery, would be part of every figure.
//!
//! # Example
//!
//! ```
//! use tare_workload::{Channel, Decoder, Event, Job, Mark, Report};
//!
//! // The host writes a job and starts a box with it …
//! let job = Job::new(Channel::Fd(3), "cpu").with("kernels", "integer");
//! assert_eq!(job.to_words(), ["channel=fd:3", "workload=cpu", "kernels=integer"]);
//!
//! // … and reads what the box sends.
//! let mut marks = Vec::new();
//! let mut decoder = Decoder::default();
//! decoder.push(&[0xF8, 0xF9], |event| {
//!     if let Event::Mark(mark) = event {
//!         marks.push(mark);
//!     }
//! })?;
//! assert_eq!(marks, [Mark::Init, Mark::Ready]);
//!
//! let report = Report::decode(b"integer_ns ns 1.25 1.5\n")?;
//! assert_eq!(report.metrics()[0].samples, [1.25, 1.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod channel;
mod clock;
mod conversation;
mod env;
mod error;
mod exchange;
mod frame;
mod job;
mod mark;
mod network;
mod parameter;
mod percent;
mod random;
mod report;
mod sys;
mod tree;
mod workload;
mod workloads;

pub use channel::Channel;
pub use conversation::{CONVERSATION_PORT, INPUT_WINDOW_BYTES, Line, WindowSize};
pub use env::{Env, Outlet, Stdio};
pub use error::{Context, Errno, Error};
pub use exchange::{Peer, serve};
pub use frame::{
    Decoder, Event, FRAME_HEADER_BYTES, FRAME_PAYLOAD_MAX_BYTES, FRAME_START, FrameError,
    FrameKind, frame_header,
};
pub use job::{
    CMDLINE_MAX_BYTES, CMDLINE_WORDS_MAX, JOB_WORD_MAX_BYTES, JOB_WORDS_MAX, Job, JobError,
    PARK_WORD,
};
pub use mark::Mark;
pub use network::Network;
pub use parameter::{Parameter, ParameterError, Params};
pub use report::{
    METRIC_NAME_MAX_BYTES, Metric, REPORT_METRICS_MAX, REPORT_SAMPLES_MAX, Report, ReportError,
    Unit,
};
pub use tree::{Tree, tree_digest};
pub use workload::{Better, MetricSpec, Prepared, Workload};
pub use workloads::{all, find};
