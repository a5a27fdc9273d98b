//! What surrounds a workload in its box.

use alloc::string::String;

use crate::{Errno, FrameKind, Mark, Peer, WindowSize};

/// The way out of the box: where marks and frames go.
pub trait Outlet {
    /// Pushes a mark. It cannot fail visibly: a host that is gone kills the box anyway.
    fn mark(&self, mark: Mark);

    /// Sends a frame; a payload over [`FRAME_PAYLOAD_MAX_BYTES`](crate::FRAME_PAYLOAD_MAX_BYTES)
    /// is the caller's mistake and is cut.
    ///
    /// # Errors
    /// What the kernel answered.
    fn frame(&self, kind: FrameKind, payload: &[u8]) -> Result<(), Errno>;

    /// Keeps programs that are executed from here from inheriting the channel.
    ///
    /// # Errors
    /// What the kernel answered.
    fn seal(&self) -> Result<(), Errno>;
}

/// What the standard streams of a command are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Those of the agent: the host set them up.
    Inherit,
    /// Output goes through frames and input is empty: the box has one channel and no more.
    Frames,
    /// They go through a socket of their own, see [`Line`](crate::Line).
    Conversation {
        /// The socket. The workload may make it non-blocking.
        fd: i32,
        /// Size of the terminal that the command gets, if it gets one.
        terminal: Option<WindowSize>,
    },
}

/// What a workload finds in its box.
pub struct Env<'a> {
    /// Where marks and frames go.
    pub outlet: &'a dyn Outlet,
    /// Directory for files.
    pub scratch: Option<&'a str>,
    /// The program of the host that the box exchanges data with.
    pub peer: Option<Peer>,
    /// Command to run: program and arguments.
    pub command: &'a [String],
    /// What the standard streams of a command are.
    pub stdio: Stdio,
}
