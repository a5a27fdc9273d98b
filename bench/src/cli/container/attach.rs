//! `tare container attach`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use clap::Args;
use tare_container::Terminal;

use crate::held;
use crate::relay::{self, Ended, Far, Piece};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tare container attach web\n\n\
    Ctrl-P Ctrl-Q lets go of it: it runs on. The exit code is the container's if it ends meanwhile.")]
pub(in crate::cli) struct AttachArgs {
    /// The container, which was started with -d and -t
    name: String,
}

pub(super) fn run(args: &AttachArgs) -> anyhow::Result<u8> {
    let (record, _) = held::find(&args.name)?;
    anyhow::ensure!(
        record.has_terminal,
        "container {} has no terminal: start it with -t, or see tare container exec",
        args.name
    );
    let stream = UnixStream::connect(record.socket()).with_context(|| {
        format!("cannot attach to {}: only one that was started with -d can be", args.name)
    })?;
    let mut holder = Holder { stream, status: None };
    match relay::converse(&mut holder, true)? {
        Ended::Detached => Ok(crate::cli::exit::OK),
        Ended::There => Ok(holder.status.unwrap_or(crate::cli::exit::FAILED)),
    }
}

/// The process that holds the container.
struct Holder {
    stream: UnixStream,
    status: Option<u8>,
}

impl Far for Holder {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(match relay::receive(&mut self.stream)? {
            Some((Piece::Data, bytes)) => Some(bytes),
            Some((Piece::Status, bytes)) => {
                self.status = bytes.first().copied();
                None
            }
            Some((Piece::Size, _)) => Some(Vec::new()),
            None => None,
        })
    }

    fn tell(&mut self, bytes: &[u8]) -> io::Result<()> {
        relay::send(&mut self.stream, Piece::Data, bytes)
    }

    fn signal(&mut self, _: i32) -> bool {
        false
    }

    fn resize(&mut self, size: Terminal) -> io::Result<()> {
        let [a, b] = size.rows.to_le_bytes();
        let [c, d] = size.columns.to_le_bytes();
        relay::send(&mut self.stream, Piece::Size, &[a, b, c, d])
    }
}
