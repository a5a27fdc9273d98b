//! A box of a foreign runtime.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use super::enclosure::Enclosure;
use crate::backend::channel::Channel;
use crate::backend::instance::{Child, Instance, Reaped};
use crate::backend::memory::Scale;
use crate::backend::{Error, Output};

/// What a runtime has to be told before nothing is left of a box.
pub(super) struct Remains {
    /// There as long as the runtime knows of the box.
    pub(super) record: PathBuf,
    /// Removes it, whatever it does.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// The runtime's own process, which stays while its box runs.
pub(super) struct Boxed {
    child: Child,
    channels: Vec<Channel>,
    remains: Option<Remains>,
    enclosure: Rc<Enclosure>,
}

impl Boxed {
    /// Starts a runtime with the agent's channel, and `more` after it.
    pub(super) fn start(
        enclosure: &Rc<Enclosure>,
        command: Command,
        more: &[i32],
        remains: Option<Remains>,
    ) -> io::Result<Boxed> {
        use std::os::fd::AsRawFd;
        let (channel, boxs) = io::pipe()?;
        let (console, said) = io::pipe()?;
        let passed: Vec<i32> = [boxs.as_raw_fd()].into_iter().chain(more.iter().copied()).collect();
        let child = enclosure.spawn(command, &passed, said.into())?;
        let channels = vec![Channel::raw(channel.into()), Channel::console(console.into())];
        Ok(Boxed { child, channels, remains, enclosure: Rc::clone(enclosure) })
    }

    /// Has the runtime remove what it still knows of.
    fn remove(&mut self) -> io::Result<()> {
        let Some(remains) = self.remains.take().filter(|it| it.record.exists()) else {
            return Ok(());
        };
        let mut command = Command::new(&remains.program);
        command.args(&remains.arguments);
        let (code, said) = self.enclosure.finish(command)?;
        if remains.record.exists() {
            let program = remains.program.display();
            let why = format!("{program} left {}: {code}, {said}", remains.record.display());
            return Err(io::Error::other(why));
        }
        Ok(())
    }
}

impl Instance for Boxed {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    fn channels(&mut self) -> &mut [Channel] {
        &mut self.channels
    }

    fn reap(&mut self) -> Result<Reaped, Error> {
        self.child.reap().map_err(Error::drive("cannot reap the runtime's process"))
    }

    fn kill(&mut self) {
        self.child.kill();
    }

    fn scale(&self) -> Scale {
        self.child.scale()
    }

    fn conversation(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn clean(mut self: Box<Self>) -> Result<(), Error> {
        self.remove().map_err(Error::drive("cannot remove the runtime's box"))
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        if self.remains.is_some() {
            self.child.kill();
            // What is left in spite of it ends with the enclosure.
            let _ = self.remove();
        }
    }
}

/// The refusal of a box that is to be attended; none of these relays streams.
pub(super) fn refuse_streams(output: Output) -> Result<(), &'static str> {
    match output {
        Output::Null => Ok(()),
        Output::Captured | Output::Attended { .. } => {
            Err("streams of a command are not relayed; use `compare`, or another backend")
        }
    }
}
