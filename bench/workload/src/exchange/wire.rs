//! Messages on a stream socket.

use alloc::vec;
use alloc::vec::Vec;

use super::request::{Operation, REQUEST_BYTES, Request};
use crate::Errno;
use crate::random::Random;
use crate::sys::{File, check, retry};

/// Bytes of a message that are always checked.
const PREFIX_BYTES: usize = 8;

/// The message of that seed.
pub(crate) fn message(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let words = core::iter::repeat_with(|| random.next().to_le_bytes());
    let mut message: Vec<u8> = words.take(bytes.div_ceil(8)).flatten().collect();
    message.truncate(bytes);
    message
}

/// One end of a connection.
pub(crate) struct Wire {
    socket: File,
}

impl Wire {
    /// Over a connected socket.
    pub(crate) fn new(socket: File) -> Wire {
        Wire { socket }
    }

    /// Makes a request.
    pub(crate) fn ask(&self, request: Request) -> Result<(), Errno> {
        self.send(&request.to_bytes())
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let sent = retry(|| self.socket.write(bytes))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Receives until `bytes` is full; false at the end of the stream.
    pub(crate) fn receive(&self, bytes: &mut [u8]) -> Result<bool, Errno> {
        let mut filled = 0;
        while filled < bytes.len() {
            match retry(|| self.socket.read(&mut bytes[filled..]))? {
                0 => return Ok(false),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// Receives so many messages into `buffer`, which is as long as each: how many came, and how
    /// many of them are not as `expected`.
    pub(crate) fn take(
        &self,
        request: Request,
        expected: &[u8],
        buffer: &mut [u8],
    ) -> Result<(u64, u64), Errno> {
        let mut wrong = 0;
        for seen in 0..request.count {
            if !self.receive(buffer)? {
                return Ok((seen, wrong));
            }
            let length = if request.is_checked { buffer.len() } else { PREFIX_BYTES };
            wrong += u64::from(buffer[..length] != expected[..length]);
        }
        Ok((request.count, wrong))
    }

    /// What a sink has to say in the end.
    pub(crate) fn verdict(&self) -> Result<(u64, u64), Errno> {
        let mut words = [[0; 8]; 2];
        self.receive(words.as_flattened_mut())?;
        Ok((u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])))
    }
}

/// Has a TCP socket send at once what it is given.
pub(super) fn no_delay(socket: &File) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: `on` is valid for reading of `length`.
    check(unsafe {
        let on = (&raw const on).cast();
        libc::setsockopt(socket.fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, on, length)
    })
    .map(drop)
}

/// Serves a box that has connected, until it ends the connection or asks for something odd. The
/// descriptor is this function's to close. `is_tcp` says what kind of socket it is.
///
/// # Errors
/// What the kernel answered.
pub fn serve(socket: i32, is_tcp: bool) -> Result<(), Errno> {
    let wire = Wire::new(File::from_raw(socket));
    if is_tcp {
        no_delay(&wire.socket)?;
    }
    let mut bytes = [0; REQUEST_BYTES];
    while wire.receive(&mut bytes)? {
        let Some(request) = Request::from_bytes(bytes) else { return Err(Errno(libc::EBADMSG)) };
        let message = message(request.seed, request.message_bytes as usize);
        let mut buffer = vec![0; message.len()];
        match request.operation {
            Operation::Echo => {
                for _ in 0..request.count {
                    if !wire.receive(&mut buffer)? {
                        return Ok(());
                    }
                    wire.send(&buffer)?;
                }
            }
            Operation::Sink => {
                let (seen, wrong) = wire.take(request, &message, &mut buffer)?;
                wire.send([seen.to_le_bytes(), wrong.to_le_bytes()].as_flattened())?;
            }
            Operation::Source => {
                for _ in 0..request.count {
                    wire.send(&message)?;
                }
            }
        }
    }
    Ok(())
}
