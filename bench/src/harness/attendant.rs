//! Who is served beside a box while the harness waits for it.

use std::io;

use nix::poll::PollFd;

use crate::backend::Instance;

/// The other side of a command's standard streams.
///
/// The harness has one thread and one place where it sleeps, so this waits for nothing itself.
pub trait Attendant {
    /// Takes what the command wrote: `true` for standard error.
    fn output(&mut self, is_stderr: bool, bytes: &[u8]);

    /// Whether it must be rid of output before it can take more: boxes are not heard meanwhile.
    fn is_full(&self) -> bool {
        false
    }

    /// Takes the news that so many bytes of input have left the agent.
    fn taken(&mut self, _bytes: u32) {}

    /// What is to wake the harness for it.
    fn polls<'a>(&'a self, _instance: &'a dyn Instance) -> Vec<PollFd<'a>> {
        Vec::new()
    }

    /// Does, after any wake, what can be done without waiting.
    ///
    /// # Errors
    /// What poll(2) says.
    fn serve(&mut self, _instance: &dyn Instance) -> io::Result<()> {
        Ok(())
    }
}

/// Drops output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nobody;

impl Attendant for Nobody {
    fn output(&mut self, _is_stderr: bool, _bytes: &[u8]) {}
}
